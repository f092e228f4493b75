"""Every error the vault raises on purpose, as one tree.

    VaultError
    ├── ConfigurationError           the operator fixes a setting, a key or a grant at Auth0
    │   └── CannotDecrypt            these keys do not decrypt a ciphertext, or not in this context
    │       └── WrongContext         they do, but it was encrypted for another context
    ├── TokenNotFound                nothing is stored for what was asked
    ├── AmbiguousAccount             the user has several accounts: name one
    ├── ReauthorizationRequired      the user must consent again
    ├── MissingScopes                the token may not do what the app needs
    ├── TokenExpired                 the token has ended and nobody can renew it
    ├── TemporarilyUnavailable       wait, then ask again
    └── AccessDenied                 the caller may not read this

No message holds a token, a client secret or a key. Each says what is wrong, where, and who fixes it.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from datetime import datetime
from typing import Any


class VaultError(Exception):
    """Base of all errors that the vault raises on purpose.

    Each can be pickled, to cross into another process.

    Attributes:
        user_id: the user of the token asked for; empty for an admin token, None if no token was asked for.
        connection: the connection of the token asked for; None if none was asked for.
        server: the server that could not be reached, as host and port; None if not known.
    """

    user_id: str | None = None
    connection: str | None = None
    server: str | None = None

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        if self.server is not None:
            message = f"{message} ({self.server})"
        if self.connection is None:
            return message
        who = f"user {self.user_id}" if self.user_id else "admin"
        return f"{message} ({who}, connection {self.connection})"

    def __reduce__(self) -> tuple[Any, ...]:
        # By default ``pickle`` calls the class with the message alone, but several classes need more arguments.
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ConfigurationError(VaultError):
    """A setting is missing or wrong; the message says which."""


class CannotDecrypt(ConfigurationError):
    """The given keys do not decrypt a ciphertext here."""


class WrongContext(CannotDecrypt):
    """A ciphertext was encrypted for another context."""


class TokenNotFound(VaultError):
    """Nothing is stored for this user and connection."""


class AmbiguousAccount(VaultError):
    """The user has several accounts, and none was named.

    Attributes:
        accounts: the user's ids at the provider; pass one of them as ``account``.
    """

    def __init__(self, accounts: Sequence[str]) -> None:
        self.accounts = tuple(accounts)
        super().__init__(f"several accounts, name one of them by account: {', '.join(self.accounts)}")


class ReauthorizationRequired(VaultError):
    """The grant is dead: the user must consent again.

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


class MissingScopes(VaultError):
    """The grant lacks scopes: the user must consent again.

    Attributes:
        granted: what the token may do.
        missing: the needed scopes that it lacks.
    """

    def __init__(self, granted: Sequence[str], missing: Sequence[str]) -> None:
        self.granted = tuple(granted)
        self.missing = tuple(missing)
        super().__init__(f"the user must consent to more scopes: {' '.join(self.missing)}")


class TokenExpired(VaultError):
    """The token ends too soon, and nobody can renew it."""


class TemporarilyUnavailable(VaultError):
    """No fresh token right now; asking again may work.

    Attributes:
        retry_after: seconds after which asking again is worthwhile.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message, retry_after)  # Celery rebuilds a task's error from these arguments


class AccessDenied(VaultError):
    """The caller may not read what it asked for."""
