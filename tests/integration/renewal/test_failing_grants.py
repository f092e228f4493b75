"""A grant whose renewals go on failing beside others is told to somebody, and called dead only as a presumption."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from emulators.scripted import Policy, Script, ScriptedProvider, Shape, Trouble, Wording, serving
from emulators.scripted.script import json_answer, text_answer
from tests.support.scripted_world import ScriptedWorld
from worker.runtime import Runtime
from worker.vault.outbox import OutboxEvent, claim_due, queue
from worker.vault.outbox.deliveries import WebhookFilter
from worker.webhooks import payload

Sql = Callable[..., list[dict[str, Any]]]

HOUR = 3600.0
ASKS_TO_WAIT = {"retry-after": "3600"}
TROUBLES = {
    "http_429": text_answer("slowly", 429),
    "rate_limited": json_answer({"error": "rate_limited"}, 400, headers=ASKS_TO_WAIT),
    "http_503": text_answer("come back later", 503, headers=ASKS_TO_WAIT),
    "connection_lost": json_answer({}, cut="before"),
    "unreadable_answer": text_answer("tokens are out", 200),
}
"""What one grant is answered for days, by the code that it is told with."""


@pytest.fixture
async def world(open_worker: Callable[[], Awaitable[Runtime]], sql: Sql) -> AsyncIterator[ScriptedWorld]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(serving())
        yield await ScriptedWorld(await open_worker(), server, sql).open(stack)


def add(world: ScriptedWorld, name: str, script: Script) -> ScriptedProvider:
    """Add a provider that answers so to whom it does not renew."""
    shape = Shape("t", Trouble.USER, carried_out=False, source="", write=lambda _: script)
    return world.add_provider(
        name, policy=Policy(access_life=HOUR), wording=replace(Wording(), dead_grant=shape)
    )


async def events(world: ScriptedWorld) -> list[OutboxEvent]:
    """The events since the last look, in order."""
    vault, now = world.runtime.vault, world.now()
    kinds = ("grant.failing", "grant.reauthorization_required", "grant.lost_in_rotation", "grant.healed")
    await queue(vault, ["default"], [WebhookFilter("w", kinds, None)], now=now)
    deliveries = await claim_due(vault, "w", now=now, until=world.now(), limit=100)
    world.sql("DELETE FROM deliveries")
    return sorted((each.event for each in deliveries), key=lambda event: event.at)


async def test_a_grant_that_fails_without_a_verdict_is_told_once(world: ScriptedWorld) -> None:
    """By the time its token has ended, though other grants renew; it is not called dead, and is told as healed when
    its renewals succeed."""
    for code, script in TROUBLES.items():
        provider = add(world, code, script)
        await world.show_connection(code)
        await world.log_in(provider, "stuck", "healthy")
        provider.kill("stuck")
    await world.pass_time(2 * HOUR, tick=300)
    told = await events(world)
    assert {(each.kind, each.connection, each.reason) for each in told} == {
        ("grant.failing", code, code) for code in TROUBLES
    }
    assert len(told) == len(TROUBLES)
    assert all(each.since and each.expires_at and each.since < each.expires_at for each in told)
    assert not any(payload.needs_consent(each) for each in told)
    states = {key[1]: row["state"] for key, row in world.grants().items() if row["state"] != "in_doubt"}
    assert set(states.values()) == {"active"}
    await world.pass_time(HOUR, tick=1200)
    assert await events(world) == []  # once
    for code in TROUBLES:
        world.server.providers[code].grants["stuck"].dead = False
    await world.pass_time(1.5 * HOUR, tick=600)
    told = await events(world)
    assert {(each.kind, each.connection) for each in told} == {("grant.healed", code) for code in TROUBLES}


async def test_a_presumed_death_says_what_was_seen_and_is_taken_back(world: ScriptedWorld) -> None:
    """Words that nobody knows, and that pass, cost a living grant another quarter of an hour."""
    provider = add(world, "c", json_answer({"message": "no such token"}, 401))
    await world.show_connection("c")
    await world.log_in(provider, "u", "healthy", "other")
    provider.kill("u")
    while world.grants("c")["c", "u"]["state"] == "active":
        assert world.elapsed < 3 * HOUR
        await world.pass_time(300, tick=100)
    *before, told = await events(world)
    assert {each.kind for each in before} <= {"grant.failing"}  # where nobody else was renewed by then
    assert (told.kind, told.reason, told.is_presumed) == (
        "grant.reauthorization_required",
        "no_such_token",
        True,
    )
    assert re.match(r"[4-9] times since 2026-03-02T0", told.message or "")
    assert payload.document(told, None)["data"]["presumed"] is True
    assert "presumed dead" in payload.action(told)
    provider.grants["u"].dead = False
    await world.pass_time(1200, tick=120)
    [told] = await events(world)
    assert (told.kind, told.is_presumed) == ("grant.healed", False)
    assert world.grants("c")["c", "u"]["expires_at"] > world.now()
