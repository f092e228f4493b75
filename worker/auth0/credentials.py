"""The machine-to-machine application and its authentication."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.client_assertion import ASSERTION_TYPE, sign_assertion, signing_key
from worker.http.loopback import is_https

_NETLOC = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]+)?")


@dataclass(frozen=True)
class Credentials:
    """A machine-to-machine application of a tenant.

    Attributes:
        domain: the tenant's or its custom domain, with or without ``https://`` and a trailing slash;
            ``http://`` only towards loopback, for an emulated tenant.
        client_id: the application's id.
        client_secret: its secret; None if it authenticates with a key.
        private_key: its private key in PEM (RSA or EC P-256), for ``private_key_jwt``; takes precedence over a secret.
        audience: the Management API's identifier, which always has the canonical tenant domain; None for
            ``https://{domain}/api/v2/``. It must be set for a custom domain.
        key_id: the key's id at Auth0; without it Auth0 tries all keys of the application.

    Raises:
        ConfigurationError: the domain is not one, there is neither a secret nor a key, or the key cannot be parsed.
    """

    domain: str
    client_id: str
    client_secret: Secret | None = None
    private_key: Secret | None = None
    audience: str | None = None
    key_id: str | None = None

    def __post_init__(self) -> None:
        _netloc_and_scheme(self.domain)
        if not self.client_id:
            raise ConfigurationError("AUTH0_CLIENT_ID is empty: set the machine-to-machine application's id")
        if not self.client_secret and not self.private_key:
            raise ConfigurationError("set AUTH0_CLIENT_SECRET or AUTH0_PRIVATE_KEY")
        if self.private_key:
            _check_key(self.private_key)

    @property
    def base_url(self) -> str:
        """Scheme and host of every call, without a trailing slash."""
        netloc, scheme = _netloc_and_scheme(self.domain)
        return f"{scheme}://{netloc}"

    @property
    def host(self) -> str:
        """The domain alone, for messages and logs."""
        return _netloc_and_scheme(self.domain)[0]

    def token_request(self, now: datetime) -> dict[str, str]:
        """Return the body of one token request.

        Each call makes a new assertion, as each may be used only once.

        Source: Auth0, "Client Credentials Flow" and "Authenticate with Private Key JWT"; RFC 7523 section 2.2.
        """
        body = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "audience": self.audience or f"{self.base_url}/api/v2/",
        }
        if self.private_key:
            body["client_assertion_type"] = ASSERTION_TYPE
            body["client_assertion"] = sign_assertion(
                self.client_id, self.private_key, audience=f"{self.base_url}/", now=now, key_id=self.key_id
            )
        elif self.client_secret:
            body["client_secret"] = self.client_secret.reveal()
        return body


def _check_key(pem: Secret) -> None:
    try:
        signing_key(pem)
    except ValueError as error:
        raise ConfigurationError(f"AUTH0_PRIVATE_KEY is {error}") from None


def _netloc_and_scheme(domain: str) -> tuple[str, str]:
    # No message quotes the value, which may contain a password by mistake.
    given = domain.strip()
    try:
        parts = urlsplit(given if "://" in given else f"https://{given}")
        parts.port  # noqa: B018  # raises when it is not one
    except ValueError:
        raise ConfigurationError("AUTH0_DOMAIN is not a host name") from None
    netloc = parts.netloc.lower()
    if not _NETLOC.fullmatch(netloc) or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigurationError("AUTH0_DOMAIN must be a host name alone, such as tenant.eu.auth0.com")
    if not is_https(parts):
        raise ConfigurationError("AUTH0_DOMAIN: http:// is allowed towards loopback only; use https://")
    return netloc, parts.scheme
