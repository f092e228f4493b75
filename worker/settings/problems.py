"""How what pydantic finds wrong is told to the operator."""

from __future__ import annotations

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """Name each place and what is wrong there; never the input, which may be a secret."""
    return "; ".join(
        f"[{'.'.join(str(part) for part in problem['loc'])}] {problem['msg']}"
        if problem["loc"]
        else problem["msg"]
        for problem in error.errors(include_input=False, include_context=False, include_url=False)
    )
