"""Decides which incoming tokens are newer than the stored ones.

Without I/O. The promise «never older, never empty» is kept here.

Auth0's copy is as old as the user's last login, while the vault's tokens are renewed. So an incoming token is stored
only if it differs from what Auth0 last showed. The two tokens are compared separately: an identity with a new access
token may still show a refresh token that is a year old, and that the vault has rotated many times since.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


# Not frozen: a frozen one takes twice as long to make, and a page has a hundred of them.
@dataclass(slots=True)
class Incoming:
    """What Auth0 shows now.

    Attributes:
        access, refresh: fingerprints; None if Auth0 shows no such token.
        updated_at: of the user; None for connections, of which Auth0 has no such time.
        issued_at: when the access token was issued; None if not reliably known.
    """

    access: bytes | None
    refresh: bytes | None
    updated_at: datetime | None
    issued_at: datetime | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What the vault has, and what Auth0 showed last.

    Attributes:
        observed_access, observed_refresh: fingerprints of the tokens that Auth0 showed last.
        observed_updated_at: the newest ``updated_at`` so far.
        has_access: whether an access token is stored.
        expires_at: its end; None if unknown.
        obtained_at: when it was issued; None if unknown.
        renewable: whether the vault can renew it.
        from_auth0: the access token came from Auth0, and was not renewed since.
        imported_at: when a token of another store was imported; None if none was.
    """

    observed_access: bytes | None
    observed_refresh: bytes | None
    observed_updated_at: datetime | None
    has_access: bool
    expires_at: datetime | None
    obtained_at: datetime | None
    renewable: bool
    from_auth0: bool
    imported_at: datetime | None = None

    @property
    def is_unobserved(self) -> bool:
        """Whether it was imported, and Auth0 has shown nothing yet."""
        return self.imported_at is not None and self.observed_access is None and self.observed_refresh is None


@dataclass(frozen=True, slots=True)
class Freshness:
    """Which of the incoming tokens to store.

    Attributes:
        stale: Auth0 answered with an older state than before; all of it is ignored.
        access, refresh: whether to store this token.
    """

    stale: bool = False
    access: bool = False
    refresh: bool = False


def compare_freshness(stored: Stored | None, incoming: Incoming, now: datetime) -> Freshness:
    """Decide which of the incoming tokens to store."""
    if stored is None:
        return Freshness(access=incoming.access is not None, refresh=incoming.refresh is not None)
    if stored.observed_updated_at is not None and (
        incoming.updated_at is None or incoming.updated_at < stored.observed_updated_at
    ):
        return Freshness(stale=True)
    if stored.renewable and stored.is_unobserved and not _is_login_since_import(stored, incoming):
        return Freshness()  # the other store once had this copy from Auth0, and has renewed it since
    refresh = incoming.refresh is not None and incoming.refresh != stored.observed_refresh
    access = incoming.access is not None and incoming.access != stored.observed_access
    return Freshness(refresh=refresh, access=access and (refresh or _access_is_newer(stored, incoming, now)))


def _is_login_since_import(stored: Stored, incoming: Incoming) -> bool:
    return (
        incoming.issued_at is not None
        and stored.imported_at is not None
        and incoming.issued_at > stored.imported_at
    )


def _access_is_newer(stored: Stored, incoming: Incoming, now: datetime) -> bool:
    """Return whether a changed access token is the newer one.

    It came without a new refresh token.
    """
    if not stored.has_access or not stored.renewable:
        return True
    if stored.from_auth0:
        return True  # both came from Auth0, and the incoming one is not from an older state
    if stored.expires_at is not None and stored.expires_at <= now:
        return True
    # It has changed, but may have been issued before the last renewal: it is newer only if known to be issued later.
    return incoming.issued_at is not None and (
        stored.obtained_at is None or incoming.issued_at >= stored.obtained_at
    )
