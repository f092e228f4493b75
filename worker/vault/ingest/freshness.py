"""Decides which incoming tokens are newer than the stored ones.

Pure: the promise «never older, never empty» is decided here.

Auth0's copy is as old as the user's last login, while ours is renewed. So an incoming token is stored only when it
differs from what Auth0 last showed, and each of the two tokens is judged by itself: an identity with a new
access token may still show the refresh token of a year ago, which we have rotated many times since.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Incoming:
    """What Auth0 shows now.

    Attributes:
        access, refresh: fingerprints; None where Auth0 shows no such token.
        updated_at: of the user; None where Auth0 has no such time (connections).
        issued_at: when the access token was issued, None where nothing sound says so.
    """

    access: bytes | None
    refresh: bytes | None
    updated_at: datetime | None
    issued_at: datetime | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What the vault holds, and what Auth0 showed last.

    Attributes:
        observed_access, observed_refresh: fingerprints of what was shown last.
        observed_updated_at: the newest ``updated_at`` so far.
        has_access: whether an access token is stored.
        expires_at: its end, None where unknown.
        obtained_at: when it was issued, None where unknown.
        renewable: whether the vault can renew it.
        from_auth0: the access token is one that Auth0 showed: we have not renewed it since.
        imported_at: when another store's token was imported, None where none was.
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
    """What to do with what Auth0 shows.

    Attributes:
        stale: Auth0 answered with an older state than it has shown before; nothing of it counts.
        access, refresh: whether to store that token.
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
        return Freshness()  # the copy that the other store once had from Auth0, and renewed since
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

    No new refresh token came with it.
    """
    if not stored.has_access or not stored.renewable:
        return True
    if stored.from_auth0:
        return True  # both are Auth0's, and what it shows now is not behind what it showed then
    if stored.expires_at is not None and stored.expires_at <= now:
        return True
    # Changed, but it may have been issued before our last renewal: only a known, later time of issue counts.
    return incoming.issued_at is not None and (
        stored.obtained_at is None or incoming.issued_at >= stored.obtained_at
    )
