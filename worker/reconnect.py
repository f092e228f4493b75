"""Links by which users consent again, with signed states.

Without I/O. Source: Auth0, Authentication API, "Authorization Code Flow"; "Call an identity provider's API";
``connection_scope`` and ``access_type`` are passed on to the provider.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import jwt

from token_vault.secret import Secret

_ALGORITHM = "HS256"
# So that no other token signed with the same secret is accepted as a state.
_AUDIENCE = "urn:token-vault:reconnect"


class InvalidState(ValueError):
    """A state that is not the vault's, or has ended."""


@dataclass(frozen=True, slots=True)
class ReconnectState:
    """The contents of a state, for the operator's page.

    Attributes:
        tenant, connection, user_id: of the grant that needs a new consent.
        nonce: differs for each link; the page may store it to accept each link once only.
    """

    tenant: str
    connection: str
    user_id: str
    nonce: str


@dataclass(frozen=True, slots=True)
class ReconnectApplication:
    """The operator's application at Auth0 for new consents.

    Attributes:
        base_url: of the tenant or its custom domain, without a trailing slash.
        client_id, redirect_uri, scope, audience: of the authorization request.
        secret: signs states.
        lifetime: of a state.
    """

    base_url: str
    client_id: str
    redirect_uri: str
    scope: str
    secret: Secret
    lifetime: timedelta
    audience: str | None = None


def reconnect_link(
    application: ReconnectApplication,
    *,
    tenant: str,
    connection: str,
    user_id: str,
    scopes: Iterable[str],
    login_hint: str | None,
    now: datetime,
) -> str:
    """Return the URL by which a user consents again.

    Args:
        scopes: of the provider, granted before or missing.
        login_hint: the account's e-mail address, if known.
    """
    provider_scopes = list(dict.fromkeys(scopes))
    parameters = {
        "response_type": "code",
        "client_id": application.client_id,
        "redirect_uri": application.redirect_uri,
        "scope": application.scope,
        "connection": connection,
        # Google and similar providers need these to issue a refresh token; others ignore them.
        "access_type": "offline",
        "prompt": "consent",
        "state": _sign(application, tenant, connection, user_id, now),
    }
    optional = {
        "audience": application.audience,
        # Auth0 separates them by commas, so a scope with a comma cannot be sent.
        "connection_scope": ",".join(scope for scope in provider_scopes if "," not in scope),
        "login_hint": login_hint,
    }
    parameters |= {name: value for name, value in optional.items() if value}
    return f"{application.base_url}/authorize?{urlencode(parameters)}"


def _sign(
    application: ReconnectApplication, tenant: str, connection: str, user_id: str, now: datetime
) -> str:
    claims = {
        "aud": _AUDIENCE,
        "sub": user_id,
        "tenant": tenant,
        "connection": connection,
        "jti": secrets.token_urlsafe(16),
        "iat": int(now.timestamp()),
        "exp": int((now + application.lifetime).timestamp()),
    }
    return jwt.encode(claims, application.secret.reveal(), algorithm=_ALGORITHM)


def read_state(state: str, secret: Secret, now: datetime) -> ReconnectState:
    """Verify the state that came back.

    Raises:
        InvalidState: the vault did not sign it, or it has ended.
    """
    try:
        claims = jwt.decode(
            state,
            secret.reveal(),
            algorithms=[_ALGORITHM],
            audience=_AUDIENCE,
            # The end is checked below, by the caller's clock.
            options={"require": ["exp", "sub", "jti"], "verify_exp": False, "verify_iat": False},
        )
    except jwt.InvalidTokenError as error:
        raise InvalidState(f"the state is not one of this vault's: {type(error).__name__}") from None
    tenant, connection = claims.get("tenant"), claims.get("connection")
    if not isinstance(tenant, str) or not isinstance(connection, str):
        raise InvalidState("the state names no grant")
    if not isinstance(claims["exp"], int) or now >= datetime.fromtimestamp(claims["exp"], UTC):
        raise InvalidState("the state has ended: ask for another link")
    return ReconnectState(tenant, connection, claims["sub"], claims["jti"])
