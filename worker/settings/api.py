"""The HTTP API: whose tokens callers bring; its bounds."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from worker.http.loopback import is_loopback
from worker.settings.section import Section

DEFAULT_PORT = 8700
# For requests under way when the server is told to stop: more than the longest wait for a refresh (30 s).
STOP_SECONDS = 35


class ApiSettings(Section):
    """The table ``[api]``.

    Attributes:
        audience: of the access tokens that callers bring; without it only API keys are taken.
        issuer: who issues them; by default the one tenant. Its keys are at ``.well-known/jwks.json`` below it.
        public_url: where callers find the API, behind whatever ends TLS; DPoP proofs name it.
        origins: of front ends whose browsers may call the proxy, and ask for reconnect links.
        host, port: where ``token-vault serve`` listens.
        max_concurrent: requests at a time in one process; more are refused at once. The proxy gets a part of them.
        max_connections: of callers to one process, idle ones too; requests over more are refused at once.
        cache: serve tokens from memory that were read a moment ago; each change is seen within a second. False to read
            the vault for each request.
    """

    audience: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    issuer: str | None = None
    public_url: str | None = None
    origins: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = DEFAULT_PORT
    max_concurrent: Annotated[int, Field(ge=1, le=100_000)] = 200
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1000
    cache: bool = True

    @field_validator("issuer")
    @classmethod
    def _check_issuer(cls, issuer: str | None) -> str | None:
        if issuer is not None:
            _check_url("issuer", issuer)
            if not issuer.endswith("/"):
                raise ValueError("issuer ends with a slash, as `iss` of Auth0's tokens does")
        return issuer

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        if url is not None:
            _check_url("public_url", url)
            if url.endswith("/"):
                raise ValueError("public_url ends without a slash: https://vault.example.com")
        return url

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            _check_url("origins", origin)
            if urlsplit(origin).path:
                raise ValueError("origins are scheme, host and port alone: https://app.example.com")
        return origins


def _check_url(name: str, url: str) -> None:
    parts = urlsplit(url)
    plain = parts.scheme == "http" and is_loopback(parts.hostname)
    if not parts.hostname or not (parts.scheme == "https" or plain) or parts.query or parts.fragment:
        raise ValueError(f"{name} begins with https:// (http:// goes to loopback alone), without query")
