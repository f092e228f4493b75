"""What the exit code of a command says."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from token_vault.errors import (
    AccessDenied,
    AmbiguousAccount,
    ConfigurationError,
    MissingScopes,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    TokenNotFound,
    VaultError,
)


class ExitCode(IntEnum):
    """What a command's exit code says.

    Part of the public surface; ``MEANINGS`` says it for people.
    """

    OK = 0
    FAILED = 1
    USAGE_ERROR = 2
    NOT_FOUND = 3
    CONSENT_NEEDED = 4
    EXPIRED = 5
    TEMPORARILY_UNAVAILABLE = 6
    AMBIGUOUS_ACCOUNT = 7
    ACCESS_DENIED = 8
    INTERRUPTED = 130
    """SIGINT, as shells count signals: 128 and the signal's number."""

    @classmethod
    def of(cls, error: VaultError) -> ExitCode:
        """Return the error's own code, else FAILED."""
        known = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
        return _of_auth0(error) if known is None else known

    @classmethod
    def of_several(cls, codes: Iterable[ExitCode]) -> ExitCode:
        """Return the code that all failures share, else FAILED."""
        failures = set(codes) - {cls.OK}
        return cls.OK if not failures else failures.pop() if len(failures) == 1 else cls.FAILED


def _of_auth0(error: VaultError) -> ExitCode:
    from worker.auth0.errors import Auth0RateLimited, Auth0Refused, Auth0Unreachable

    if isinstance(error, Auth0Refused):
        return ExitCode.USAGE_ERROR
    waits = isinstance(error, Auth0Unreachable | Auth0RateLimited)
    return ExitCode.TEMPORARILY_UNAVAILABLE if waits else ExitCode.FAILED


MEANINGS = {
    ExitCode.OK: "what was asked for holds",
    ExitCode.FAILED: "it does not hold",
    ExitCode.USAGE_ERROR: "usage or configuration is wrong, also for Auth0, or there is no vault",
    ExitCode.NOT_FOUND: "the vault has no such token",
    ExitCode.CONSENT_NEEDED: "the user must consent again",
    ExitCode.EXPIRED: "the token ends too soon, and nothing can renew it",
    ExitCode.TEMPORARILY_UNAVAILABLE: "temporarily unavailable, or Auth0 is: ask again later",
    ExitCode.AMBIGUOUS_ACCOUNT: "the user has several accounts: name one by --account",
    ExitCode.ACCESS_DENIED: "the caller may not read it",
    ExitCode.INTERRUPTED: "interrupted",
}

_CODES: dict[type[VaultError], ExitCode] = {
    ConfigurationError: ExitCode.USAGE_ERROR,
    TokenNotFound: ExitCode.NOT_FOUND,
    ReauthorizationRequired: ExitCode.CONSENT_NEEDED,
    MissingScopes: ExitCode.CONSENT_NEEDED,
    TokenExpired: ExitCode.EXPIRED,
    TemporarilyUnavailable: ExitCode.TEMPORARILY_UNAVAILABLE,
    AmbiguousAccount: ExitCode.AMBIGUOUS_ACCOUNT,
    AccessDenied: ExitCode.ACCESS_DENIED,
}
