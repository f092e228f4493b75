"""One grant's trouble stays its own, whatever words a provider has for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from emulators.scripted import LIBRARY, Exchange, Policy, Script, Shape, Trouble, Wording, invent, serving
from emulators.scripted.dead_grant_shapes import DEAD_GRANT_SHAPES
from emulators.scripted.operator_shapes import OTHER_CLIENT_SHAPES, WRONG_CLIENT_SHAPES
from emulators.scripted.script import json_answer
from tests.support.scripted_world import CLIENT, SECRET, ScriptedWorld
from worker.runtime import Runtime

Sql = Callable[..., list[dict[str, Any]]]

HOUR, DAY = 3600.0, 86400.0
TICK = 60.0
HANDFUL = 6
"""Calls that a wrong client may cost before its connection is stopped."""


@pytest.fixture
async def world(open_worker: Callable[[], Awaitable[Runtime]], sql: Sql) -> AsyncIterator[ScriptedWorld]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(serving())
        yield await ScriptedWorld(await open_worker(), server, sql).open(stack)


def invented(trouble: Trouble, count: int, seed: int) -> dict[str, Wording]:
    """Wordings that no library has, by name."""
    random = Random(seed)
    field = "dead_grant" if trouble is Trouble.USER else "wrong_client"
    return {
        f"invented-{number}": replace(Wording(), **{field: invent(trouble, random)})
        for number in range(count)
    }


async def test_a_dead_grant_in_any_words_leaves_the_healthy_ones_alone(world: ScriptedWorld) -> None:
    """Beside dead grants, in all words that are known and some that are not, nobody healthy is unserved for a moment,
    and each dead one is told within a day and then costs a call a day."""
    wordings = {
        name.replace("_", "-"): replace(Wording(), dead_grant=shape)
        for name, shape in DEAD_GRANT_SHAPES.items()
    } | invented(Trouble.USER, 12, seed=7)
    healthy, dead = [f"h{number}" for number in range(5)], [f"d{number}" for number in range(3)]
    for name, wording in wordings.items():
        provider = world.add_provider(name, policy=Policy(access_life=8 * HOUR), wording=wording)
        await world.show_connection(name)
        await world.log_in(provider, *dead, *healthy)  # the dead ones are due first
        for user in dead:
            provider.kill(user)
    ended: set[tuple[str, str]] = set()

    def watch() -> None:
        ended.update(
            key
            for key, row in world.grants().items()
            if key[1] in healthy and row["expires_at"] <= world.now()
        )

    await world.pass_time(DAY, tick=10 * TICK, watch=watch)
    assert ended == set()
    untold = {
        key: row
        for key, row in world.grants().items()
        if key[1] in dead and row["state"] != "reauthorization_required"
    }
    assert untold == {}
    assert {name for name in wordings if world.circuit(name)} == set()
    before = {name: len(world.server.providers[name].presentations("d0")) for name in wordings}
    assert max(before.values()) <= 12
    await world.pass_time(DAY, tick=30 * TICK)
    after = {name: len(world.server.providers[name].presentations("d0")) for name in wordings}
    assert max(after[name] - before[name] for name in wordings) <= 2


async def test_a_wrong_client_costs_a_handful_of_calls_and_no_consent(world: ScriptedWorld) -> None:
    """A client that is refused in any words stops its connection after a few calls; put right, all is as before."""
    wordings = {
        name.replace("_", "-"): replace(Wording(), wrong_client=shape)
        for name, shape in WRONG_CLIENT_SHAPES.items()
    } | invented(Trouble.OPERATOR, 8, seed=11)
    users = [f"u{number}" for number in range(12)]
    for name, wording in wordings.items():
        provider = world.add_provider(name, policy=Policy(access_life=4 * HOUR), wording=wording)
        await world.show_connection(name)
        await world.log_in(provider, *users)
    await world.pass_time(5 * HOUR, tick=10 * TICK)
    for name in wordings:
        provider = world.server.providers[name]
        provider.clients[CLIENT].secret = "another-secret"
        provider.ledger.clear()
    await world.pass_time(DAY, tick=20 * TICK)
    assert {world.circuit(name) for name in wordings} == {"operator"}
    calls = {name: len(world.server.providers[name].presentations()) for name in wordings}
    assert max(calls.values()) <= HANDFUL + 24 + 6  # then a probe an hour, and the first ones sooner
    assert {row["state"] for row in world.grants().values()} == {"active"}
    for name in wordings:
        await world.show_connection(name, secret="another-secret")
    await world.pass_time(HOUR, tick=2 * TICK)
    late = {key for key, row in world.grants().items() if row["expires_at"] <= world.now()}
    assert late == set()


@pytest.mark.parametrize("shape", OTHER_CLIENT_SHAPES.values(), ids=list(OTHER_CLIENT_SHAPES))
async def test_another_client_costs_no_consent(world: ScriptedWorld, shape: Any) -> None:
    """A connection that gets another valid client has all its tokens refused as if they were dead; putting the client
    back is enough, without a login."""
    users = [f"u{number}" for number in range(8)]
    provider = world.add_provider(
        "c", policy=Policy(access_life=4 * HOUR), wording=replace(Wording(), other_client=shape)
    )
    provider.add_client("another", SECRET)
    await world.show_connection("c")
    await world.log_in(provider, *users)
    await world.pass_time(5 * HOUR, tick=5 * TICK)
    await world.show_connection("c", client_id="another")
    await world.pass_time(DAY, tick=10 * TICK)
    assert world.circuit("c") == "operator"
    assert {row["state"] for row in world.grants().values()} == {"active"}
    await world.show_connection("c")
    await world.pass_time(HOUR, tick=TICK)
    assert {row["state"] for row in world.grants().values()} == {"active"}
    assert all(row["expires_at"] > world.now() for row in world.grants().values())


async def test_what_died_under_another_client_is_tried_again(world: ScriptedWorld) -> None:
    """A login under the new client proves it, so the old grants die; under the old client they live again."""
    provider = world.add_provider("c", policy=Policy(access_life=4 * HOUR))
    provider.add_client("another", SECRET)
    await world.show_connection("c")
    await world.log_in(provider, *[f"u{number}" for number in range(6)])
    await world.pass_time(5 * HOUR, tick=5 * TICK)
    await world.show_connection("c", client_id="another")
    await world.log_in(provider, "new", client_id="another")
    await world.pass_time(DAY, tick=5 * TICK)
    states = {key[1]: row["state"] for key, row in world.grants().items()}
    assert states.pop("new") == "active"
    assert set(states.values()) == {"reauthorization_required"}
    await world.show_connection("c")
    await world.pass_time(HOUR, tick=TICK)
    states = {key[1]: row["state"] for key, row in world.grants().items()}
    assert {user for user, state in states.items() if state == "active"} >= {f"u{n}" for n in range(6)}


def refused_then_throttled(exchange: Exchange) -> Script:
    """Refuse a refresh token in unknown words at even minutes, and ask to wait at odd ones."""
    if exchange.now // 60 % 2:
        return json_answer({"error": "too_many_requests"}, 429)
    return json_answer({"message": "no such token"}, 401)


async def test_a_dead_grant_that_is_throttled_too_is_told(world: ScriptedWorld) -> None:
    """A provider that throttles whoever shows a dead token again and again does not keep it from being told."""
    shape = Shape("t", Trouble.USER, carried_out=False, source="Auth0", write=refused_then_throttled)
    provider = world.add_provider(
        "c", policy=Policy(access_life=HOUR), wording=replace(Wording(), dead_grant=shape)
    )
    await world.show_connection("c")
    await world.log_in(provider, "dead", "a", "b")
    provider.kill("dead")
    await world.pass_time(5 * HOUR, tick=5 * TICK)
    [row] = [row for key, row in world.grants().items() if key[1] == "dead"]
    assert (row["state"], row["reason"]) == ("reauthorization_required", "no_such_token")


@pytest.mark.parametrize("status", [400, 503])
async def test_many_dead_grants_do_not_stop_their_connection_again_and_again(
    world: ScriptedWorld, status: int
) -> None:
    """Beside more dead grants than healthy ones, none of which the provider wants to see within the hour, the healthy
    ones are served, and are not renewed early over and over to acquit the client."""
    script = json_answer({"error": "unfamiliar"}, status, headers={"retry-after": "3600"})
    shape = Shape("t", Trouble.USER, carried_out=False, source="", write=lambda _: script)
    provider = world.add_provider(
        "c", policy=Policy(access_life=2 * HOUR), wording=replace(Wording(), dead_grant=shape)
    )
    await world.show_connection("c")
    dead, healthy = [f"d{number}" for number in range(8)], [f"h{number}" for number in range(4)]
    await world.log_in(provider, *dead, *healthy)
    for user in dead:
        provider.kill(user)
    ended: set[str] = set()

    def watch() -> None:
        ended.update(
            key[1]
            for key, row in world.grants().items()
            if key[1] in healthy and row["expires_at"] <= world.now()
        )

    await world.pass_time(3.5 * HOUR, tick=2 * TICK, watch=watch)
    assert ended == set()
    assert sum(len(provider.presentations(user)) for user in healthy) <= 2 * len(healthy)


async def test_a_client_put_right_recovers_beside_a_dead_grant(world: ScriptedWorld) -> None:
    """Where every grant was refused while the client was wrong, the one that died meanwhile does not keep the others
    from being tried, and what passes afterwards is counted from the beginning."""
    unknown = Shape(
        "t", Trouble.USER, carried_out=False, source="", write=lambda _: json_answer({"error": "over"}, 401)
    )
    provider = world.add_provider(
        "c", policy=Policy(access_life=HOUR), wording=replace(Wording(), dead_grant=unknown)
    )
    await world.show_connection("c")
    await world.log_in(provider, "a", "b", "d")
    await world.pass_time(HOUR, tick=5 * TICK)
    world.sql(
        "UPDATE grants SET last_renewed_at = last_renewed_at + interval '1 s' WHERE provider_user_id = 'd'"
    )
    provider.clients[CLIENT].secret = "another-secret"
    await world.pass_time(4 * HOUR, tick=10 * TICK)
    assert {each.grant for each in provider.presentations() if each.trouble is Trouble.OPERATOR} == set("abd")
    provider.kill("d")
    provider.clients[CLIENT].secret = SECRET
    await world.pass_time(4 * HOUR, tick=10 * TICK)
    states = {key[1]: row for key, row in world.grants().items()}
    assert [states[user]["state"] for user in "abd"] == ["active", "active", "reauthorization_required"]
    assert all(states[user]["expires_at"] > world.now() for user in "ab")


async def test_an_outage_of_days_loses_nothing(world: ScriptedWorld) -> None:
    """A provider that is away costs few calls, and everybody is back soon after it is."""
    provider = world.add_provider("c", policy=Policy(access_life=4 * HOUR, rotates=False))
    await world.show_connection("c")
    users = [f"u{number}" for number in range(12)]
    await world.log_in(provider, *users)
    await world.pass_time(5 * HOUR, tick=5 * TICK)
    provider.take_out_of_service(DAY)
    await world.pass_time(DAY, tick=5 * TICK)
    provider.ledger.clear()
    await world.pass_time(15 * TICK, tick=TICK)
    assert {row["state"] for row in world.grants().values()} == {"active"}
    assert all(row["expires_at"] > world.now() + timedelta(minutes=30) for row in world.grants().values())


def test_the_library_has_every_kind() -> None:
    """The shapes that these tests mix cover each trouble."""
    assert {shape.trouble for shape in LIBRARY.values()} == set(Trouble)
