"""From what the Management API shows to what the vault is given. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from token_vault.grant_key import GrantKey
from worker import auth0, providers
from worker.resolved_connections import ResolvedConnection
from worker.token_pair import TokenPair
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.schedule import EAGER


def incoming_grants(
    user: auth0.Auth0User, tenant: str, connections: Mapping[tuple[str, str], ResolvedConnection]
) -> Iterator[IncomingGrant]:
    """Yield the grants of a user's identities, those with tokens that can be vaulted.

    ``last_login`` tells when the tokens were issued only where there is one identity: with linked accounts it
    says nothing about which of them logged in, so their expiry is unknown.
    """
    issued_at = user.last_login if len(user.identities) == 1 and not user.malformed else None
    for identity in user.identities:
        if identity.is_oauth1 or not (identity.access_token or identity.refresh_token):
            continue
        connection = connections.get((tenant, identity.connection))
        yield IncomingGrant(
            key=GrantKey(tenant, identity.connection, user.user_id, identity.user_id),
            strategy=identity.provider,
            pair=TokenPair(
                identity.access_token, identity.refresh_token, _ends(issued_at, identity.expires_in)
            ),
            updated_at=user.updated_at,
            issued_at=issued_at,
            user_created_at=user.created_at,
            exchangeable=_exchangeable(connection),
            policy=connection.policy if connection else EAGER,
        )


def incoming_admin_grant(
    connection: auth0.Auth0Connection, tenant: str, now: datetime
) -> IncomingGrant | None:
    """Return the admin grant that an OAuth consent left in a connection's options, if any."""
    pair = providers.admin_tokens(connection.strategy, connection.options, now=now)
    if pair is None:
        return None
    return IncomingGrant(
        key=GrantKey(tenant, connection.name),
        strategy=connection.strategy,
        pair=pair,
        updated_at=None,
        issued_at=None,
    )


def has_tokens(user: auth0.Auth0User) -> bool:
    """Whether any identity shows a token."""
    return any(identity.access_token or identity.refresh_token for identity in user.identities)


def tokenless_identities(
    users: Iterable[auth0.Auth0User], tenant: str
) -> Iterator[tuple[GrantKey, datetime, datetime | None]]:
    """Yield the identities of users that show no token, with their users' last change and when they were made."""
    for user in users:
        for identity in user.identities:
            if user.updated_at and not (identity.access_token or identity.refresh_token):
                key = GrantKey(tenant, identity.connection, user.user_id, identity.user_id)
                yield key, user.updated_at, user.created_at


def lists_may_hide_tokens(user: auth0.Auth0User) -> bool:
    """Whether a list entry without tokens may have some when the user is asked for by id."""
    return any(
        identity.provider not in providers.TOKENLESS_STRATEGIES
        and not identity.is_oauth1
        and identity.access_token is None
        and identity.refresh_token is None
        for identity in user.identities
    )


def _ends(issued_at: datetime | None, expires_in: float | None) -> datetime | None:
    """When a token ends that was issued then; None where either is unknown, or no calendar goes so far."""
    if issued_at is None or expires_in is None:
        return None
    try:
        return issued_at + timedelta(seconds=expires_in)
    except OverflowError:
        return None


def _exchangeable(connection: ResolvedConnection | None) -> bool:
    if connection is None or connection.provider is None:
        return False
    return not connection.provider.needs_refresh_token
