"""How what pydantic finds wrong is told to the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def explain(error: ValidationError) -> str:
    """Name each place and what is wrong there.

    Never the input, which may be a secret.
    """
    return "; ".join(
        f"[{'.'.join(str(part) for part in problem['loc'])}] {_said(problem)}"
        if problem["loc"]
        else _said(problem)
        for problem in error.errors(include_input=False, include_context=False, include_url=False)
    )


def _said(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    return problem["msg"].removeprefix("Value error, ")
