"""Errors of the Management API, as one tree below ``VaultError``.

ConfigurationError
└── MissingScope             the machine-to-machine application lacks a Management API scope
VaultError
└── Auth0Error               a call to the Management API failed
├── Auth0Unreachable     no answer at all
├── Auth0RateLimited     429, after the retries
├── Auth0Refused         401 or 403: credentials, audience, client grant
├── Auth0NotFound        404: no such user or connection
├── PagingWindowExceeded more users than one query can show
├── Auth0LogGone         the tenant log no longer has the entry to continue from
├── Auth0EventsGone      the event stream no longer has the offset to continue from
└── MalformedAnswer      an answer that is not as documented
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from token_vault.errors import ConfigurationError, VaultError


class MissingScope(ConfigurationError):
    """The machine-to-machine application lacks scopes of the Management API."""

    def __init__(self, scopes: Sequence[str], breaks: str) -> None:
        self.scopes = tuple(scopes)
        self.breaks = breaks
        super().__init__(
            f"Auth0 granted this application no {', '.join(self.scopes)}: {breaks}. "
            "Authorize the scope for it at Auth0 under Applications > APIs > Auth0 Management API."
        )


class Auth0Error(VaultError):
    """A call to the Management API failed.

    Attributes:
        status: the HTTP status; None if there was no answer.
        code: Auth0's ``errorCode`` or OAuth's ``error``; None if there was none.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


class Auth0Unreachable(Auth0Error):
    """No answer came, or 5xx after the retries."""


class Auth0RateLimited(Auth0Error):
    """429 after the retries.

    Attributes:
        retry_after: seconds until the tenant's rate limit allows the next calls, by Auth0's headers.
    """

    def __init__(self, message: str, *, retry_after: float, code: str | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message, status=429, code=code)

    @classmethod
    def spent(cls, where: str, seconds: float, *, code: str | None = None) -> Self:
        """Make the error of a used-up rate limit."""
        return cls(
            f"{where}: the tenant's rate limit is used up for {seconds:.1f} s more; "
            "it is shared with every other program of the tenant",
            retry_after=seconds,
            code=code,
        )


class Auth0Refused(Auth0Error):
    """401 or 403: credentials, audience or client grant are wrong."""


class Auth0NotFound(Auth0Error):
    """404: the tenant has no such user or connection."""


class PagingWindowExceeded(Auth0Error):
    """The query has more records than Auth0 shows: 1,000."""


class Auth0LogGone(Auth0Error):
    """The tenant log no longer has this checkpoint's entry."""


class Auth0EventsGone(Auth0Error):
    """The event stream no longer has this offset."""


class MalformedAnswer(Auth0Error):
    """The answer is not as Auth0 documents it."""


CALL_INDEPENDENT_ERRORS = (Auth0Unreachable, Auth0RateLimited, Auth0Refused)
"""Failures that would affect any call at the moment, so they say nothing about the user or query of this one."""
