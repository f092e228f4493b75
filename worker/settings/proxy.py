"""``[proxy.*]``: provider APIs that front ends may call."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from worker.proxy_rules import AllowRule, TargetRefused, encode_path, normalize_path
from worker.settings.checks import require_https
from worker.settings.section import Section

MB = 1_000_000


def _rules(value: object) -> object:
    if not isinstance(value, list | tuple) or not all(isinstance(rule, str) for rule in value):
        raise ValueError('allow is a list of rules like "GET /calendar/v3/*"')
    return tuple(map(AllowRule.parse, value))


class ProxySettings(Section):
    """A provider's API, and the allowed methods and paths.

    Attributes:
        base_url: all calls go to paths below it.
        allow: rules, each with a method and a path pattern. Only calls that a rule allows are forwarded.
        tenant: the tenant of the users; needed if several tenants are configured.
        max_request_bytes, max_response_bytes: the longest bodies.
        timeout: the longest time, in seconds, without a byte from the caller or the provider.
        max_seconds: the longest time of a whole call.
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
        parts = require_https("base_url", url)
        if "@" in parts.netloc or parts.query or parts.fragment or url.endswith(("/", "?", "#")):
            raise ValueError("base_url has a host and a path alone, and no slash at its end")
        try:
            plain = not parts.path or encode_path(normalize_path(parts.path.encode())) == parts.path
        except TargetRefused as error:
            raise ValueError(f"base_url: {error}") from None
        if not plain or parts.port == 0:
            raise ValueError("base_url has a port or path that no API has")
        return url
