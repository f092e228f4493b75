"""Settings of Auth0 tenants, and of their rate limits."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from worker.http.loopback import is_https
from worker.settings.checks import split_url
from worker.settings.section import SecretField, Section

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]+)?")

PlanName = Literal[
    "free", "essentials", "professional", "enterprise", "enterprise-dev", "custom", "unlimited"
]


class LimitSettings(Section):
    """One rate limit of a custom plan, in calls.

    The rate is given either per second or per minute.
    """

    per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    burst: float = Field(ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if (self.per_second is None) == (self.per_minute is None):
            raise ValueError("give either per_second or per_minute")
        return self

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.per_second or (self.per_minute or 0.0) / 60


class LimitsSettings(Section):
    """The rate limits of a custom plan, by endpoint group.

    ``all`` is shared by the groups that have no limit of their own.
    """

    all: LimitSettings | None = None
    read_users: LimitSettings | None = None
    connections: LimitSettings | None = None
    logs: LimitSettings | None = None
    other: LimitSettings | None = None

    @model_validator(mode="after")
    def _rest(self) -> Self:
        if self.all is None and self.other is None:
            raise ValueError("give a limit for all, or for other")
        return self

    def given(self) -> dict[str, LimitSettings]:
        """Return the limits that are set, by group."""
        return {name: limit for name in type(self).model_fields if (limit := getattr(self, name)) is not None}


class TenantSettings(Section):
    """One Auth0 tenant: its application, and its rate limits.

    Attributes:
        plan: the plan whose rate limits are kept. None if not given: then the smallest plan, or ``custom`` if there are
            ``limits``.
        share: the part of each limit that is left to the operator's other programs.
        limits: of the plan ``custom``.
        log_retention: seconds.
    """

    domain: str
    client_id: str
    client_secret: SecretField | None = None
    private_key: SecretField | None = None
    audience: str | None = None
    plan: PlanName | None = None
    share: float = Field(default=0.2, ge=0, lt=1)
    limits: LimitsSettings | None = None
    # Seconds for which the tenant keeps its log: a day on the smallest plan.
    log_retention: float = Field(default=86_400, gt=0, allow_inf_nan=False)

    @field_validator("domain")
    @classmethod
    def _check_domain(cls, domain: str) -> str:
        parts = split_url(domain if "://" in domain else f"https://{domain}")
        is_host = parts is not None and is_https(parts) and _HOST.fullmatch(parts.netloc)
        if parts is None or not is_host or parts.path.strip("/") or parts.query or parts.fragment:
            plain = "; http:// is allowed towards loopback only" if domain.startswith("http://") else ""
            raise ValueError(f"has to be the tenant's domain alone: acme.eu.auth0.com{plain}")
        return domain

    @model_validator(mode="after")
    def _limits_are_custom(self) -> Self:
        if self.plan == "custom" and self.limits is None:
            raise ValueError("plan custom needs a table of limits")
        if self.limits is not None and self.plan not in (None, "custom"):
            raise ValueError("limits are for plan custom")
        return self

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if bool(self.client_secret) == bool(self.private_key):
            raise ValueError(
                "give either client_secret or private_key (AUTH0_CLIENT_SECRET or AUTH0_PRIVATE_KEY)"
            )
        return self
