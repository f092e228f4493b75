"""The part of the handle for a tenant of real size that changes by itself: time, numbers, limits, feeds."""

from collections.abc import Iterator, Sequence
from typing import Any

Json = dict[str, Any]
_UNSET: Any = object()


class ScaleControl:
    """What `control.Emulation` offers beside single users and faults."""

    # The clock

    def set_speed(self, rate: float) -> float:
        """Let `rate` seconds of the emulation pass in a real second, from its present time on; gives that.

        Also starts a clock that stands still. `set_clock(None)` and `reset` return to real time.
        """
        return float(self._do("set_speed", rate=rate))

    # Users in large numbers

    def seed_users(
        self,
        n: int,
        connections: Sequence[str],
        *,
        span: float = 90 * 86_400.0,
        at: float | None = None,
        cluster: int = 0,
        linked: float = 0.0,
        refresh: bool = True,
        expires_in: float | None = _UNSET,
        seed: int = 1,
    ) -> Json:
        """Add `n` users over the connections in turn, as history: no log entries, no events.

        They were created within the `span` seconds before `at` (default: now) and logged in last at any time
        since; the first `cluster` of them did both in one and the same millisecond, in the middle of the span.
        A share `linked` (0 to 1) has a second identity of the next connection. `refresh`, `expires_in` as for
        `add_users`. Gives `users`, `identities` and `connections` (users of each).
        """
        given: Json = {"n": n, "connections": list(connections), "span": span, "at": at, "cluster": cluster}
        given |= {"linked": linked, "refresh": refresh, "seed": seed}
        if expires_in is not _UNSET:
            given["expires_in"] = expires_in
        return self._object("seed_users", **given)

    def alive(self, page: int = 5000) -> Iterator[Json]:
        """Walk through all users of the tenant by id, with what the providers issued last.

        Each has `user_id`, `updated_at` and `identities`; each of those `connection`, `provider_user_id`, the
        digests `shown_access`, `shown_refresh` (of Auth0's copy) and `live_access`, `live_refresh` (the newest
        that the provider takes; None where it takes none).
        """
        after: str | None = ""
        while after is not None:
            found = self._object("alive", after=after, count=page)
            yield from found["users"]
            after = found["next"]

    def count_alive(self) -> int:
        """Count the tenant's users."""
        return int(self._do("count_alive"))

    def set_search_lag(self, seconds: float) -> None:
        """Let changes of users show in the search after `seconds`; 0 lets it catch up at once."""
        self.configure_tenant(search_lag=seconds)

    # Limits

    def set_plan(self, plan: str | None, *, background: float = 0.0, retry_after_header: bool = True) -> None:
        """Enforce the limits of a plan (`auth0.limits.PLANS`), starting with full buckets; None: no limit.

        Other programs of the operator spend `background` calls a second from each bucket.
        """
        given: Json = {"background": background, "retry_after_header": retry_after_header}
        self.configure_tenant(plan=plan, per_second=None, **given)

    def limit_counts(self) -> Json:
        """Count Management API calls since the last `reset_calls`.

        Gives `groups` (read_users, connections, logs, other) and `endpoints` ("GET /api/v2/users/{id}"), each
        a mapping to `calls` (all) and `refused` (answered with 429 for the limit's sake).
        """
        return self._object("limit_counts")

    def configure_tenant(self, **settings: Any) -> None:
        """Set fields of `auth0.settings.Settings`."""
        raise NotImplementedError

    def _do(self, operation: str, **arguments: Any) -> Any:
        raise NotImplementedError

    def _object(self, operation: str, **arguments: Any) -> Json:
        return dict(self._do(operation, **arguments))
