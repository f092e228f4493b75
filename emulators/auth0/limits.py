"""The Management API's rate limits.

There is one bucket for everything, or one for each group of endpoints.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from emulators.auth0.settings import Settings
from emulators.clock import Clock

GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket's refill and size."""

    per_second: float
    burst: int


_SELF_SERVICE = {
    "read_users": Rate(500 / 60, 40),
    "connections": Rate(50 / 60, 5),
    "logs": Rate(100 / 60, 10),
    "other": Rate(150 / 60, 10),
}
PLANS: dict[str, dict[str, Rate]] = {
    "free": {GLOBAL: Rate(2, 2)},
    "essentials": _SELF_SERVICE,
    "professional": _SELF_SERVICE,
    "enterprise": {GLOBAL: Rate(16, 50)},
    "enterprise-dev": {GLOBAL: Rate(2, 10)},
}


class Bucket:
    """A token bucket that refills by the clock.

    Other programs may drain it meanwhile.
    """

    def __init__(self, clock: Clock, settings: Settings, rate: Rate | None) -> None:
        self._clock = clock
        self._settings = settings
        self.rate = rate
        self._left, self._at = float(rate.burst if rate else 0), clock.now()

    def take(self) -> tuple[bool, dict[str, str]]:
        """Spend one call.

        Gives whether it is allowed, and the headers that say what is left.
        """
        now = self._clock.now()
        if self.rate is None:
            burst, left, ahead, allowed = self._settings.burst, self._settings.burst - 1.0, 1.0, True
        else:
            burst = self.rate.burst
            self._refill(self.rate, now)
            allowed = self._left >= 1
            self._left -= allowed
            left, ahead = self._left, (math.floor(self._left) + 1 - self._left) / self.rate.per_second
        headers = {
            "x-ratelimit-limit": str(burst),
            "x-ratelimit-remaining": str(math.floor(left)),
            "x-ratelimit-reset": str(math.ceil(now + ahead)),
        }
        if not allowed and self._settings.retry_after_header:
            headers["retry-after"] = str(max(1, math.ceil(ahead)))
        return allowed, headers

    def _refill(self, rate: Rate, now: float) -> None:
        passed = max(0.0, now - self._at)
        self._at = now
        gained = passed * (rate.per_second - self._settings.background)
        self._left = min(float(rate.burst), max(0.0, self._left + gained))


class Limits:
    """All buckets of the tenant, with counts of their calls."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self._settings = settings
        self.fill()
        self.forget()

    def fill(self) -> None:
        """Fill the buckets of the plan or single rate.

        Raises ValueError.
        """
        plan, per_second = self._settings.plan, self._settings.per_second
        if plan is not None and plan not in PLANS:
            raise ValueError(f"no plan is called {plan!r}")
        single = None if per_second is None else Rate(per_second, self._settings.burst)
        rates = PLANS[plan] if plan else {GLOBAL: single}
        self._buckets = {name: Bucket(self._clock, self._settings, rate) for name, rate in rates.items()}

    def take(self, group: str, endpoint: str) -> tuple[bool, str, dict[str, str]]:
        """Spend one call of a group.

        Gives whether it is allowed, the bucket's name, and the headers.
        """
        name = group if group in self._buckets else GLOBAL
        allowed, headers = self._buckets[name].take()
        for counter, of in ((self._groups, group), (self._endpoints, endpoint)):
            counter[of, "calls"] += 1
            counter[of, "refused"] += not allowed
        return allowed, name, headers

    def counts(self) -> dict[str, Any]:
        """Count all calls and refused ones by group and endpoint.

        Gives `calls` (all) and `refused` (429).
        """
        return {"groups": _nested(self._groups), "endpoints": _nested(self._endpoints)}

    def forget(self) -> None:
        """Count from nothing again."""
        self._groups: Counter[tuple[str, str]] = Counter()
        self._endpoints: Counter[tuple[str, str]] = Counter()


def _nested(counter: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    names = {name for name, _ in counter}
    return {name: {kind: counter[name, kind] for kind in ("calls", "refused")} for name in sorted(names)}
