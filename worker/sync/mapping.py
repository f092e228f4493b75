"""Maps Auth0's users and connections to grants, without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from token_vault.grant_key import GrantKey
from worker import auth0, providers
from worker.providers.answer import texts
from worker.resolved_connections import ResolvedConnection
from worker.token_pair import TokenPair
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.schedule import EAGER

Connections = Mapping[tuple[str, str], ResolvedConnection]
"""Connections by tenant and name."""


def incoming_grants(user: auth0.Auth0User, tenant: str, connections: Connections) -> Iterator[IncomingGrant]:
    """Yield the grants of a user's identities with tokens.

    Only for a user with a single identity is ``last_login`` the time when the tokens were issued. For linked accounts it
    does not say which of them logged in, so their expiry is unknown.
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
                identity.access_token,
                identity.refresh_token,
                _expires_at(issued_at, identity.expires_in),
                extra=_extra(identity, connection),
            ),
            updated_at=user.updated_at,
            issued_at=issued_at,
            user_created_at=user.created_at,
            exchangeable=_is_exchangeable(connection),
            policy=connection.policy if connection else EAGER,
        )


def incoming_admin_grant(
    connection: auth0.Auth0Connection, tenant: str, now: datetime
) -> IncomingGrant | None:
    """Return the admin grant in a connection's options, if any."""
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


def is_whole(user: auth0.Auth0User) -> bool:
    """Whether all identities of a user were read.

    Every user at Auth0 has an identity, so an answer without one is incomplete.
    """
    return bool(user.identities) and not user.malformed


def identity_keys(users: Iterable[auth0.Auth0User], tenant: str) -> list[GrantKey]:
    """Return the keys of all identities of users."""
    return [
        GrantKey(tenant, identity.connection, user.user_id, identity.user_id)
        for user in users
        for identity in user.identities
    ]


def has_tokens(user: auth0.Auth0User) -> bool:
    """Whether any identity shows a token."""
    return any(identity.access_token or identity.refresh_token for identity in user.identities)


def tokenless_identities(
    users: Iterable[auth0.Auth0User], tenant: str
) -> Iterator[tuple[GrantKey, datetime, datetime | None]]:
    """Yield the identities without a token.

    Each with the times of its user's last change and creation.
    """
    for user in users:
        for identity in user.identities:
            if user.updated_at and not (identity.access_token or identity.refresh_token):
                key = GrantKey(tenant, identity.connection, user.user_id, identity.user_id)
                yield key, user.updated_at, user.created_at


def lists_may_hide_tokens(user: auth0.Auth0User) -> bool:
    """Whether reading the user by id may show more tokens."""
    return any(
        identity.provider not in providers.TOKENLESS_STRATEGIES
        and not identity.is_oauth1
        and identity.access_token is None
        and identity.refresh_token is None
        for identity in user.identities
    )


def _expires_at(issued_at: datetime | None, expires_in: float | None) -> datetime | None:
    """Return when a token expires; None if unknown.

    A time beyond the year 9999 counts as unknown.
    """
    if issued_at is None or expires_in is None:
        return None
    try:
        return issued_at + timedelta(seconds=expires_in)
    except OverflowError:
        return None


def _extra(identity: auth0.Auth0Identity, connection: ResolvedConnection | None) -> dict[str, str]:
    """Return the values beside the token, as the provider declares."""
    if connection is None or connection.provider is None:
        return {}
    return texts(identity.profile, connection.provider.keeps)


def _is_exchangeable(connection: ResolvedConnection | None) -> bool:
    """Whether the provider renews by the access token itself."""
    if connection is None or connection.provider is None:
        return False
    return not connection.provider.needs_refresh_token
