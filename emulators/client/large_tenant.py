"""A large tenant that changes by itself.

Time, numbers, limits and feeds.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from emulators.client.operations import AS_PROVIDER, Json
from emulators.client.tenant import TenantOperations


class LargeTenantOperations(TenantOperations):
    """What a test does to a tenant beside single users."""

    # The clock

    def set_speed(self, rate: float) -> float:
        """Let the clock run at `rate` seconds a second.

        It goes on from the emulation's present time; gives that.
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
        expires_in: float | None = AS_PROVIDER,
        seed: int = 1,
    ) -> Json:
        """Add `n` past users over the connections in turn.

        They leave no log entries and no events.
        They were created within the `span` seconds before `at` (default: now) and logged in last at any time
        since; the first `cluster` of them did both in one and the same millisecond, in the middle of the span.
        A share `linked` (0 to 1) has a second identity of the next connection. `refresh`, `expires_in` as for
        `add_users`. Gives `users`, `identities` and `connections` (users of each).
        """
        given: Json = {"n": n, "connections": list(connections), "span": span, "at": at, "cluster": cluster}
        given |= {"linked": linked, "refresh": refresh, "seed": seed}
        if expires_in is not AS_PROVIDER:
            given["expires_in"] = expires_in
        return self._object("seed_users", **given)

    def alive(self, page: int = 5000) -> Iterator[Json]:
        """Yield all users by id, with their newest tokens.

        Each has `user_id`, `updated_at` and `identities`; each of those `connection`, `provider_user_id`, and
        the digests `shown_access`, `shown_refresh` (of Auth0's copy), `newest_access`, `newest_refresh` (issued
        last, dead or alive), `live_access`, `live_refresh` (the newest that the provider takes; None where it
        takes none).
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
        """Let changes of users show in the search after `seconds`.

        0 lets it catch up at once.
        """
        self.configure_tenant(search_lag=seconds)

    # Limits

    def set_plan(self, plan: str | None, *, background: float = 0.0, retry_after_header: bool = True) -> None:
        """Enforce a plan's limits, starting with full buckets.

        The plan is one of `auth0.limits.PLANS`; None: no limit.
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

    # The feeds

    def set_log(
        self,
        *,
        delay: float = 0.0,
        retention: float = 30 * 86_400.0,
        gone: Literal["oldest", "400"] = "oldest",
    ) -> None:
        """Set after how many seconds entries show and go.

        A `from` that is gone is answered from the "oldest" entry kept, silently, or with "400". Auth0's
        documentation names no error for it: what is newer than the given id is what there is.
        """
        self.configure_tenant(log_delay=delay, log_retention=retention, log_gone=gone)

    def write_log(self, type: str, **fields: Any) -> Json:
        """Write any entry into the tenant log.

        Gives it with its `log_id`.
        """
        return self._object("write_log", type=type, fields=fields)

    def set_events(
        self,
        *,
        on_login: bool = False,
        retention: float = 86_400.0,
        recycle: float = 300.0,
        keepalive: float = 15.0,
        duplicates: float = 0.0,
        disorder: float = 0.0,
    ) -> None:
        """Set the event stream; seconds are the emulation's.

        `on_login`: a plain login is a user.updated. An offset older than `retention` is gone (410); a stream
        is closed after `recycle`, and shows a sign of life after `keepalive` of quiet. `duplicates` and
        `disorder` are shares (0 to 1) of events that come twice, or before their predecessor.
        """
        given = {"login_events": on_login, "event_retention": retention, "event_recycle": recycle}
        given |= {"event_keepalive": keepalive, "event_duplicates": duplicates, "event_disorder": disorder}
        self.configure_tenant(**given)

    def close_event_streams(self) -> None:
        """Close every open event stream now."""
        self._do("close_event_streams")

    def set_export(
        self, *, seconds: float = 10.0, fails: bool = False, encoding: Literal["file", "header"] = "file"
    ) -> None:
        """Set how long a users export takes, and its outcome.

        Its file is gzip: as it is ("file"), or as the header Content-Encoding says ("header").
        """
        self.configure_tenant(export_time=seconds, export_fails=fails, export_encoding=encoding)

    # What happens by itself

    def start_activity(
        self,
        *,
        logins: float = 0.0,
        creations: float = 0.0,
        links: float = 0.0,
        unlinks: float = 0.0,
        deletions: float = 0.0,
        noise: float = 0.0,
        recreations: float = 0.2,
        seed: int = 1,
    ) -> None:
        """Let users change by themselves until told otherwise.

        Each number is how many happen in a minute of the emulation's clock.
        `noise` are log entries about users of whom nothing has changed (`ssa`, `sertft`, `fp`).
        A share `recreations` of the creations brings a deleted user back under its id. The same seed on the
        same tenant gives the same happenings. What is true at the end is in `alive`.
        """
        given = {"logins": logins, "creations": creations, "links": links, "unlinks": unlinks}
        self._do(
            "start_activity", **given, deletions=deletions, noise=noise, recreations=recreations, seed=seed
        )

    def stop_activity(self) -> dict[str, int]:
        """Stop it.

        Gives how many of each happened ("nothing": there was nobody for it).
        """
        return dict(self._do("stop_activity"))

    def activity(self) -> dict[str, int]:
        """Count what has happened since the start."""
        return dict(self._do("activity"))
