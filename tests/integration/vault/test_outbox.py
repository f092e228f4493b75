"""Each change of state is told once, by the transaction that made it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.renewal.test_circuit_breaker import wrong_secret
from tests.integration.vault.test_spool import postgres_away
from tests.support.canary_search import SecretSearch
from tests.support.renewals import Renewals
from tests.support.wait import until_async
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.renewal import commit
from worker.renewal.outcome import Outcome
from worker.settings import EventKind
from worker.vault import claims, outbox
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]


def told(sql: Sql) -> list[str]:
    return [row["kind"] for row in sql("SELECT kind FROM outbox ORDER BY at")]


async def test_a_grant_that_dies_is_told_once(renewals: Renewals, sql: Sql) -> None:
    """Three workers, a forced retry of the dead grant and a doubled demand tell of one death once, with its reason."""
    [user] = renewals.connect("c")
    workers = [await renewals.synced(), await renewals.worker(), await renewals.worker()]
    renewals.tenant.revoke(user, "c")
    renewals.make_due()
    await asyncio.gather(*(worker.engine.renew_due(worker.tenants) for worker in workers))
    for _ in range(2):
        asked = [
            worker.on_demand.refresh(tenants=worker.tenants, user_id=user, connection="c", force=True)
            for worker in workers
        ]
        assert {refreshed.outcome for refreshed in await asyncio.gather(*asked)} <= {
            Outcome.DEAD, Outcome.BUSY, Outcome.FRESH,
        }  # fmt: skip
    [event] = sql("SELECT * FROM outbox")
    row = renewals.row(user)
    assert event["kind"] == "grant.reauthorization_required"
    assert (event["tenant"], event["connection"], event["user_id"]) == ("default", "c", user)
    assert (event["reason"], event["since"]) == ("invalid_grant", row["reason_since"])


async def test_a_login_heals_and_two_syncs_tell_it_once(renewals: Renewals, sql: Sql) -> None:
    """A dead grant that a login brings back is told as healed once, however many syncs see the login."""
    [user] = renewals.connect("c")
    workers = [await renewals.synced(), await renewals.worker()]
    renewals.tenant.revoke(user, "c")
    renewals.make_due()
    await workers[0].engine.renew_due(workers[0].tenants)
    renewals.tenant.login(user)
    syncs = [await worker.tenant_sync("default") for worker in workers]
    await asyncio.gather(*(sync.sync_user(user) for sync in syncs))
    await syncs[0].sync_user(user)
    assert told(sql) == ["grant.reauthorization_required", "grant.healed"]


async def test_a_grant_lost_in_rotation_is_told_as_such(renewals: Renewals, sql: Sql) -> None:
    """A worker that dies with an answer leaves a grant whose loss is told once, since the lost call."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    renewals.make_due()
    began = await renewals.die_during_calls(worker, carried_out=True)
    sql("UPDATE grants SET expires_at = now() WHERE user_id = %s", user)
    for _ in range(3):
        renewals.make_due()
        await worker.engine.renew_due(worker.tenants)
    [event] = sql("SELECT * FROM outbox")
    assert (event["kind"], event["since"]) == ("grant.lost_in_rotation", began)


async def test_ordinary_renewals_and_doubts_tell_nothing(renewals: Renewals, sql: Sql) -> None:
    """What nobody has to act on is no event: a sync, renewals, an outage, a doubt that ends well."""
    renewals.connect("c", users=5)
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 2, "503")
    for _ in range(3):
        await worker.engine.renew_due(worker.tenants)
        renewals.make_due()
    await renewals.sync(worker)
    assert told(sql) == []


async def test_a_connection_is_told_of_once_and_never_its_grants(renewals: Renewals, sql: Sql) -> None:
    """A wrong secret over 50 grants, three workers and failed probes is one event; its end is another."""
    renewals.connect("c", users=50)
    workers = [await renewals.synced(), await renewals.worker(), await renewals.worker()]
    wrong_secret(renewals, "c")
    for _ in range(3):
        renewals.make_due()
        await asyncio.gather(*(worker.engine.renew_due(worker.tenants) for worker in workers))
        renewals.end_pause("c")
    assert told(sql) == ["connection.broken"]
    renewals.tenant.set_connection_options("c", client_secret="the-new-secret")
    await asyncio.gather(*[(await worker.tenant_sync("default")).sync_connections() for worker in workers])
    assert told(sql) == ["connection.broken", "connection.mended"]
    [broken, mended] = sql("SELECT * FROM outbox ORDER BY at")
    assert (broken["state"], broken["reason"], broken["user_id"]) == ("blocked", "invalid_client", None)
    assert (mended["state"], mended["reason"]) == ("active", None)


async def test_a_circuit_that_flaps_is_told_of_at_each_turn(renewals: Renewals, sql: Sql) -> None:
    """Each opening and each closing is one event, in their order."""
    renewals.connect("c", users=2)
    worker = await renewals.synced()
    secret = renewals.tenant.connection("c")["options"]["client_secret"]
    for _ in range(2):
        wrong_secret(renewals, "c")
        renewals.make_due()
        await worker.engine.renew_due(worker.tenants)
        renewals.tenant.set_client_secret("c", "c", secret)
        renewals.end_pause("c")
        renewals.make_due()
        await worker.engine.renew_due(worker.tenants)
    assert told(sql) == ["connection.broken", "connection.mended"] * 2


async def test_one_call_without_an_answer_does_not_acquit_a_client_that_is_refused(
    renewals: Renewals, sql: Sql
) -> None:
    """A refusal is an answer of the provider's own: an outage from before it is over, and tells nothing more."""
    renewals.connect("c")
    worker = await renewals.synced()

    async def probe(*, fails: bool) -> None:
        renewals.tenant.fail_next("/idp/c", int(fails), "503")
        renewals.end_pause("c")
        renewals.make_due()
        await worker.engine.renew_due(worker.tenants)

    for _ in range(5):
        await probe(fails=True)
    assert [row["state"] for row in sql("SELECT state FROM outbox ORDER BY at")] == ["away"]
    wrong_secret(renewals, "c")
    await probe(fails=False)
    await probe(fails=True)
    assert [row["state"] for row in sql("SELECT state FROM outbox ORDER BY at")] == ["away", "blocked"]


async def test_a_connection_without_a_client_is_told_with_its_mend(renewals: Renewals, sql: Sql) -> None:
    """A client that vanishes at Auth0 breaks its connection once, in words that say who fixes it."""
    renewals.connect("c", users=3)
    worker = await renewals.synced()
    renewals.tenant.set_connection_options("c", client_secret="")
    for _ in range(2):
        await renewals.sync(worker)
    [event] = sql("SELECT * FROM outbox")
    assert (event["kind"], event["reason"]) == ("connection.broken", "no_client_secret")
    assert "client" in event["message"]


async def test_a_replayed_answer_tells_what_it_changes_once(
    monkeypatch: pytest.MonkeyPatch, renewals: Renewals, database_url: Secret
) -> None:
    """An answer from the spool that brings a grant back from the dead is told as healed, by one of two replays."""
    monkeypatch.setattr(commit, "COMMIT_RETRY_SECONDS", 0.3)
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    renewing = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await until_async(lambda: len(renewals.tenant.ledger(user, "c")) > 1)
    with postgres_away(database_url):
        renewals.tenant.release()
        assert await renewing == {Outcome.SPOOLED: 1}
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute(
            "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', due_at = NULL"
        )
        successors = [await renewals.worker(), await renewals.worker()]
        await asyncio.gather(*(each.engine.renew_due(each.tenants) for each in successors))
        kinds = connection.execute("SELECT kind FROM outbox ORDER BY at").fetchall()
    assert [kind for (kind,) in kinds] == ["grant.reauthorization_required", "grant.healed"]


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_loss_that_a_late_answer_puts_in_doubt_is_told_once_and_healed_only_if_it_is(
    monkeypatch: pytest.MonkeyPatch, renewals: Renewals, database_url: Secret, *, revoked: bool
) -> None:
    """Neither a second death, nor silence where the late pair lives: the doubt between is nobody's news."""
    monkeypatch.setattr(commit, "COMMIT_RETRY_SECONDS", 0.3)
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    renewing = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await until_async(lambda: len(renewals.tenant.ledger(user, "c")) > 1)
    with postgres_away(database_url):
        renewals.tenant.release()
        assert await renewing == {Outcome.SPOOLED: 1}
    if revoked:
        renewals.tenant.revoke(user, "c")
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute(
            "UPDATE grants SET state = 'reauthorization_required', reason = 'lost_in_rotation', due_at = NULL,"
            " claim_owner = NULL, claimed_at = NULL, claim_until = NULL"
        )
        successor = await renewals.worker()
        for _ in range(2):
            await successor.engine.renew_due(successor.tenants)
        kinds = connection.execute("SELECT kind FROM outbox ORDER BY at").fetchall()
    after = [] if revoked else ["grant.healed"]
    assert [kind for (kind,) in kinds] == ["grant.lost_in_rotation", *after]


async def test_a_dead_grant_whose_forced_call_is_killed_stays_as_dead_as_it_was(
    renewals: Renewals, sql: Sql
) -> None:
    """No doubt, no second death, and no loss in rotation of what the provider had refused before."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    renewals.tenant.revoke(user, "c")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    now = await worker.vault.now()
    claim = await claims.claim_one(
        worker.vault, renewals.row(user)["id"], owner=uuid4(), now=now, until=now, force=True
    )
    assert claim is not None  # and its owner is killed
    sql("UPDATE grants SET forced_at = forced_at - interval '2 days'")
    await worker.on_demand.refresh(tenants=worker.tenants, user_id=user, connection="c", force=True)
    sql("UPDATE grants SET expires_at = now()")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    row = renewals.row(user)
    assert (row["state"], row["reason"]) == ("reauthorization_required", "invalid_grant")
    assert told(sql) == ["grant.reauthorization_required"]


async def test_what_is_rolled_back_is_not_told(renewals: Renewals, sql: Sql) -> None:
    """An event shares the fate of the change that it tells."""
    renewals.connect("c")
    worker = await renewals.synced()
    async with worker.vault.engine.connect() as connection:
        await connection.exec_driver_sql(
            "UPDATE grants SET state = 'reauthorization_required', reason = 'x', due_at = NULL"
        )
        assert (await connection.exec_driver_sql("SELECT count(*) FROM outbox")).scalar_one() == 1
        await connection.rollback()
    assert told(sql) == []


# Tokens that end with nothing to renew them


@pytest.fixture
async def unrenewable(renewals: Renewals, sql: Sql) -> str:
    """A user whose token ends in half an hour, without a refresh token."""
    renewals.connect("c", users=0)
    [user] = renewals.tenant.add_users("c", 1, expires_in=3600)
    await renewals.synced()
    sql(
        "UPDATE grants SET state = 'unrenewable', reason = 'no_refresh_token', due_at = NULL,"
        " expires_at = now() + interval '30 min'"
    )
    sql("DELETE FROM outbox")
    return user


async def look(vault: Vault, ahead: timedelta) -> int:
    now = datetime.now(UTC)
    return await outbox.report_expiring(vault, ["default"], ahead=now + ahead, since=now - timedelta(days=1))


async def test_a_token_about_to_end_is_told_of_once(unrenewable: str, vault: Vault, sql: Sql) -> None:
    """Not before its time, then once for each token, by one of several that look."""
    assert await look(vault, timedelta(minutes=10)) == 0
    assert sorted(await asyncio.gather(*(look(vault, timedelta(minutes=40)) for _ in range(4)))) == [
        0, 0, 0, 1,
    ]  # fmt: skip
    [event] = sql("SELECT * FROM outbox")
    assert (event["kind"], event["user_id"]) == ("grant.expiring", unrenewable)
    sql("UPDATE grants SET access_version = access_version + 1")
    assert await look(vault, timedelta(minutes=40)) == 1
    assert told(sql) == ["grant.expiring"] * 2


async def test_a_consent_after_that_is_told_as_healed(unrenewable: str, vault: Vault, sql: Sql) -> None:
    """A grant that was told to be ending, and can be renewed now, is healed; one never told of is not."""
    sql("UPDATE grants SET state = 'active'")
    assert told(sql) == []
    sql("UPDATE grants SET state = 'unrenewable'")
    await look(vault, timedelta(minutes=40))
    sql("UPDATE grants SET state = 'active'")
    assert told(sql) == ["grant.expiring", "grant.healed"]


async def test_what_ended_before_it_came_is_no_news(unrenewable: str, vault: Vault, sql: Sql) -> None:
    """A first sync of tokens long ended tells nothing, and neither does one of a connection that is broken itself."""
    sql("UPDATE grants SET expires_at = created_at - interval '1 min'")
    assert await look(vault, timedelta(minutes=40)) == 0
    sql("UPDATE grants SET expires_at = now() + interval '1 min'")
    sql("UPDATE connections SET problem = 'no_client_secret'")
    assert await look(vault, timedelta(minutes=40)) == 0
    sql("UPDATE connections SET problem = NULL")
    assert await look(vault, timedelta(minutes=40)) == 1


@pytest.mark.parametrize("problem", ["not_shown", "unsupported_strategy"])
async def test_what_ends_is_told_where_no_event_tells_of_its_connection(
    unrenewable: str, vault: Vault, sql: Sql, problem: str
) -> None:
    """A problem that is no event of the connection's keeps no grant from being told of."""
    sql("UPDATE connections SET problem = %s", problem)
    assert await look(vault, timedelta(minutes=40)) == 1
    assert told(sql) == ["grant.expiring"]


async def test_looking_costs_what_ends(unrenewable: str, vault: Vault, sql: Sql) -> None:
    """The look walks a range of an index, not the grants."""
    sql("SET enable_seqscan = off")
    plan = sql(
        "EXPLAIN SELECT id FROM grants WHERE tenant = 'default' AND connection = 'c' AND state = 'unrenewable'"
        " AND expiry_reported_version IS DISTINCT FROM access_version AND expires_at <= now() ORDER BY expires_at LIMIT 5"
    )
    assert "grants_expiring_idx" in str(plan)


# A user who is forgotten


async def test_a_forgotten_user_leaves_one_event(unrenewable: str, vault: Vault, sql: Sql) -> None:
    """Earlier events of the user go with the user, in the same transaction; others stay."""
    await look(vault, timedelta(minutes=40))
    sql("INSERT INTO outbox (kind, tenant, user_id) VALUES ('grant.healed', 'default', 'somebody else')")
    async with vault.engine.begin() as connection:
        await outbox.emit(connection, EventKind.FORGOTTEN, tenant="default", user_id=unrenewable)
    assert told(sql) == ["grant.healed", "user.forgotten"]


async def test_no_event_holds_a_token(renewals: Renewals, sql: Sql) -> None:
    """Deaths, losses and a broken connection leave no token and no secret in the outbox."""
    users = renewals.connect("c", users=3)
    worker = await renewals.synced()
    renewals.tenant.revoke(users[0], "c")
    wrong_secret(renewals, "c")
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    sql("UPDATE connections SET circuit_until = now()")
    renewals.tenant.set_connection_options("c", client_secret="the-new-secret")
    await renewals.sync(worker)
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    rows = sql("SELECT * FROM outbox")
    assert {row["kind"] for row in rows} >= {"connection.broken", "grant.reauthorization_required"}
    live = {
        f"{name} {user}": str(renewals.tenant.live(user, "c")[name])
        for user in users[1:]
        for name in ("access_token", "refresh_token")
    }
    assert SecretSearch({"secret": "the-new-secret"} | live).found(repr(rows).encode()) == []


async def test_a_user_forgotten_in_one_tenant_is_known_in_another(vault: Vault, sql: Sql) -> None:
    """Two tenants may have users of one id: what is told of the other tenant's user stays."""
    for tenant in ("default", "another"):
        sql("INSERT INTO outbox (kind, tenant, user_id) VALUES ('grant.healed', %s, 'x|1')", tenant)
    for _ in range(2):  # an application that has the first is told of the second too
        async with vault.engine.begin() as connection:
            await outbox.emit(connection, EventKind.FORGOTTEN, tenant="default", user_id="x|1")
    found = sql("SELECT tenant, kind FROM outbox ORDER BY tenant")
    assert found == [
        {"tenant": "another", "kind": "grant.healed"},
        {"tenant": "default", "kind": "user.forgotten"},
        {"tenant": "default", "kind": "user.forgotten"},
    ]


async def test_events_go_with_their_grant_to_another_user(vault: Vault, sql: Sql) -> None:
    """The events of the user's other account stay."""
    for account in ("1", "2"):
        sql(
            "INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id)"
            " VALUES ('grant.healed', 'default', 'c', 'x|1', %s)",
            account,
        )
    async with vault.engine.begin() as connection:
        await outbox.reassign(connection, GrantKey("default", "c", "x|1", "1"), "x|2")
    assert sql("SELECT user_id, provider_user_id AS id FROM outbox ORDER BY id") == [
        {"user_id": "x|2", "id": "1"},
        {"user_id": "x|1", "id": "2"},
    ]
