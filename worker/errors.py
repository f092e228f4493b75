"""Every error the vault raises on purpose, as one tree.

    VaultError
    ├── ConfigurationError           the operator mends a setting, a key or a grant at Auth0
    │   ├── CannotOpen               a ciphertext does not open with these keys, or not in this place
    │   │   └── OutOfPlace           it opens, but was sealed for another place
    │   └── MissingScope             the machine-to-machine application lacks a Management API scope
    ├── TokenNotFound                nothing is stored for what was asked
    ├── ReauthorizationRequired      the user must consent again
    ├── TokenExpired                 the token has ended and nobody can renew it
    ├── TemporarilyUnavailable       wait, then ask again
    ├── AccessDenied                 the caller may not read this
    └── Auth0Error                   the Management API did not give what was asked
        ├── Auth0Unreachable         no answer at all
        ├── Auth0RateLimited         429, after the retries
        ├── Auth0Refused             401 or 403: credentials, audience, client grant
        ├── Auth0NotFound            404: no such user or connection
        ├── PagingWindowExceeded     more users than one query can show
        ├── Auth0LogGone             the tenant log no longer has the entry to go on from
        ├── Auth0EventsGone          the event stream no longer has the offset to go on from
        └── MalformedAnswer          an answer that does not read as documented

No message holds a token, a client secret or a key. Each says what is wrong, where, and who mends it.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from datetime import datetime
from typing import Any


class VaultError(Exception):
    """Base of all errors that the vault raises on purpose; each can be pickled, to cross into another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By itself ``pickle`` would call the class with the message alone, which several of them refuse.
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ConfigurationError(VaultError):
    """A setting is missing or wrong; the message names it and the mend."""


class CannotOpen(ConfigurationError):
    """A ciphertext does not open with the keys at hand, or was found in another place than its own."""


class OutOfPlace(CannotOpen):
    """A ciphertext was found in another place than the one it was sealed for."""


class MissingScope(ConfigurationError):
    """The machine-to-machine application lacks scopes of the Management API."""

    def __init__(self, scopes: Sequence[str], breaks: str) -> None:
        self.scopes = tuple(scopes)
        self.breaks = breaks
        super().__init__(
            f"Auth0 granted this application no {', '.join(self.scopes)}: {breaks}. "
            "Authorize the scope for it at Auth0 under Applications > APIs > Auth0 Management API."
        )


class TokenNotFound(VaultError):
    """Nothing is stored for this user and connection."""


class ReauthorizationRequired(VaultError):
    """The grant is dead: only the user can mend it, by signing in and consenting again.

    Attributes:
        reason: a short code, e.g. ``invalid_grant`` or ``lost_in_rotation``.
        since: when the vault learned of it (UTC), None where unknown.
    """

    def __init__(self, reason: str, since: datetime | None, message: str | None = None) -> None:
        self.reason = reason
        self.since = since
        super().__init__(
            message
            or f"the user must consent again ({reason}"
            + (f", since {since.isoformat()}" if since else "")
            + ")"
        )


class TokenExpired(VaultError):
    """The token has ended, or ends too soon, and there is no way to renew it."""


class TemporarilyUnavailable(VaultError):
    """No fresh token right now; asking again may work.

    Attributes:
        retry_after: seconds after which asking again is worthwhile.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message, retry_after)  # Celery makes a task's error anew from these

    def __str__(self) -> str:
        return str(self.args[0])


class AccessDenied(VaultError):
    """The caller may not read what it asked for."""


class Auth0Error(VaultError):
    """The Management API did not give what was asked.

    Attributes:
        status: the HTTP status, None where no answer came.
        code: Auth0's ``errorCode`` or OAuth ``error``, None where it gave none.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


class Auth0Unreachable(Auth0Error):
    """No answer came: DNS, connection, TLS, time-out, or 5xx after the retries."""


class Auth0RateLimited(Auth0Error):
    """429 after the retries.

    Attributes:
        retry_after: seconds until the tenant's next tokens, as Auth0's headers say.
    """

    def __init__(self, message: str, *, retry_after: float, code: str | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message, status=429, code=code)


class Auth0Refused(Auth0Error):
    """401 or 403: wrong credentials, wrong audience, or no client grant."""


class Auth0NotFound(Auth0Error):
    """404: there is no such user or connection at the tenant."""


class PagingWindowExceeded(Auth0Error):
    """The query has more records than Auth0 lets anyone page through (1,000)."""


class Auth0LogGone(Auth0Error):
    """The tenant log cannot be read on from this entry: it is past the log's retention, or never was."""


class Auth0EventsGone(Auth0Error):
    """The event stream cannot be resumed from this offset: it is too old, or never was."""


class MalformedAnswer(Auth0Error):
    """An answer that does not read as the Management API documents it."""


CONCERNS_ALL = (Auth0Unreachable, Auth0RateLimited, Auth0Refused)
"""Failures that any call would meet just now: they say nothing of the user or the search that was asked for."""
