"""Tenants of one vault: the same user id may be two people's, and what is done for one tenant touches no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.support.readers import Rows, Sql
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.reconnect import ReconnectApplication
from worker.vault import claims, outbox, pauses
from worker.vault.changed_users import queue as changed_users
from worker.vault.connections import circuits, client, observations, presence
from worker.vault.grants import erase, missing, queries, touch
from worker.vault.grants.consent_link import consent_link
from worker.vault.grants.erase import ErasureResult
from worker.vault.outbox import WebhookFilter
from worker.vault.pauses.pauses import PauseScope
from worker.vault.refresh_requests import queue as refresh_requests
from worker.vault.refresh_requests.security_events import report_security_event
from worker.vault.refusals import refusals
from worker.vault.revocations import revocations
from worker.vault.revocations.revocations import Scope
from worker.vault.sync_state import cursors, export_diff, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.sync_state.scanned_pages import ScannedPage, commit_page
from worker.vault.transfers.exported import count_left_out, export
from worker.vault.vault import Vault

USER = "oauth2|u1"
KEY = GrantKey("default", "custom", USER, "u1")
LATER, EARLIER = datetime(2090, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
ONE = ["default"]
EVENTS = [WebhookFilter("app", ("grant.expiring",))]

Operation = Callable[[Vault, datetime], Awaitable[Any]]


async def _exported(lines: Sequence[export_diff.Exported]) -> AsyncIterator[Sequence[export_diff.Exported]]:
    yield lines


async def compare(
    vault: Vault, lines: Sequence[export_diff.Exported], now: datetime, tenant: str = "default"
) -> export_diff.ExportDiff:
    return await export_diff.compare_export(
        vault, tenant, _exported(lines), since=EARLIER, until=LATER, now=now
    )


async def scan(vault: Vault, users: Sequence[str], now: datetime) -> None:
    page = ScannedPage(users, [KEY] if users else [], LATER, (None, LATER), users)
    await commit_page(vault, "default", page, "users", SyncCursor("x"), now=now)


async def reassign(vault: Vault, _: datetime) -> None:
    async with vault.engine.begin() as connection:
        await outbox.reassign(connection, KEY, "oauth2|u2")


async def stagger(vault: Vault, now: datetime) -> None:
    async with vault.engine.begin() as connection:
        await circuits.stagger(connection, "default", "custom", now)


async def erase_grant(vault: Vault, now: datetime) -> None:
    [(grant_id, key)] = await queries.list_keys(vault, "default", USER)
    async with vault.engine.begin() as connection:
        erased = await erase.erase(vault, connection, grant_id, key, reason="forgotten", now=now)
    assert erased is ErasureResult.LAST  # the other tenant's user of this id is somebody else


# Each changes something of the tenant `default`, or counts it.
OPERATIONS: dict[str, Operation] = {
    "missing users": lambda vault, now: missing.mark_users(vault, "default", [USER], now=now),
    "withdrawn users": lambda vault, now: missing.withdraw(vault, "default", [USER], now=now),
    "undated grants": lambda vault, now: missing.mark_undated(vault, "default", before=LATER, now=now),
    "unlinked identities": lambda vault, now: missing.mark_unlinked(vault, "default", [USER], [], now=now),
    "observed identities": lambda vault, _: missing.unmark_observed(vault, "default", [KEY], before=LATER),
    "identities without a token": lambda vault, now: touch.touch_observed(vault, [(KEY, now, now)]),
    "an export without the user": lambda vault, now: compare(vault, [], now),
    "an export with the user": lambda vault, now: compare(vault, [(USER, LATER)], now),
    "users read": lambda vault, _: export_diff.delete_users_to_sync(vault, "default", [USER]),
    "all users read": lambda vault, _: export_diff.delete_users_to_sync(vault, "default"),
    "a page without the user": lambda vault, now: scan(vault, [], now),
    "a page with the user": lambda vault, now: scan(vault, [USER], now),
    "a cursor": lambda vault, _: cursors.save(vault, "default", "users", SyncCursor("y")),
    "the end of a feed": lambda vault, _: cursors.remove(vault, "default", "users"),
    "changed users": lambda vault, _: changed_users.record(vault, "default", [USER]),
    "claimed users": lambda vault, _: changed_users.claim(vault, "default", limit=9),
    "ordered renewals": lambda vault, now: claims.order_renewals(vault, ONE, now=now),
    "refresh requests": lambda vault, _: refresh_requests.claim(vault, ONE, limit=9),
    "ends of access": lambda vault, now: outbox.report_expiring(vault, ONE, ahead=LATER, since=EARLIER),
    "ends of consent": lambda vault, now: outbox.report_consent_ending(vault, ONE, now=LATER),
    "events": lambda vault, now: outbox.queue(vault, ONE, EVENTS, now=now),
    "security events": lambda vault, _: report_security_event(
        vault, tenants=ONE, connections=["custom"], account="u1"
    ),
    "revocations": lambda vault, now: revocations.request(vault, Scope(ONE), now=now),
    "events of a moved grant": reassign,
    "a closed circuit": stagger,
    "an erased grant": erase_grant,
}  # fmt: skip

STATES = {
    "as synced": "user_created_at = '2021-01-01'",
    "never dated": "user_created_at = NULL",
    "missing": "missing_since = now() - interval '1 h'",
    "withdrawn": "missing_since = now() - interval '1 h', withdrawn_at = now() - interval '1 h'",
    "unrenewable": "state = 'unrenewable', reason = 'no_refresh_token', created_at = '2021-01-01'",
}
TABLES = (
    "grants", "users_to_sync", "sync_cursors", "changed_users", "refresh_requests", "outbox", "deliveries", "revocations",
)  # fmt: skip


@pytest.fixture
async def both(rows: Rows, sql: Sql) -> dict[str, int]:
    """The same identity at two tenants, with all that may wait for it; the ids of its grants."""
    ids = {}
    for tenant in ("default", "other"):
        ids[tenant] = grant = await rows.add(tenant=tenant)
        sql("INSERT INTO users_to_sync (tenant, user_id) VALUES (%s, %s)", tenant, USER)
        sql("INSERT INTO sync_cursors (tenant, feed, token) VALUES (%s, 'users', 'x')", tenant)
        sql(
            "INSERT INTO changed_users (tenant, user_id, reported_at, due_at) VALUES (%s, %s, now(), now())",
            tenant,
            USER,
        )
        sql(
            "INSERT INTO outbox (kind, tenant, user_id, connection, provider_user_id)"
            " VALUES ('grant.expiring', %s, %s, 'custom', 'u1')",
            tenant,
            USER,
        )
        sql(
            "INSERT INTO refresh_requests (grant_id, requested_by, requested_at, wanted_until, min_ttl, due_at)"
            " VALUES (%s, 'app', now(), now() + interval '1 h', 0, now())",
            grant,
        )  # fmt: skip
    return ids


@pytest.mark.parametrize("state", STATES)
async def test_what_is_done_for_one_tenant_leaves_the_other_as_it_is(
    vault: Vault, both: dict[str, int], sql: Sql, state: str
) -> None:
    """Whatever is marked, counted, claimed, queued, reported or revoked."""
    sql(
        f"UPDATE grants SET {STATES[state]}, due_at = now() - interval '1 h',"
        " consent_expires_at = now() + interval '2 d'"
    )
    columns = {table: "grant_id" if table in ("refresh_requests",) else "tenant" for table in TABLES}

    def others() -> dict[str, list[dict[str, Any]]]:
        whose = {
            "tenant": "tenant = 'other'",
            "grant_id": f"grant_id = {both['other']}",
        }
        found = {
            table: sql(f"SELECT * FROM {table} WHERE {whose[column]}")
            for table, column in columns.items()
            if table != "deliveries"
        }
        found["deliveries"] = sql(
            "SELECT d.* FROM deliveries d JOIN outbox e ON e.id = d.event_id WHERE e.tenant = 'other'"
        )
        return found

    before = others()
    for name, run in OPERATIONS.items():
        await run(vault, await vault.now())
        assert others() == before, name


async def test_what_is_asked_of_one_tenant_is_not_answered_by_the_other(
    vault: Vault, both: dict[str, int], sql: Sql
) -> None:
    """A grant, its user and its times are those of the tenant that was named."""
    sql("DELETE FROM refresh_requests")
    sql("UPDATE grants SET missing_since = now(), observed_updated_at = now(), renewal_ordered_at = now()")
    sql("UPDATE grants SET obtained_at = expires_at - interval '1 min' WHERE tenant = 'other'")
    names = {"default", "nobody"}
    found = {name: await queries.list_keys(vault, name, USER) for name in names}
    assert found == {"default": [(both["default"], KEY)], "nobody": []}
    assert await queries.last_observed(vault, "nobody", [USER]) == {}
    assert await queries.find_admin_grant(vault, "nobody", "custom") is None
    half = await queries.shortest_half_life(vault, "default", USER, "custom")
    assert half == pytest.approx(1800, abs=5)
    assert await missing.list_missing(vault, "nobody", before=LATER, after=0, limit=9) == []
    assert await missing.count_missing_users(vault, "nobody") == 0
    assert await missing.count_present_grants(vault, "nobody", limit=9) == 0
    assert await missing.count_users(vault, "nobody") == (0, 0)
    assert await export_diff.count_users_to_sync(vault, "nobody") == 0
    assert await export_diff.list_users_to_sync(vault, "nobody", limit=9) == []
    assert await cursors.load(vault, "nobody", "users") is None
    sql("INSERT INTO sync_runs (tenant, scope, started_at, finished_at, complete) VALUES"
        " ('default', 'all', now(), now(), true), ('default', 'all', now() + interval '1 s', now(), false)")  # fmt: skip
    assert await runs.last_complete(vault, "nobody", "all") is None
    assert await runs.last_started(vault, "nobody", "connections") is None
    assert await runs.failures(vault, "nobody", "all") == (0, None)
    assert await presence.list_absent(vault, "nobody", []) == {}
    events = [row["id"] for row in await outbox.list_events(vault, ONE)]
    assert (len(events), await outbox.list_events(vault, ["nobody"])) == (1, [])
    assert await outbox.resend(vault, ["nobody"], EVENTS, now=await vault.now(), ids=events) == []
    assert await refusals.last_renewal(vault, tenant="nobody", connection="custom") is None
    assert await changed_users.claim(vault, "nobody", limit=9) == []
    assert await claims.count_ordered(vault, ["nobody"]) == 0
    assert await queries.list_grants(vault, ["nobody"]) == []
    assert await queries.count_grants(vault, ["nobody"]) == 0
    assert await revocations.count_pending(vault, Scope(["nobody"])) == {}
    assert [each async for each in export(vault, PauseScope("nobody"), reason="")] == []
    exported = [each async for each in export(vault, PauseScope("default"), reason="a move")]
    assert [each.key for each in exported] == [KEY]
    assert await count_left_out(vault, PauseScope("nobody")) == []
    compared = await compare(vault, [(USER, EARLIER + timedelta(days=1))], await vault.now(), tenant="nobody")
    assert (compared.wanted, compared.gone) == (1, 0)
    assert timedelta(0) <= await vault.now() - (await queries.last_observed(vault, "default", [USER]))[USER]


async def test_the_oldest_of_a_user_s_grants_says_when_it_was_read(
    vault: Vault, rows: Rows, sql: Sql
) -> None:
    """A user is read again as long as one of the grants has not been seen as Auth0 shows the user now."""
    now = await vault.now()
    for number, connection in enumerate(("custom", "other")):
        grant_id = await rows.add(USER, connection)
        # One that was never observed has its user read in any case.
        assert (await compare(vault, [(USER, EARLIER)], now)).wanted == 1
        sql(
            "UPDATE grants SET observed_updated_at = %s WHERE id = %s",
            LATER - timedelta(days=number),
            grant_id,
        )
    assert (await compare(vault, [(USER, LATER - timedelta(hours=12))], now)).wanted == 1
    assert (await compare(vault, [(USER, LATER - timedelta(hours=36))], now)).wanted == 0
    assert [(await compare(vault, [], now)).gone for _ in range(2)] == [2, 0]  # marked once
    assert await queries.last_observed(vault, "default", [USER]) == {USER: LATER - timedelta(days=1)}


async def test_a_token_s_life_and_age(vault: Vault, rows: Rows, sql: Sql) -> None:
    """The shortest life of a user's accounts counts, and only a renewal has an age."""
    for number, life in enumerate((3600, 600, 7200)):
        grant_id = await rows.add(USER, subject=f"u{number}", life=life)
    assert await queries.shortest_half_life(vault, None, USER, "custom") == pytest.approx(300, abs=1)
    assert await queries.renewal_age(vault, grant_id) == pytest.approx(3600, abs=60)
    sql("UPDATE grants SET obtained_from = 'auth0'")
    assert await queries.renewal_age(vault, grant_id) is None


async def test_a_security_event_is_of_the_living_grants_of_its_account(
    vault: Vault, both: dict[str, int], sql: Sql
) -> None:
    """Of all tenants, where the transmitter is not one's; never of an account of that id at another provider."""
    for tenants, connection, account, found in (
        (["default"], "custom", "u1", 1),
        (None, "custom", "u1", 2),
        (["nobody"], "custom", "u1", 0),
        (["default"], "another", "u1", 0),
        (["default"], "custom", "u2", 0),
    ):
        reported = await report_security_event(
            vault, tenants=tenants, connections=[connection], account=account
        )
        assert reported == found, (tenants, connection, account)
    for state, found in (
        ("state = 'in_doubt', in_doubt_since = now()", 2),
        ("state = 'reauthorization_required', reason = 'refused', reason_since = now()", 0),
    ):
        sql(f"UPDATE grants SET {state}")
        reported = await report_security_event(vault, tenants=None, connections=["custom"], account="u1")
        assert reported == found, state
    told = sql("SELECT tenant FROM outbox WHERE kind = 'grant.reauthorization_required' ORDER BY tenant")
    assert told == [{"tenant": "default"}, {"tenant": "other"}]  # each once, by its own connection


@pytest.mark.usefixtures("both")
async def test_an_event_comes_once_though_tenants_have_connections_of_one_name(
    vault: Vault, sql: Sql
) -> None:
    """The event has its own tenant's connection; another tenant's of the same name adds none."""
    sql(
        "UPDATE grants SET scopes = array_append(scopes, 'mail'), consent_expires_at = now() + interval '2 d'"
    )
    sql("UPDATE grants SET scopes = array_remove(scopes, 'mail') WHERE tenant = 'default'")
    await outbox.report_consent_ending(vault, ONE, now=await vault.now())
    events = sql("SELECT tenant, kind FROM outbox WHERE kind <> 'grant.expiring' ORDER BY kind")
    assert [tuple(row.values()) for row in events] == [
        ("default", "grant.consent_ending"),
        ("default", "grant.scopes_lost"),
    ]


CLIENT = b"c" * 16
THIS: dict[str, Any] = {"tenant": "default", "name": "custom"}


async def erase_connection(vault: Vault, _: datetime) -> None:
    async with vault.engine.begin() as connection:
        assert len(await erase.erase_connection(connection, "default", "custom")) == 1


async def count_anew(vault: Vault, _: datetime) -> None:
    async with vault.engine.begin() as connection:
        await refusals.count_anew(connection, tenant="default", connection="custom")


# Each concerns the connection `custom` of the tenant `default`.
CONNECTION_OPERATIONS: dict[str, Operation] = {
    "a trusted host": lambda vault, _: client.trust_host(vault, "default", "custom", "idp.example"),
    "observations": lambda vault, _: observations.record_observations(
        vault, **THIS, rotating=True, grace=1.0
    ),
    "a refused client": lambda vault, now: circuits.open_circuit(
        vault, **THIS, fingerprint=CLIENT, code="y", claimed_at=LATER, now=now
    ),
    "a probe": lambda vault, _: circuits.claim_probe(vault, **THIS, now=LATER, until=LATER),
    "a probe that was not sent": lambda vault, now: circuits.release_probe(vault, **THIS, now=now),
    "an answer": lambda vault, now: circuits.record_answer(vault, **THIS, now=now, probe_again=True),
    "a renewal": lambda vault, now: circuits.acquit(vault, **THIS, fingerprint=CLIENT, now=now),
    "an answer while the circuit is closed": lambda vault, now: circuits.record_answer(
        vault, **THIS, now=now, probe_again=True
    ),
    "no probe while the circuit is closed": lambda vault, now: circuits.release_probe(vault, **THIS, now=now),
    "refusals counted anew": count_anew,
    "a missing connection": lambda vault, now: presence.mark_missing(vault, "default", "custom", now=now),
    "an erased connection": erase_connection,
}


async def test_connections_of_one_name_are_each_their_own_tenant_s(
    vault: Vault, rows: Rows, sql: Sql
) -> None:
    """Whatever is learned of one, or becomes of it and its admin grant, leaves the other tenant's as it is."""
    for tenant in ("default", "other"):
        grant_id = await rows.add("", tenant=tenant)
        sql(
            "INSERT INTO refusals (grant_id, tenant, connection, client, suspicion, code, tries, first_at, last_at)"
            " VALUES (%s, %s, 'custom', %s, 'client', 'x', 3, now(), now())",
            grant_id, tenant, CLIENT,
        )  # fmt: skip
    sql(
        "UPDATE connections SET auth0_id = 'con_1', options_ciphertext = 'x', client_fingerprint = %s,"
        " circuit_opened_at = now(), circuit_until = now(), circuit_code = 'x', circuit_failures = 1,"
        " circuit_blame = 'operator'",
        CLIENT,
    )

    def others() -> list[list[dict[str, Any]]]:
        return [
            sql(f"SELECT * FROM {table} WHERE tenant = 'other'")
            for table in ("connections", "grants", "refusals")
        ]

    assert await queries.find_admin_grant(vault, "nobody", "custom") is None
    before = others()
    for name, run in CONNECTION_OPERATIONS.items():
        await run(vault, await vault.now())
        assert others() == before, name
    # The other tenant's admin grant does not need this client.
    [left] = sql("SELECT options_ciphertext, missing_since FROM connections WHERE tenant = 'default'")
    assert (left["options_ciphertext"], left["missing_since"] is None) == (None, False)
    assert await presence.count_missing(vault, "other", before=LATER) == ([], 0, 1)


@pytest.mark.usefixtures("both")
async def test_a_link_asks_for_what_was_granted_at_its_own_tenant(vault: Vault, sql: Sql) -> None:
    """Nobody is asked for what somebody else of the same id has granted elsewhere."""
    sql("UPDATE grants SET scopes = ARRAY['mail'] WHERE tenant = 'other'")
    application = ReconnectApplication(
        "https://acme.eu.auth0.com",
        "web",
        "https://app.example/",
        "openid",
        Secret("s" * 32),
        timedelta(days=7),
    )
    link = await consent_link(
        vault, application, tenant="default", connection="custom", user_id=USER, now=await vault.now()
    )
    asked = dict(parse_qsl(urlsplit(link).query))["connection_scope"]
    assert asked.split(",") == ["read", "write"]


@pytest.mark.usefixtures("both")
async def test_a_pause_is_of_its_own_tenant(vault: Vault, sql: Sql) -> None:
    """It stops and is told to nobody else, and another tenant's resume does not end it."""
    sql("DELETE FROM outbox")
    now = await vault.now()
    await pauses.start(vault, PauseScope("default"), reason="a move", by="ann", until=None, now=now)
    assert await pauses.find(vault, "default", "custom") is not None
    assert await pauses.find(vault, "other", "custom") is None
    assert await pauses.list_pauses(vault, ["other"]) == []
    [ending, *_] = await pauses.count_ending(vault, PauseScope("default"), until=LATER, now=now)
    assert ending.access_tokens == 1
    assert await pauses.end(vault, PauseScope("other"), by="bob", now=now) == []
    await pauses.start(vault, PauseScope("default"), reason="a move", by="ann", until=LATER, now=LATER)
    found = await pauses.find(vault, "default", "custom")
    assert found is not None
    assert (found.since, found.until, found.retry_after(LATER + timedelta(hours=1))) == (now, LATER, 1.0)
    sql("DELETE FROM outbox WHERE at > (SELECT min(at) FROM outbox)")
    assert await pauses.end(vault, PauseScope("default", "another"), by="bob", now=now) == []
    [ended] = await pauses.end(vault, PauseScope("default"), by="ann", now=now)
    assert ended.scope == PauseScope("default")
    told = sql("SELECT tenant, kind FROM outbox ORDER BY at")
    assert [tuple(row.values()) for row in told] == [
        ("default", "connection.paused"),
        ("default", "connection.resumed"),
    ]
