"""Settings of the HTTP API."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from worker.settings.checks import check_https_url
from worker.settings.section import Section

DEFAULT_PORT = 8700
# How long a stopping server waits for running requests: more than the longest wait for a refresh (30 s).
STOP_SECONDS = 35


class ApiSettings(Section):
    """The table ``[api]``.

    Attributes:
        audience: of callers' access tokens. Without it only API keys are accepted.
        issuer: of callers' access tokens; by default the only tenant. Its keys are at ``.well-known/jwks.json``.
        public_url: the API's address for callers, which DPoP proofs name.
        origins: of front ends that may call the proxy, and ask for reconnect links, from browsers.
        host, port: where ``token-vault serve`` listens.
        max_concurrent: requests at a time in one process. Further ones are refused without waiting. The proxy may use a
            part of them.
        max_connections: of callers to one process, idle ones too. Requests over further ones are refused.
        cache: whether to keep tokens in memory that were just read. Changes are seen within a second.
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
            check_https_url("issuer", issuer)
            if not issuer.endswith("/"):
                raise ValueError("issuer ends with a slash, as `iss` of Auth0's tokens does")
        return issuer

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        if url is not None:
            check_https_url("public_url", url)
            if url.endswith("/"):
                raise ValueError("public_url ends without a slash: https://vault.example.com")
        return url

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            check_https_url("origins", origin)
            if urlsplit(origin).path:
                raise ValueError("origins are scheme, host and port alone: https://app.example.com")
        return origins
