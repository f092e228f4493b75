"""Operations on a tenant of real size that changes by itself: time, numbers, limits, feeds."""

from typing import Any

from tests.emulators import bulk
from tests.emulators.world import World

Json = dict[str, Any]


class ScaleControls:
    """See `control_scale.ScaleControl` for what they mean."""

    def __init__(self, world: World) -> None:
        self._world = world

    def set_speed(self, rate: float) -> float:
        return self._world.clock.set_speed(rate)

    def seed_users(self, **fields: Any) -> Json:
        return bulk.seed_users(self._world, **fields)

    def alive(self, after: str = "", count: int = 5000) -> Json:
        return bulk.alive(self._world, after, count)

    def count_alive(self) -> int:
        return len(self._world.users.by_id)

    def limit_counts(self) -> Json:
        return self._world.management.limits.counts()
