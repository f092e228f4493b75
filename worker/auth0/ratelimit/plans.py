"""The rate limits of Auth0's plans, by group of endpoints.

Source: Auth0, "Rate Limit Configurations" (Free, Essentials and Professional, Enterprise), Management API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from token_vault.errors import ConfigurationError

ALL_CALLS = "all"
"""The limit of a plan that counts all calls together."""


@dataclass(frozen=True)
class Limit:
    """A token bucket.

    Attributes:
        per_second: tokens added per second; each call takes one.
        burst: its size in tokens.
    """

    per_second: float
    burst: float

    def without(self, share: float) -> Limit:
        """Return the limit without the share of other programs.

        If possible, one token stays in Auth0's bucket, as calls may arrive closer together than they were sent.
        """
        burst = min(self.burst * (1 - share), self.burst - 1)
        return Limit(self.per_second * (1 - share), max(1.0, burst))


@dataclass(frozen=True)
class Plan:
    """The rate limits of a tenant.

    Attributes:
        name: its name in the settings.
        limits: by group of endpoints: ``read_users``, ``connections``, ``logs``; ``all`` or ``other`` for the groups that
            are not named.
    """

    name: str
    limits: Mapping[str, Limit]

    def __post_init__(self) -> None:
        if not {ALL_CALLS, "other"} & self.limits.keys():
            raise ConfigurationError(f"the limits of plan {self.name} must name the group all, or other")

    def limit_name(self, group: str) -> str:
        """Return the limit that counts the calls of a group."""
        return next(name for name in (group, ALL_CALLS, "other") if name in self.limits)


def _per_minute(calls: float, burst: float) -> Limit:
    return Limit(calls / 60, burst)


_SELF_SERVICE = MappingProxyType(
    {
        "read_users": _per_minute(500, 40),
        "connections": _per_minute(50, 5),
        "logs": _per_minute(100, 10),
        "other": _per_minute(150, 10),
    }
)


def presume_plan(group: str, burst: float) -> str:
    """Return the plan with this limit, or the smallest.

    Args:
        group: of the call that was answered.
        burst: ``x-ratelimit-limit`` of the answer.
    """
    if burst >= 50:
        return "enterprise"
    return "essentials" if group == "read_users" and burst >= 30 else "free"


PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        plan.name: plan
        for plan in (
            Plan("free", {ALL_CALLS: Limit(2, 2)}),
            Plan("essentials", _SELF_SERVICE),
            Plan("professional", _SELF_SERVICE),
            Plan("enterprise", {ALL_CALLS: Limit(16, 50)}),
            Plan("enterprise-dev", {ALL_CALLS: Limit(2, 10)}),
        )
    }
)
