"""Days at providers that answer in any words, with troubles of all kinds, by seed.

``make soak`` has weeks of them: ``WEEK_DAYS=7 WEEK_SEEDS=8 pytest tests/integration/renewal/test_simulated_week.py``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from emulators.scripted import Policy, ScriptedProvider, random_wording, serving
from emulators.scripted.incidents import Incident, Incidents
from tests.support.scripted_world import TENANT, ScriptedWorld
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from worker.runtime import Runtime

HOUR, DAY = 3600.0, 86400.0
TICK = 600.0
DAYS = int(os.environ.get("WEEK_DAYS", "3"))
SEEDS = range(1, 1 + int(os.environ.get("WEEK_SEEDS", "1")))
PROVIDERS, USERS, SPARED = 6, 8, 3
TROUBLES = {
    "death": 2, "passing_answer": 4, "lost_answer": 1, "throttled_grant": 2, "throttled_client": 1, "outage": 1,
    "disabled_client": 1, "changed_secret": 1,
}  # fmt: skip
OF_THE_WHOLE = ("throttled_client", "outage", "disabled_client", "changed_secret")
RECOVERY = 2 * HOUR
"""An open circuit is probed once an hour, and what waited comes back within a margin."""

Sql = Callable[..., list[dict[str, Any]]]


@pytest.fixture
async def world(open_worker: Callable[[], Awaitable[Runtime]], sql: Sql) -> AsyncIterator[ScriptedWorld]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(serving())
        yield await ScriptedWorld(await open_worker(), server, sql).open(stack)


class Week:
    """The providers of one seed, what happens to them, and what it does to the vault."""

    def __init__(self, world: ScriptedWorld, seed: int) -> None:
        self.world = world
        self.random = Random(seed)
        self.seed = seed
        self.incidents: dict[str, Incidents] = {}
        self.happened: dict[str, list[Incident]] = defaultdict(list)
        self.spared = [f"u{number}" for number in range(SPARED)]
        self.unserved: set[tuple[str, str, float]] = set()

    @property
    def providers(self) -> dict[str, ScriptedProvider]:
        """The providers by name."""
        return self.world.server.providers

    async def begin(self) -> None:
        """Let all users consent at all providers, and know what will happen."""
        for number in range(PROVIDERS):
            policy = Policy(
                rotates=self.random.random() < 0.7,
                grace=self.random.choice([0.0, 0.0, 60.0]),
                access_life=self.random.choice([4, 6, 8]) * HOUR,
            )
            provider = self.world.add_provider(
                f"p{number}", policy=policy, wording=random_wording(self.random, invented=0.3), seed=self.seed
            )
            await self.world.show_connection(provider.name)
            await self.world.log_in(provider, *[f"u{user}" for user in range(USERS)])
            self.incidents[provider.name] = Incidents(
                provider, DAYS * DAY, TROUBLES, seed=self.seed * 100 + number, spared=self.spared
            )

    def watch(self) -> None:
        """Let happen what is due, and note who healthy is not served."""
        for name, incidents in self.incidents.items():
            self.happened[name] += incidents.apply()
        for (name, user), row in self.world.grants().items():
            if user in self.spared and row["expires_at"] <= self.world.now() and self.is_well(name):
                self.unserved.add((name, user, self.world.elapsed))

    def is_well(self, name: str) -> bool:
        """Return whether a provider and its client have been well for a while."""
        now = self.world.now().timestamp()
        return not any(
            each.at <= now <= each.at + each.seconds + RECOVERY
            for each in self.happened[name]
            if each.kind in OF_THE_WHOLE
        )

    def victims(self, name: str, *kinds: str) -> set[str]:
        """Return the grants that something of these kinds happened to."""
        return {each.subject for each in self.happened[name] if each.kind in kinds}

    def refresh_token(self, name: str, user: str) -> str:
        """Return the refresh token that the vault holds."""
        [row] = self.world.sql(
            "SELECT user_id, refresh_ciphertext, refresh_version FROM grants"
            " WHERE connection = %s AND provider_user_id = %s",
            name,
            user,
        )
        key = GrantKey(TENANT, name, row["user_id"], user)
        context = EncryptionContext.of_grant(key, "refresh", row["refresh_version"])
        return self.world.runtime.vault.refresh.decrypt(context, row["refresh_ciphertext"]).reveal()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_week_of_troubles(world: ScriptedWorld, seed: int) -> None:
    """Nobody healthy goes unserved while the client works, no new refresh token is dropped, and who is dead is told."""
    week = Week(world, seed)
    await week.begin()
    await world.pass_time(DAYS * DAY, tick=TICK, watch=week.watch)
    await world.pass_time(1.25 * DAY, tick=TICK, watch=week.watch)
    assert week.unserved == set()
    wrong = []
    for (name, user), row in world.grants().items():
        provider = week.providers[name]
        lost = user in week.victims(name, "lost_answer", "passing_answer")
        if not lost:
            assert not any(each.reused for each in provider.presentations(user)), (name, user)
            assert provider.takes(week.refresh_token(name, user)) or not provider.alive(user), (name, user)
        renewable = provider.takes(week.refresh_token(name, user))
        if (row["state"] == "reauthorization_required") == renewable:
            wrong.append((name, user, row["state"], row["reason"], renewable))
        elif renewable:
            assert row["expires_at"] > datetime.fromtimestamp(provider.clock.now(), UTC), (name, user)
    assert wrong == []
