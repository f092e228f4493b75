"""``[reconnect]``: how users consent again."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, field_validator

from token_vault.secret import Secret
from worker.reconnect import ReconnectApplication
from worker.settings.checks import require_https
from worker.settings.section import SecretField, Section

# HS256 needs a key as long as its hash (RFC 7518, 3.2).
MIN_SECRET_BYTES = 32


class ReconnectSettings(Section):
    """The operator's application by which users consent again.

    Attributes:
        client_id: an application of the tenant with the authorization code flow.
        redirect_uri: the operator's page, an allowed callback URL of that application.
        secret: signs the state that comes back to that page.
        scope: the scopes that the application asks Auth0 for.
        domain: a custom domain, instead of the tenant's.
        tenant: the application's tenant; needed if several tenants are configured.
        audience: of the access token that the page gets; None if it needs none.
        state_seconds: how long a link is valid.
    """

    client_id: str = Field(min_length=1)
    redirect_uri: str
    secret: SecretField = Field(repr=False)
    scope: str = "openid profile email"
    domain: str | None = None
    tenant: str | None = None
    audience: str | None = None
    state_seconds: float = Field(default=7 * 86_400, ge=60, le=90 * 86_400, allow_inf_nan=False)

    @field_validator("redirect_uri")
    @classmethod
    def _check_redirect_uri(cls, uri: str) -> str:
        parts = require_https("redirect_uri", uri)
        if parts.fragment:
            raise ValueError("redirect_uri must have no fragment (RFC 6749, section 3.1.2)")
        return uri

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, secret: Secret) -> Secret:
        if len(secret.reveal().encode()) < MIN_SECRET_BYTES:
            raise ValueError(
                f"secret has to have {MIN_SECRET_BYTES} bytes: openssl rand -base64 32 makes one"
            )
        return secret

    def application(self, domain: str) -> ReconnectApplication:
        """Return the application at a tenant's domain or URL."""
        domain = (self.domain or domain).rstrip("/")
        return ReconnectApplication(
            base_url=domain if "://" in domain else f"https://{domain}",
            client_id=self.client_id,
            redirect_uri=self.redirect_uri,
            scope=self.scope,
            secret=self.secret,
            lifetime=timedelta(seconds=self.state_seconds),
            audience=self.audience,
        )
