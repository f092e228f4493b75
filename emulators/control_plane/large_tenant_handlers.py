"""The control plane's operations on a large tenant."""

import asyncio
from typing import Any

from emulators import large_tenant
from emulators.activity import Activity
from emulators.world import World

Json = dict[str, Any]


class LargeTenantHandlers:
    """See `client.Emulation` for what they mean."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._activity: Activity | None = None
        self._running: asyncio.Task[None] | None = None

    def set_speed(self, rate: float) -> float:
        return self._world.clock.set_speed(rate)

    def seed_users(self, **fields: Any) -> Json:
        return large_tenant.seed_users(self._world, **fields)

    def alive(self, after: str = "", count: int = 5000) -> Json:
        return large_tenant.alive(self._world, after, count)

    def count_alive(self) -> int:
        return len(self._world.users.ingest_by_id)

    def limit_counts(self) -> Json:
        return self._world.management.limits.counts()

    # The feeds

    def write_log(self, type: str, fields: Json) -> Json:
        return self._world.log.write(type, **fields)

    def close_event_streams(self) -> None:
        self._world.events.close_streams()

    # What happens by itself

    def start_activity(
        self,
        logins: float = 0.0,
        creations: float = 0.0,
        links: float = 0.0,
        unlinks: float = 0.0,
        deletions: float = 0.0,
        noise: float = 0.0,
        recreations: float = 0.2,
        seed: int = 1,
    ) -> None:
        self.stop_activity()
        rates = {"logins": logins, "creations": creations, "links": links, "unlinks": unlinks}
        self._activity = Activity(
            self._world, {**rates, "deletions": deletions, "noise": noise}, recreations, seed
        )
        self._running = asyncio.get_running_loop().create_task(self._activity.run())

    def stop_activity(self) -> dict[str, int]:
        running, self._running = self._running, None
        done = {} if self._activity is None else dict(self._activity.done)
        self._activity = None
        if running is not None and not running.cancel():
            running.result()  # it ends by a mistake in the emulation only
        return done

    def activity(self) -> dict[str, int]:
        if self._running is not None and self._running.done():
            self._running.result()
        return {} if self._activity is None else dict(self._activity.done)

    # What the providers remember

    def families(self, after: int = 0, count: int = 1000) -> Json:
        return self._world.issuer.families(after, count)
