"""Checks that are made whatever another one raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from token_vault.errors import VaultError
from worker.cli.unexpected import explain_unexpected


class CheckResult(StrEnum):
    """How a check came out."""

    OK = "ok"
    HINT = "hint"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        message: what was found, and where something is wrong, the fix.
    """

    name: str
    result: CheckResult
    message: str


def attempt(name: str, look: Callable[[], Iterable[Check]], checks: list[Check]) -> bool:
    """Add a look's checks; its own failure is one.

    Whatever one of them raises, the others are made.
    """
    try:
        checks += look()
    except Exception as error:
        checks.append(_failed(name, error))
        return False
    return True


async def attempt_async(name: str, look: Awaitable[Iterable[Check]], checks: list[Check]) -> None:
    """As ``attempt``, for asyncio."""
    try:
        checks += await look
    except Exception as error:
        checks.append(_failed(name, error))


def _failed(name: str, error: Exception) -> Check:
    said = error if isinstance(error, VaultError) else explain_unexpected(error)
    return Check(name, CheckResult.FAIL, str(said))
