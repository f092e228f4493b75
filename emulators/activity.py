"""Users who sign up, log in, are linked and deleted.

So many of each happen in a minute of the emulation's clock.
"""

import asyncio
import random
from collections import Counter
from typing import Any

from emulators import history, logins
from emulators.world import World

RATES = ("logins", "creations", "links", "unlinks", "deletions", "noise")
AT_ONCE = 50  # happenings between two looks at what else there is to do


class Activity:
    """A course of changes, fixed by seed and tenant.

    Only their moments may differ.
    """

    def __init__(self, world: World, rates: dict[str, float], recreations: float, seed: int) -> None:
        self._world = world
        self._rates = {kind: rates[kind] for kind in RATES}
        self._recreations = recreations  # the share of creations that bring a deleted user back
        self._choice = random.Random(seed)
        self._names = sorted(world.users.ingest_by_id)
        self._linked = [name for name in self._names if _linked(world, name)]
        self._deleted: list[tuple[str, str]] = []  # user, connection
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        """Go on until cancelled."""
        per_second = sum(self._rates.values()) / 60
        if per_second <= 0:
            return
        due = self._world.clock.now()
        while True:
            due += 1 / per_second
            if due > self._world.clock.now():
                await self._world.clock.sleep_until(due)
            elif self.done.total() % AT_ONCE == 0:
                await asyncio.sleep(0)
            self.one()

    def one(self) -> None:
        """Let the next thing happen.

        Nothing where there is nobody for it.
        """
        [kind] = self._choice.choices(list(self._rates), list(self._rates.values()))
        happened = getattr(self, f"_{kind}")()
        self.done[kind if happened else "nothing"] += 1

    def _logins(self) -> bool:
        name = self._anyone()
        if name is None:
            return False
        connections = _connections(self._world, name)
        connection, consent = self._choice.choice(connections), self._choice.random() < 0.5
        [kind] = self._choice.choices(("s", "ss", "sens"), (90, 5, 5))
        logins.login(self._world, name, connection, consent=consent, log_type=kind)
        return True

    def _creations(self) -> bool:
        if self._deleted and self._choice.random() < self._recreations:
            name, connection = self._deleted.pop(self._choice.randrange(len(self._deleted)))
            if name in self._world.users.ingest_by_id:
                return False
            logins.add_user(self._world, name, [{"connection": connection}])
        else:
            connections = sorted(self._world.leads_to)
            [name] = logins.add_users(self._world, self._choice.choice(connections), 1)
        self._names.append(name)
        return True

    def _links(self) -> bool:
        primary, secondary = self._anyone(), self._anyone()
        if primary is None or secondary is None or primary == secondary:
            return False
        if _linked(self._world, secondary):
            return False
        logins.link(self._world, primary, secondary)
        self._linked.append(primary)
        return True

    def _unlinks(self) -> bool:
        name = self._pick(self._linked, lambda name: _linked(self._world, name))
        if name is None:
            return False
        freed = logins.unlink(self._world, name, _connections(self._world, name)[-1])
        self._names.append(freed["user_id"])
        return True

    def _deletions(self) -> bool:
        name = self._anyone()
        if name is None:
            return False
        connection = _connections(self._world, name)[0]
        linked = _linked(self._world, name)
        logins.delete(self._world, name)
        if not linked:
            self._deleted.append((name, connection))
        return True

    def _noise(self) -> bool:
        name = self._anyone()
        if name is None:
            return False
        history.noise(self._world, self._world.users.ingest_by_id[name], self._choice.choice(history.NOISE))
        return True

    def _anyone(self) -> str | None:
        return self._pick(self._names, lambda name: bool(_connections(self._world, name)))

    def _pick(self, names: list[str], fits: Any) -> str | None:
        """Choose one who is still there.

        Those who are not are forgotten on the way.
        """
        while names:
            place = self._choice.randrange(len(names))
            if names[place] in self._world.users.ingest_by_id and fits(names[place]):
                return names[place]
            names[place] = names[-1]
            names.pop()
        return None


def _connections(world: World, name: str) -> list[str]:
    return [
        each["connection"] for each in world.users.ingest_by_id[name]["identities"] if isinstance(each, dict)
    ]


def _linked(world: World, name: str) -> bool:
    return len(world.users.ingest_by_id[name].get("identities", ())) > 1
