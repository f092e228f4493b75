from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.keys import ACCESS_KEY
from tests.support.rows import Sql
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.providers import ClientAuth
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.settings import ConnectionSettings, Schedule, Settings, TenantSettings
from worker.vault.connections import circuits, observations
from worker.vault.connections import connection as table
from worker.vault.vault import Vault

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GOOGLE = {"client_id": "id-1", "client_secret": "canary-1", "scope": ["email"]}


def configured(domain: str = "acme.auth0.com", **overrides: ConnectionSettings) -> Settings:
    """Settings with one tenant and these overrides."""
    tenant = TenantSettings(domain=domain, client_id="m2m", client_secret=Secret("x"))
    return Settings(
        home=Path(), spool=Path(), database_url=None, redis_url=None, access_keys=(), refresh_keys=(),
        tenants={"default": tenant}, connections=overrides, schedule=Schedule(),
    )  # fmt: skip


async def show(
    vault: Vault,
    options: dict[str, Any] | None,
    *,
    name: str = "google",
    strategy: str = "google-oauth2",
    tenant: str = "default",
    notes: tuple[str, ...] = (),
) -> None:
    """Let Auth0 show a connection."""
    await table.store_connection(
        vault, tenant=tenant, name=name, auth0_id="con_1", strategy=strategy, options=options, notes=notes, now=NOW
    )  # fmt: skip


async def loaded(vault: Vault, settings: Settings | None = None, name: str = "google") -> ResolvedConnection:
    """The connection as a worker that has just started sees it."""
    return (await ConnectionResolver(vault, settings or configured()).load(["default"]))["default", name]


# What is stored


async def test_options_are_sealed(vault: Vault, sql: Sql) -> None:
    """No column of a connection holds a client secret; what was stored is what opens."""
    await show(vault, GOOGLE)
    await loaded(vault)
    assert "canary" not in repr(sql("SELECT * FROM connections"))
    [stored] = await table.load_connections(vault, ["default"])
    assert table.decrypt_options(vault, stored) == GOOGLE
    assert "canary" not in repr(stored)


async def test_absent_options_never_erase_those_held(vault: Vault) -> None:
    """A scope that was taken away does not cost the client credentials known by then."""
    await show(vault, GOOGLE)
    await show(vault, None, notes=("no options",))
    connection = await loaded(vault)
    assert connection.client is not None
    assert connection.client.client_secret == Secret("canary-1")


async def test_a_connection_shown_again_is_not_written_again(vault: Vault, sql: Sql) -> None:
    """Options that have not changed keep their ciphertext; those that have get a new version."""
    versions = "SELECT options_version AS version, options_ciphertext AS sealed FROM connections"
    await show(vault, GOOGLE)
    before = sql(versions)
    await show(vault, dict(reversed(GOOGLE.items())))
    assert sql(versions) == before
    await show(vault, GOOGLE | {"scope": ["email", "drive"]})
    assert sql(versions)[0]["version"] == before[0]["version"] + 1


async def test_the_same_name_at_two_tenants_is_two_connections(vault: Vault) -> None:
    """Each tenant's connection has credentials of its own."""
    await show(vault, GOOGLE)
    await show(vault, GOOGLE | {"client_id": "id-2"}, tenant="other")
    both = await ConnectionResolver(vault, configured()).load(["default", "other"])
    clients = {tenant: connection.client for (tenant, _), connection in both.items()}
    assert {tenant: client and client.client_id for tenant, client in clients.items()} == {
        "default": "id-1",
        "other": "id-2",
    }


@pytest.mark.parametrize("name", ["x", 'a"b', "café ☕", "'; DROP TABLE grants; --", "a/b\n%s %(name)s"])
async def test_a_name_is_any_text(vault: Vault, name: str) -> None:
    """A connection's name is data wherever it goes."""
    await show(vault, GOOGLE, name=name)
    assert (await loaded(vault, name=name)).client is not None


@pytest.mark.parametrize(
    "damage",
    [
        "options_ciphertext = (SELECT options_ciphertext FROM connections WHERE name = 'other')",
        "options_version = options_version + 1",
        "options_ciphertext = 'nonsense'",
        "name = 'renamed'",
    ],
)
async def test_options_out_of_place_are_a_problem_of_that_connection(
    vault: Vault, sql: Sql, damage: str
) -> None:
    """Swapped or damaged options do not open; the connection says so, and the others work on."""
    await show(vault, GOOGLE)
    await show(vault, GOOGLE | {"client_secret": "canary-2"}, name="other")
    sql(f"UPDATE connections SET {damage} WHERE name = 'google'")
    both = await ConnectionResolver(vault, configured()).load(["default"])
    assert both["default", "other"].client is not None
    [broken] = [connection for (_, name), connection in both.items() if name != "other"]
    assert broken.client is None
    assert broken.problem is not None
    assert broken.problem.code == "cannot_open"
    assert broken.name in broken.problem.message
    assert "canary" not in broken.problem.message
    assert sql("SELECT problem FROM connections WHERE name <> 'other'") == [{"problem": "cannot_open"}]


async def test_options_that_do_not_open_are_replaced_by_those_shown_next(vault: Vault, sql: Sql) -> None:
    """After a key was lost, a sync fixes the connections by itself."""
    await show(vault, GOOGLE)
    sealed = KeyRing("refresh", [KeyRing.generate()]).encrypt(
        EncryptionContext("connections", ("default", "google"), "options", 1), Secret(json.dumps(GOOGLE))
    )
    sql("UPDATE connections SET options_ciphertext = %s", sealed)
    [stored] = await table.load_connections(vault, ["default"])
    with pytest.raises(CannotDecrypt, match="VAULT_REFRESH_KEYS"):
        table.decrypt_options(vault, stored)
    await show(vault, GOOGLE)
    assert (await loaded(vault)).client is not None


async def test_a_reader_cannot_open_options(vault: Vault) -> None:
    """Client secrets are under the refresh ring, which readers do not hold."""
    await show(vault, GOOGLE)
    [stored] = await table.load_connections(vault, ["default"])
    place = EncryptionContext("connections", ("default", "google"), "options", stored.options_version)
    assert stored.options_ciphertext is not None
    with pytest.raises(CannotDecrypt):
        KeyRing("access", [ACCESS_KEY]).decrypt(place, stored.options_ciphertext)


# What becomes of it


@pytest.mark.parametrize(
    ("strategy", "options", "problem"),
    [
        ("google-oauth2", {"client_id": "", "client_secret": ""}, "development_keys"),
        ("google-oauth2", {}, "development_keys"),
        ("google-oauth2", {"client_id": "id"}, "no_client_secret"),
        ("google-oauth2", None, "missing_options"),
        ("auth0", {}, "unsupported_strategy"),
        ("samlp", GOOGLE, "unsupported_strategy"),
        ("oauth2", GOOGLE, "no_token_url"),
        ("yahoo", GOOGLE, "unsupported_strategy"),
        ("oauth2", GOOGLE | {"tokenURL": "http://idp.example/token"}, "insecure_token_url"),
        ("oauth2", GOOGLE | {"tokenURL": "http://127.0.0.1:1/token"}, "insecure_token_url"),
        ("oauth2", GOOGLE | {"tokenURL": "https://u:canary@idp.example/token"}, "bad_option"),
        ("oidc", GOOGLE, "no_token_url"),
    ],
)
async def test_why_nothing_can_be_renewed_is_recorded(
    vault: Vault, sql: Sql, strategy: str, options: dict[str, Any] | None, problem: str
) -> None:
    """A connection without a client says why, for the operator, and shows no secret."""
    await show(vault, options, strategy=strategy)
    connection = await loaded(vault)
    assert connection.client is None
    [row] = sql("SELECT problem, problem_message, client_fingerprint FROM connections")
    assert row["problem"] == problem
    assert row["problem_message"]
    assert "canary" not in row["problem_message"]
    assert row["client_fingerprint"] is None


async def test_a_problem_that_is_mended_is_gone(vault: Vault, sql: Sql) -> None:
    """Credentials of one's own in place of Auth0's development keys fix the connection, and their loss is reported."""
    for options, problem in (({}, "development_keys"), (GOOGLE, None), ({}, "development_keys")):
        await show(vault, options)
        await loaded(vault)
        assert sql("SELECT problem FROM connections") == [{"problem": problem}]


async def test_another_problem_of_the_same_kind_is_told(vault: Vault, sql: Sql) -> None:
    """An operator who fixes one bad option and leaves another reads about the other."""
    messages = set()
    for options in ({"tokenURL": "no-url"}, {"token_endpoint_auth_method": "tls_client_auth"}):
        await show(vault, GOOGLE | options, strategy="oauth2")
        await loaded(vault)
        [row] = sql("SELECT problem, problem_message FROM connections")
        assert row["problem"] == "bad_option"
        messages.add(row["problem_message"])
    assert len(messages) == 2


async def test_a_stub_heals_when_its_connection_is_shown(vault: Vault, sql: Sql) -> None:
    """A connection known by its users alone becomes whole with the next sync."""
    sql(
        "INSERT INTO connections (tenant, name, strategy, problem) VALUES ('default', 'google', 'x', 'not_shown')"
    )
    assert (await loaded(vault)).client is None
    await show(vault, GOOGLE)
    assert (await loaded(vault)).client is not None
    assert sql("SELECT strategy, provider, client_id, problem FROM connections") == [
        {"strategy": "google-oauth2", "provider": "google", "client_id": "id-1", "problem": None}
    ]


async def test_what_has_not_changed_is_not_written(vault: Vault, sql: Sql) -> None:
    """Loading connections costs reads alone, however often it is done."""
    await show(vault, GOOGLE)
    known = ConnectionResolver(vault, configured())
    await known.load(["default"])
    before = sql("SELECT xmin::text, ctid::text FROM connections")
    await known.load(["default"])
    await loaded(vault)
    assert sql("SELECT xmin::text, ctid::text FROM connections") == before


async def test_the_operators_settings_win(vault: Vault) -> None:
    """Each thing that is set for a connection counts more than what Auth0 shows; the rest stays Auth0's."""
    await show(vault, GOOGLE)
    override = ConnectionSettings(
        token_url="https://proxy.example/token", client_secret="canary-own", client_auth="client_secret_basic"
    )
    client = (await loaded(vault, configured(google=override))).client
    assert client is not None
    assert client.token_url == "https://proxy.example/token"
    assert client.client_secret == Secret("canary-own")
    assert (client.client_id, client.auth) == ("id-1", ClientAuth.BASIC)


async def test_settings_for_another_tenant_do_not_count(vault: Vault) -> None:
    """An override that names a tenant is that tenant's alone."""
    await show(vault, GOOGLE)
    override = ConnectionSettings(tenant="other", client_id="not-mine")
    client = (await loaded(vault, configured(google=override))).client
    assert client is not None
    assert client.client_id == "id-1"


@pytest.mark.parametrize(
    "domain",
    [
        *("127.0.0.1:8080", "http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:1"),
        "http://127.0.0.2:8080",
    ],
)
async def test_an_emulated_tenant_may_name_endpoints_on_loopback(vault: Vault, domain: str) -> None:
    """Plain HTTP towards this machine is allowed where the tenant itself is on it."""
    await show(vault, GOOGLE | {"tokenURL": "http://127.0.0.1:9/token"}, strategy="oauth2")
    assert (await loaded(vault, configured(domain))).client is not None


async def test_new_credentials_are_seen_without_a_restart(vault: Vault) -> None:
    """A worker that runs on takes what a sync stored."""
    known = ConnectionResolver(vault, configured())
    for number in range(3):
        await show(vault, GOOGLE | {"client_id": f"id-{number}"})
        client = (await known.load(["default"]))["default", "google"].client
        assert client is not None
        assert client.client_id == f"id-{number}"


async def test_options_are_opened_once(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that have not changed cost a worker no decryption at its next tick."""
    await show(vault, GOOGLE)
    known = ConnectionResolver(vault, configured())
    await known.load(["default"])
    monkeypatch.setattr(table, "decrypt_options", None)
    assert (await known.load(["default"]))["default", "google"].client is not None


async def test_two_syncs_that_store_at_once_leave_no_worker_behind(vault: Vault) -> None:
    """Whichever of two syncs stored last, a worker that had seen the other's credentials takes these."""
    await show(vault, GOOGLE)
    known = ConnectionResolver(vault, configured())
    [before] = await table.load_connections(vault, ["default"])
    for number in (1, 2):  # both found the same version, and so both store the next one
        options = GOOGLE | {"client_id": f"id-{number}"}
        place = EncryptionContext("connections", ("default", "google"), "options", before.options_version + 1)
        await _overwrite(
            vault, vault.refresh.encrypt(place, Secret(json.dumps(options))), before.options_version + 1
        )
        client = (await known.load(["default"]))["default", "google"].client
        assert client is not None
        assert client.client_id == f"id-{number}"


async def _overwrite(vault: Vault, sealed: bytes, version: int) -> None:
    async with vault.engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE connections SET options_ciphertext = %s, options_version = %s", (sealed, version)
        )


async def test_a_connection_stored_twice_at_once_opens(vault: Vault) -> None:
    """However two syncs interleave, what is stored is the one's or the other's, whole."""
    for _ in range(5):
        await asyncio.gather(*(show(vault, GOOGLE | {"client_id": f"id-{n}"}) for n in range(4)))
        client = (await loaded(vault)).client
        assert client is not None
        assert client.client_id in {f"id-{n}" for n in range(4)}


async def test_options_that_change_meanwhile_are_replaced_none_the_less(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that two others overtake looks again, instead of failing or going back."""
    await show(vault, GOOGLE)
    load = table.load_connections

    async def load_and_be_overtaken(*asked: Any) -> list[table.StoredConnection]:
        found = await load(*asked)
        monkeypatch.setattr(table, "load_connections", load)
        for n in (2, 3):
            await show(vault, GOOGLE | {"client_id": f"id-{n}"})
        return found

    monkeypatch.setattr(table, "load_connections", load_and_be_overtaken)
    await show(vault, GOOGLE | {"client_id": "id-4"})
    client = (await loaded(vault)).client
    assert client is not None
    assert client.client_id == "id-4"


# The circuit


async def test_a_fingerprint_changes_with_the_client_alone(vault: Vault) -> None:
    """Credentials, endpoint, authentication and parameters count; anything else in the options does not."""
    await show(vault, GOOGLE)
    first = await loaded(vault)
    await show(vault, GOOGLE | {"icon_url": "https://x.example/"})
    assert (await loaded(vault)).fingerprint == first.fingerprint
    seen = {first.fingerprint}
    for change in ({"client_id": "id-2"}, {"client_secret": "canary-2"}):
        await show(vault, GOOGLE | change)
        seen.add((await loaded(vault)).fingerprint)
    for override in (
        ConnectionSettings(token_url="https://proxy.example/token"),
        ConnectionSettings(client_auth="basic"),
        ConnectionSettings(extra={"audience": "x"}),
        ConnectionSettings(extra={"audienc": "ex"}),
        ConnectionSettings(scope="openid"),
    ):
        seen.add((await loaded(vault, configured(google=override))).fingerprint)
    assert len(seen) == 8


async def opened(
    vault: Vault, connection: ResolvedConnection, *, began: datetime, now: datetime
) -> datetime | None:
    """Open the circuit for a client that was refused."""
    return await circuits.open_circuit(
        vault, tenant="default", name="google", fingerprint=connection.fingerprint, code="invalid_client",
        claimed_at=began, now=now,
    )  # fmt: skip


async def test_the_pause_doubles_with_each_probe_that_fails(vault: Vault, sql: Sql) -> None:
    """A quarter of a minute, a minute, two, four, up to an hour; when it opened is kept."""
    await show(vault, GOOGLE)
    connection, now, waits = await loaded(vault), NOW, []
    for _ in range(9):
        until = await opened(vault, connection, began=now, now=now + timedelta(seconds=1))
        assert until is not None
        waits.append((until - now).total_seconds() - 1)
        now = until
    assert waits == [15, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    [row] = sql("SELECT * FROM connections")
    assert (row["circuit_opened_at"], row["circuit_code"]) == (NOW + timedelta(seconds=1), "invalid_client")


async def test_refusals_of_calls_already_under_way_say_nothing_new(vault: Vault, sql: Sql) -> None:
    """A hundred calls that were refused together count as one."""
    await show(vault, GOOGLE)
    connection = await loaded(vault)
    until = await opened(vault, connection, began=NOW, now=NOW + MINUTE)
    for _ in range(3):
        assert await opened(vault, connection, began=NOW, now=NOW + 2 * MINUTE) is None
    assert sql("SELECT circuit_failures, circuit_until FROM connections") == [
        {"circuit_failures": 1, "circuit_until": until}
    ]


async def test_a_late_refusal_of_replaced_credentials_opens_nothing(vault: Vault) -> None:
    """The verdict on a client that has been corrected meanwhile is not held against the new one."""
    await show(vault, GOOGLE)
    old = await loaded(vault)
    await show(vault, GOOGLE | {"client_secret": "canary-corrected"})
    await loaded(vault)
    assert await opened(vault, old, began=NOW, now=NOW) is None
    assert (await loaded(vault)).circuit.opened_at is None


@pytest.mark.parametrize("by", ["auth0", "settings"])
async def test_corrected_credentials_close_the_circuit(vault: Vault, sql: Sql, by: str) -> None:
    """A secret corrected at Auth0 or in the settings closes the circuit at once, and resets its counts."""
    await show(vault, GOOGLE)
    assert await opened(vault, await loaded(vault), began=NOW, now=NOW) is not None
    assert (await loaded(vault)).circuit.code == "invalid_client"
    if by == "auth0":
        await show(vault, GOOGLE | {"client_secret": "canary-corrected"})
        connection = await loaded(vault)
    else:
        connection = await loaded(vault, configured(google=ConnectionSettings(client_secret="canary-own")))
    assert (connection.circuit.opened_at, connection.circuit.until) == (None, None)
    assert sql(
        "SELECT circuit_opened_at, circuit_until, circuit_code, circuit_failures FROM connections"
    ) == [{"circuit_opened_at": None, "circuit_until": None, "circuit_code": None, "circuit_failures": 0}]


async def test_a_sync_that_shows_the_same_leaves_the_circuit_open(vault: Vault) -> None:
    """Neither other notes nor other options close the circuit while the client is the same."""
    await show(vault, GOOGLE)
    await opened(vault, await loaded(vault), began=NOW, now=NOW)
    await show(vault, GOOGLE | {"icon_url": "https://x.example/"}, notes=("a note",))
    assert (await loaded(vault)).circuit.opened_at == NOW


async def test_a_probe_that_succeeds_closes_the_circuit(vault: Vault) -> None:
    """Closing gives a clean record; closing what is closed does nothing."""
    await show(vault, GOOGLE)
    await opened(vault, await loaded(vault), began=NOW, now=NOW)
    for _ in range(2):
        fingerprint = (await loaded(vault)).fingerprint
        await circuits.acquit(vault, tenant="default", name="google", fingerprint=fingerprint, now=NOW)
        assert (await loaded(vault)).circuit.opened_at is None
    assert await opened(vault, await loaded(vault), began=NOW, now=NOW) == NOW + MINUTE / 4


async def test_another_client_has_renewed_nothing_yet(vault: Vault, sql: Sql) -> None:
    """Else its own refusals would be held against the grants; a new secret is the same client's."""
    await show(vault, GOOGLE)
    fingerprint = (await loaded(vault)).fingerprint
    await circuits.acquit(vault, tenant="default", name="google", fingerprint=fingerprint, now=NOW)
    for change, renewed_at in (({"client_secret": "canary-2"}, NOW), ({"client_id": "id-2"}, None)):
        await show(vault, GOOGLE | change)
        await loaded(vault)
        [row] = sql("SELECT renewed_at, answered_at, client_changed_at FROM connections")
        assert (row["renewed_at"], row["answered_at"]) == (renewed_at, renewed_at)
        assert (row["client_changed_at"] is None) == (renewed_at is not None)


async def test_observations_change_in_one_direction(vault: Vault, sql: Sql) -> None:
    """The shortest times count, and who was seen to rotate is not taken for one that does not."""
    await show(vault, GOOGLE)
    for rotating, grace, life in ((True, 5.0, MINUTE), (False, 9.0, 2 * MINUTE)):
        await observations.record_observations(
            vault, tenant="default", name="google", rotating=rotating, grace=grace, life=life
        )
    [row] = sql("SELECT observed_rotating, observed_grace, observed_life FROM connections")
    assert (row["observed_rotating"], row["observed_grace"], row["observed_life"]) == (True, 5.0, MINUTE)


async def test_a_connection_prints_no_secret(vault: Vault) -> None:
    """What travels between the rooms shows no client secret when printed."""
    await show(vault, GOOGLE)
    connection = await loaded(vault)
    assert "canary" not in f"{connection} {connection!r} {asdict(connection)}"
    assert connection.client is not None
    assert connection.client.client_secret == Secret("canary-1")
