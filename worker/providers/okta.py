"""Okta, and another Auth0 tenant as identity provider.

The endpoint follows from the connection's domain.

https://developer.okta.com/docs/guides/refresh-tokens/main/
https://auth0.com/docs/secure/tokens/refresh-tokens/use-refresh-tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from worker.providers.base import Provider, host_option


@dataclass(frozen=True, kw_only=True, eq=False)
class Okta(Provider):
    """Has one endpoint per organisation and per authorization server."""

    def endpoint(self, options: Mapping[str, Any]) -> str | None:
        """Return the authorization server's or the organisation's endpoint.

        ``issuer`` names the authorization server.
        """
        host = host_option(options, "domain", "issuer")
        issuer = options.get("issuer")
        if host and isinstance(issuer, str) and "/oauth2/" in issuer:
            return f"{issuer.strip().rstrip('/')}/v1/token"
        return host and f"https://{host}/oauth2/v1/token"


@dataclass(frozen=True, kw_only=True, eq=False)
class Auth0Tenant(Provider):
    """Refuses a dead refresh token with status 403 and ``invalid_grant``."""

    def endpoint(self, options: Mapping[str, Any]) -> str | None:
        """Return the tenant's endpoint."""
        host = host_option(options, "domain", "issuer")
        return host and f"https://{host}/oauth/token"


# Rotation is optional; its grace is 30 s by default. Later reuse also invalidates the newest refresh token.
OKTA = Okta(
    name="okta",
    source="https://developer.okta.com/docs/guides/refresh-tokens/main/",
    read_on=date(2026, 11, 21),
    strategies=("okta",),
    hosts=(".okta.com", ".oktapreview.com", ".okta-emea.com"),
    grace=30,
)
AUTH0 = Auth0Tenant(
    name="auth0-tenant",
    source="https://auth0.com/docs/secure/tokens/refresh-tokens/use-refresh-tokens",
    read_on=date(2026, 11, 21),
    strategies=("auth0-oidc",),
    hosts=(".auth0.com",),
)
