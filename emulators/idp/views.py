"""A provider's memory, for tests and the state file.

Tests see digests instead of tokens.
"""

from typing import Any

from emulators.idp.tokens import AccessToken, Grant, RefreshToken, digest


def entry(grant: Grant, access: AccessToken, now: float) -> dict[str, Any]:
    """Show one pair of the ledger."""
    refresh = access.refresh
    return {
        "grant": grant.id,
        "issued_at": access.issued_at,
        "expires_at": access.expires_at,
        "access": digest(access.value),
        "access_live": access.live(now),
        "access_revoked": access.revoked,
        "refresh": None if refresh is None else digest(refresh.value),
        "live": refresh is not None and not refresh.revoked and refresh.spent_at is None,
        "spent": refresh is not None and refresh.spent_at is not None,
        "revoked": refresh is not None and refresh.revoked,
        "presented": 0 if refresh is None else refresh.presented,
        "presented_at": [] if refresh is None else refresh.presented_at,
        "spent_at": None if refresh is None else refresh.spent_at,
        "revocations": grant.revocations,
    }


def family(grant: Grant, now: float) -> dict[str, Any]:
    """Show a family with each refresh token's life."""
    live = [token for token in grant.refresh if not token.revoked and token.spent_at is None]
    access = [token for token in grant.access if token.live(now)]
    connection, subject = grant.identity
    return {
        "grant": grant.id,
        "provider": grant.provider,
        "connection": connection,
        "subject": subject,
        "live_refresh": [digest(token.value) for token in live],
        "live_access": [digest(token.value) for token in access],
        "revocations": grant.revocations,
        "refresh": [_spending(token) for token in grant.refresh],
    }


def _spending(token: RefreshToken) -> dict[str, Any]:
    return {
        "digest": digest(token.value),
        "issued_at": token.issued_at,
        "presented_at": token.presented_at,
        "spent_at": token.spent_at,
        "revoked": token.revoked,
    }


def dump(grant: Grant) -> dict[str, Any]:
    """Write a family for the state file."""
    place = {id(token): at for at, token in enumerate(grant.refresh)}
    return {
        "id": grant.id,
        "provider": grant.provider,
        "client_id": grant.client_id,
        "identity": list(grant.identity),
        "scope": grant.scope,
        "refresh": [
            [r.value, r.issued_at, r.used_at, r.presented, r.spent_at, r.revoked] for r in grant.refresh
        ],
        "access": [
            [a.value, a.issued_at, a.expires_at, place.get(id(a.refresh)), a.revoked] for a in grant.access
        ],
    }


def load(raw: dict[str, Any]) -> Grant:
    """Read what `dump` wrote.

    Raises KeyError, TypeError or ValueError when it is something else.
    """
    connection, subject = raw["identity"]
    grant = Grant(raw["id"], raw["provider"], raw["client_id"], (connection, subject), raw["scope"])
    grant.refresh = [RefreshToken(*row) for row in raw["refresh"]]
    for value, issued_at, expires_at, place, revoked in raw["access"]:
        refresh = None if place is None else grant.refresh[place]
        grant.access.append(AccessToken(value, issued_at, expires_at, refresh, revoked))
    return grant
