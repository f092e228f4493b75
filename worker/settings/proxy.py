"""``[proxy.*]``: what front ends may call at providers."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator

from worker.http.loopback import is_loopback
from worker.proxy_rules import AllowRule, TargetRefused, encode_path, normalize_path
from worker.settings.section import Section

MB = 1_000_000


def _rules(value: object) -> object:
    if not isinstance(value, list | tuple) or not all(isinstance(rule, str) for rule in value):
        raise ValueError('allow is a list of rules like "GET /calendar/v3/*"')
    return tuple(map(AllowRule.parse, value))


class ProxySettings(Section):
    """A provider's API, and what of it may be called.

    Attributes:
        base_url: what paths are relative to; nothing else is ever called.
        allow: a method and a path pattern each; nothing is forwarded that none of them allows.
        tenant: whose users' grants, where several tenants are configured.
        max_request_bytes, max_response_bytes: of bodies.
        timeout: seconds without a byte, from the caller or the provider.
        max_seconds: of a whole call, however steadily it goes on.
    """

    base_url: str
    allow: Annotated[tuple[AllowRule, ...], BeforeValidator(_rules), Field(min_length=1)]
    tenant: str | None = None
    max_request_bytes: int = Field(default=64 * MB, ge=0)
    max_response_bytes: int = Field(default=64 * MB, ge=0)
    timeout: float = Field(default=30, gt=0, le=600, allow_inf_nan=False)
    max_seconds: float = Field(default=600, gt=0, le=86_400, allow_inf_nan=False)

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if not parts.hostname or not (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
        ):
            raise ValueError("base_url has to be https; plain http goes to loopback only")
        if "@" in parts.netloc or parts.query or parts.fragment or url.endswith(("/", "?", "#")):
            raise ValueError("base_url has a host and a path alone, and no slash at its end")
        try:
            plain = not parts.path or encode_path(normalize_path(parts.path.encode())) == parts.path
        except TargetRefused as error:
            raise ValueError(f"base_url: {error}") from None
        if not plain or parts.port == 0:
            raise ValueError("base_url has a port or path that no API has")
        return url
