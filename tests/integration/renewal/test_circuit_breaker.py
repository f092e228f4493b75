"""An operator's mistake at one connection: cheap, harmless to its users, healed by itself, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.renewals import Renewals
from tests.support.wait import until_async
from worker.renewal.concurrency import MAX_CALLS_PER_CONNECTION, ConnectionLimiter
from worker.renewal.engine import CLAIM_TIME, MAX_RENEWALS, RenewalEngine
from worker.renewal.evidence import CLIENT_BLAMED_AT, CLIENT_WORDS_WEIGH, TRIES_WITHOUT_WITNESS
from worker.renewal.http import http_client
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ConnectionResolver
from worker.runtime import Runtime
from worker.settings import load
from worker.vault import claims
from worker.vault.claims.spool import Spool
from worker.vault.connections import circuits

REFUSED_CLIENTS = ceil(CLIENT_BLAMED_AT / CLIENT_WORDS_WEIGH)
"""Grants that are refused as ``invalid_client`` before their client is blamed."""


def wrong_secret(renewals: Renewals, connection: str) -> None:
    """Let the provider know of another secret than Auth0 shows."""
    renewals.tenant.set_client_secret(connection, connection, "the-new-secret")


@asynccontextmanager
async def configured(
    environment: Path,
    worker: Runtime,
    line: str,
    now: Callable[[], datetime] | None = None,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[RenewalEngine]:
    """An engine of a worker started after the operator set something for connection ``c``."""
    with environment.open("a", encoding="utf-8") as config:
        config.write(f'[connections."c"]\n{line}\n')
    spool = Spool(worker.settings.spool, worker.vault.refresh)
    async with http_client() as http:
        yield RenewalEngine(
            worker.vault, ConnectionResolver(worker.vault, load()), http, spool, now=now, jitter=jitter
        )


async def test_a_wrong_secret_costs_a_handful_of_calls(renewals: Renewals) -> None:
    """With a wrong client secret, 1,000 due grants and three workers cost a handful of calls and no grant."""
    renewals.connect("c", users=1000)
    workers = [await renewals.synced(), await renewals.worker(), await renewals.worker()]
    wrong_secret(renewals, "c")
    renewals.make_due()
    for _ in range(3):
        await asyncio.gather(*(worker.engine.renew_due(worker.tenants) for worker in workers))
    assert 1 <= len(renewals.token_calls("c")) <= CLIENT_BLAMED_AT
    assert renewals.states() == {"active"}
    assert all(row["in_doubt_since"] is None and row["claim_owner"] is None for row in renewals.rows())
    assert renewals.circuit("c")["circuit_code"] == "invalid_client"
    assert sum(row["attempts"] for row in renewals.rows()) <= CLIENT_BLAMED_AT


async def test_a_refused_client_is_known_by_its_status_alone(renewals: Renewals) -> None:
    """A gateway that answers 401 in words of its own costs a handful of calls too, and not one for each user."""
    renewals.connect("c", users=100)
    worker = await renewals.synced()
    renewals.tenant.fail_next("/idp/c", 1000, "401")
    for _ in range(3):
        renewals.make_due()
        await worker.engine.renew_due(worker.tenants)
    # Several say that it is not one grant's own trouble.
    assert len(renewals.token_calls("c")) == CLIENT_BLAMED_AT
    assert renewals.circuit("c")["circuit_code"] == "http_401"
    assert renewals.states() == {"active"}


async def test_a_secret_corrected_at_auth0_heals_by_itself(renewals: Renewals) -> None:
    """When a sync shows another secret, the circuit closes and the grants are renewed, without any other hand."""
    renewals.connect("c", users=40)
    worker = await renewals.synced()
    wrong_secret(renewals, "c")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    assert renewals.circuit("c")["circuit_opened_at"] is not None
    renewals.tenant.set_connection_options("c", client_secret="the-new-secret")
    await renewals.sync(worker)
    assert renewals.circuit("c")["circuit_opened_at"] is None
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 40}


async def test_a_secret_corrected_in_the_configuration_heals_by_itself(
    renewals: Renewals, environment: Path
) -> None:
    """A client secret that the operator sets closes the circuit at the next tick of a worker that knows it."""
    renewals.connect("c", users=3)
    worker = await renewals.synced()
    wrong_secret(renewals, "c")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    renewals.make_due()
    async with configured(environment, worker, 'client_secret = "the-new-secret"') as engine:
        done = await engine.renew_due(worker.tenants)
    assert done == {Outcome.RENEWED: 3}
    assert renewals.circuit("c")["circuit_opened_at"] is None


async def test_a_secret_that_is_wrong_in_another_way_opens_the_circuit_again(renewals: Renewals) -> None:
    """Closing a circuit because the secret changed is no promise that the new one is right."""
    renewals.connect("c", users=40)
    worker = await renewals.synced()
    wrong_secret(renewals, "c")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    renewals.tenant.set_connection_options("c", client_secret="mistyped")
    await renewals.sync(worker)
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    assert renewals.circuit("c")["circuit_opened_at"] is not None
    assert len(renewals.token_calls("c")) == 2 * REFUSED_CLIENTS


async def test_a_late_refusal_of_old_credentials_breaks_nothing(renewals: Renewals) -> None:
    """A refusal of the secret of before, coming in after it was corrected, does not stop the connection."""
    renewals.connect("c")
    worker = await renewals.synced()
    wrong_secret(renewals, "c")
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await renewals.called("c")
    renewals.tenant.set_connection_options("c", client_secret="the-new-secret")
    await renewals.sync(await renewals.worker())
    renewals.tenant.release()
    assert await running == {Outcome.RETRY: 1}
    assert renewals.circuit("c")["circuit_opened_at"] is None


# Probing


async def test_an_open_circuit_is_left_alone(renewals: Renewals) -> None:
    """While the pause lasts no call is made, however much is due."""
    renewals.connect("c", users=10)
    worker = await renewals.synced()
    wrong_secret(renewals, "c")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    assert 0 < renewals.circuit("c")["pause"] <= 15
    for _ in range(3):
        renewals.make_due()
        assert await worker.engine.renew_due(worker.tenants) == {}
    assert len(renewals.token_calls("c")) == REFUSED_CLIENTS


async def test_one_probe_a_pause_however_many_workers(renewals: Renewals) -> None:
    """When a pause is over one grant is tried, by one worker, and the next pause is longer."""
    renewals.connect("c", users=30)
    workers = [await renewals.synced(), *[await renewals.worker() for _ in range(3)]]
    wrong_secret(renewals, "c")
    renewals.make_due()
    await workers[0].engine.renew_due(workers[0].tenants)
    pauses = []
    for probe in range(1, 4):
        renewals.end_pause("c")
        renewals.make_due()
        await asyncio.gather(*(worker.engine.renew_due(worker.tenants) for worker in workers))
        assert len(renewals.token_calls("c")) == REFUSED_CLIENTS + probe
        pauses.append(renewals.circuit("c")["pause"])
    assert pauses == sorted(pauses)
    assert 50 < pauses[0] <= 60
    assert 200 < pauses[2] <= 240


async def test_the_probe_is_one_call_on_demand_too(renewals: Renewals) -> None:
    """When a pause is over, a crowd that asks on demand for grants of the connection makes one call, not one each."""
    users = renewals.connect("c", users=12)
    workers = [await renewals.synced(), await renewals.worker()]
    wrong_secret(renewals, "c")
    renewals.make_due()
    await workers[0].engine.renew_due(workers[0].tenants)
    renewals.sql("UPDATE grants SET attempts = 0")
    renewals.end_pause("c")
    found = await asyncio.gather(
        *(
            workers[number % 2].on_demand.refresh(
                tenants=["default"], user_id=user, connection="c", min_ttl=7200
            )
            for number, user in enumerate(users)
        )
    )
    assert {refreshed.outcome for refreshed in found} == {Outcome.BLOCKED}
    assert {refreshed.state for refreshed in found} == {"blocked"}
    assert all(refreshed.retry_after and refreshed.retry_after >= 1 for refreshed in found)
    assert len(renewals.token_calls("c")) == REFUSED_CLIENTS + 1


async def test_a_probe_that_succeeds_closes_the_circuit(renewals: Renewals) -> None:
    """When the provider takes the client again, the next probe finds out and all others follow."""
    renewals.connect("c", users=30)
    worker = await renewals.synced()
    renewals.tenant.fail_next("/idp/c", REFUSED_CLIENTS, "error:invalid_client")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    renewals.end_pause("c")
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 30}
    circuit = renewals.circuit("c")
    assert (circuit["circuit_opened_at"], circuit["circuit_code"], circuit["circuit_failures"]) == (
        None,
        None,
        0,
    )


async def test_what_another_worker_had_claimed_lengthens_no_pause(renewals: Renewals) -> None:
    """Claims that waited in another worker while the circuit opened, and are sent then, are no probes."""
    renewals.connect("c", "google", "google-oauth2", users=12)
    first, second = await renewals.synced(), await renewals.worker()
    loaded = await second.connections.load(["default"])
    renewals.make_due()
    now = await second.vault.now()
    waiting = await claims.claim_due(
        second.vault, {("default", "c"): 4}, owner=uuid4(), now=now, until=now + CLAIM_TIME, limit=4
    )
    renewals.tenant.fail_next("/idp/c", 12, "503")
    await first.engine.renew_due(first.tenants)
    opened, before = renewals.circuit("c"), len(renewals.token_calls("c"))
    assert opened["circuit_failures"] == 1
    limiter, clock = ConnectionLimiter(loaded["default", "c"]), await second.engine._clock()
    for claim in waiting:
        await second.engine._renewer.attempt(limiter, claim, clock)
        limiter.circuit_opened = False  # the next claim is another worker's
    assert len(renewals.token_calls("c")) == before + 4
    later = renewals.circuit("c")
    assert later["circuit_until"] == opened["circuit_until"]
    assert later["circuit_failures"] == 1


async def test_dead_grants_do_not_keep_a_mended_connection_blocked(renewals: Renewals) -> None:
    """A probe that meets a dead grant says nothing against the client: the next one is made at the next tick."""
    *dead, alive = renewals.connect("c", users=4)
    worker = await renewals.synced()
    wrong_secret(renewals, "c")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    assert renewals.circuit("c")["circuit_code"] == "invalid_client"
    renewals.tenant.set_client_secret("c", "c", "secret-of-c")
    for user in dead:
        renewals.tenant.revoke(user, "c")
    renewals.end_pause("c")
    renewals.sql("UPDATE grants SET due_at = now() - interval '1 hour' WHERE user_id <> %s", alive)
    for _ in range(4):
        await worker.engine.renew_due(worker.tenants)
    assert renewals.circuit("c")["circuit_opened_at"] is None
    assert renewals.holds_what_lives(worker.vault, alive, "c")
    assert renewals.row(alive)["obtained_from"] == "renewal"


async def test_a_probe_that_died_is_made_again(renewals: Renewals) -> None:
    """A worker that dies during the probe delays the next one, and does not prevent it."""
    renewals.connect("c", users=2)
    worker = await renewals.synced()
    renewals.tenant.fail_next("/idp/c", 2, "error:invalid_client")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    renewals.end_pause("c")
    renewals.make_due()
    await renewals.die_during_calls(worker, carried_out=False)
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {}
    renewals.end_pause("c")
    # The probe that died left its grant in doubt: should the next one meet that grant, the one after it is made at once.
    done = [await worker.engine.renew_due(worker.tenants) for _ in range(2)]
    assert sum(outcomes[Outcome.RENEWED] for outcomes in done) == 1
    assert renewals.circuit("c")["circuit_opened_at"] is None


async def test_a_backlog_elsewhere_does_not_put_off_the_probe(renewals: Renewals) -> None:
    """However much is due at other connections, a probe whose pause is over is among the first claims."""
    now = datetime.now(UTC)
    names = [f"c{number}" for number in range(3)]
    for name in names:
        renewals.connect(name, users=10)
    worker = await renewals.synced()
    renewals.make_due()
    assert await circuits.open_circuit(
        worker.vault, tenant="default", name="c2", code="invalid_client", now=now, claimed_at=now,
        fingerprint=(await worker.connections.load(["default"]))["default", "c2"].fingerprint,
    )  # fmt: skip
    renewals.end_pause("c2")
    later = datetime.now(UTC) + timedelta(seconds=1)
    claimed = await claims.claim_due(
        worker.vault, {("default", name): 10 for name in names}, owner=uuid4(), now=later,
        until=later + timedelta(minutes=2), limit=15,
    )  # fmt: skip
    assert Counter(claim.key.connection for claim in claimed)["c2"] == 1


# One odd grant


async def test_one_odd_grant_does_not_block_the_others(renewals: Renewals, environment: Path) -> None:
    """A single grant that its provider refuses as if the client were wrong delays the others by minutes at most."""
    [odd] = renewals.connect("c", scope="profile")
    renewals.tenant.configure_provider("c", scope="profile api")
    renewals.tenant.add_users("c", 30)
    worker = await renewals.synced()
    now = datetime.now(UTC)
    renewals.sql(
        "UPDATE grants SET due_at = %s - CASE user_id WHEN %s THEN interval '1 s' ELSE '0' END", now, odd
    )
    jitter = random.Random(3)
    async with configured(environment, worker, 'scope = "api"', lambda: now, jitter.random) as engine:
        for _ in range(20):  # ten minutes, the margin that renewal leaves
            await engine.renew_due(worker.tenants)
            now += timedelta(seconds=30)
    rows = renewals.rows()
    assert {row["user_id"] for row in rows if row["obtained_from"] == "auth0"} == {odd}
    assert {row["state"] for row in rows} == {"active"}
    assert len(renewals.token_calls("c")) < 30 + 12


async def test_an_unknown_refusal_of_one_grant_is_its_own_trouble(renewals: Renewals) -> None:
    """A grant refused for reasons nobody knows stops nothing where others of its connection are renewed."""
    renewals.connect("c", users=8)
    worker = await renewals.synced()
    renewals.sql("UPDATE grants SET attempts = %s", TRIES_WITHOUT_WITNESS)
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "delay:0")  # the first call goes well
    renewals.tenant.fail_next("/idp/c", 1, "error:computer_says_no")
    done = await worker.engine.renew_due(worker.tenants)
    assert done[Outcome.RENEWED] == 7
    assert renewals.circuit("c")["circuit_opened_at"] is None


# The others


async def test_other_connections_go_on(renewals: Renewals) -> None:
    """One connection's wrong secret costs the others nothing."""
    renewals.connect("wrong", users=50)
    renewals.connect("right", users=50)
    worker = await renewals.synced()
    wrong_secret(renewals, "wrong")
    renewals.make_due()
    done = await worker.engine.renew_due(worker.tenants)
    assert done[Outcome.RENEWED] == 50
    assert {row["obtained_from"] for row in renewals.rows("right")} == {"renewal"}
    assert len(renewals.token_calls("wrong")) == REFUSED_CLIENTS


async def test_a_hanging_provider_does_not_starve_the_others(renewals: Renewals) -> None:
    """While one provider hangs, with more due than a worker holds at once, the others' grants are renewed at once."""
    renewals.connect("hangs", users=MAX_RENEWALS + 20)
    renewals.connect("well", users=60)
    worker = await renewals.synced(answer_seconds=60)
    renewals.make_due()
    renewals.tenant.fail_next("/idp/hangs", 1, "delay:0")  # the first call goes well, and others follow
    renewals.tenant.fail_next("/idp/hangs", 1000, "hang", carried_out=False)
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants, budget=30))
    await until_async(lambda: {row["obtained_from"] for row in renewals.rows("well")} == {"renewal"})
    assert not running.done()
    assert len(renewals.token_calls("hangs")) <= MAX_CALLS_PER_CONNECTION
    renewals.tenant.clear_faults()
    renewals.tenant.release()
    await running


async def test_no_living_token_is_put_off_beyond_its_end(renewals: Renewals) -> None:
    """When a circuit closes, grants come back slowly, but each a minute before its token ends at the latest."""
    renewals.connect("c", users=200)
    worker = await renewals.synced()
    now = await worker.vault.now()
    renewals.sql("UPDATE grants SET due_at = %s, expires_at = %s", now, now + timedelta(seconds=63))
    async with worker.vault.engine.begin() as connection:
        await circuits.stagger(connection, "default", "c", now)
    put_off = [row["due_at"] - now for row in renewals.rows("c")]
    assert max(put_off) == timedelta(seconds=3)
    assert sum(wait == timedelta(0) for wait in put_off) >= circuits.RECOVERY_BURST


async def test_those_whose_tokens_end_first_come_back_first(renewals: Renewals) -> None:
    """Behind the first burst grants wait in the order of their ends; one under renewal, and other connections, are left alone."""
    users = renewals.connect("c", users=circuits.RECOVERY_BURST + 4)
    renewals.connect("d", users=4)
    worker = await renewals.synced()
    now = await worker.vault.now()
    for number, user in enumerate(reversed(users)):
        end = now + timedelta(hours=1, minutes=number)
        renewals.sql("UPDATE grants SET due_at = %s, expires_at = %s WHERE user_id = %s", now, end, user)
    renewals.sql("UPDATE grants SET due_at = %s, expires_at = %s WHERE connection = 'd'", now, end)
    renewals.sql(
        "UPDATE grants SET claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now() + interval '1 h'"
        " WHERE user_id = %s", users[0],
    )  # fmt: skip
    async with worker.vault.engine.begin() as connection:
        await circuits.stagger(connection, "default", "c", now)
    assert {row["due_at"] for row in renewals.rows("d")} == {now}
    assert renewals.row(users[0])["due_at"] == now
    ends = sorted(renewals.rows("c"), key=lambda row: row["expires_at"])[:-1]
    assert [row["due_at"] for row in ends] == sorted(row["due_at"] for row in ends)
    assert sum(row["due_at"] > now for row in ends) == 3


async def test_a_refused_client_s_circuit_is_closed_by_that_client_alone(renewals: Renewals) -> None:
    """Neither an answer that blames a grant nor another client's success says anything about the refused client."""
    renewals.connect("c")
    worker = await renewals.synced()
    vault, now = worker.vault, await worker.vault.now()
    [client] = [
        row["client_fingerprint"] for row in renewals.sql("SELECT * FROM connections WHERE name = 'c'")
    ]
    of_c: dict[str, Any] = {"tenant": "default", "name": "c", "now": now}
    await circuits.open_circuit(vault, **of_c, fingerprint=client, code="invalid_client", claimed_at=now)
    await circuits.record_answer(vault, **of_c, probe_again=False)
    await circuits.acquit(vault, **of_c, fingerprint=b"another")
    assert renewals.circuit("c")["circuit_code"] == "invalid_client"
    await circuits.acquit(vault, **of_c, fingerprint=client)
    assert renewals.circuit("c")["circuit_opened_at"] is None
