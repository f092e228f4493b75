from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from emulators.client import Emulation
from tests.support import rows
from tests.support.rows import Sql
from tests.support.wait import until_async
from token_vault.grant_key import GrantKey
from worker.auth0 import ManagementClient
from worker.auth0.errors import Auth0NotFound, Auth0RateLimited, Auth0Unreachable, MissingScope
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime, credentials_of
from worker.sync.tenant_sync import TenantSync
from worker.sync.token_store import VaultTokenStore
from worker.vault import leases
from worker.vault.ingest.ingest import IngestStats
from worker.vault.vault import Vault

SCOPES = {"read:users", "read:user_idp_tokens", "read:connections", "read:connections_options"}
LIST = "/api/v2/users"
BY_ID = "GET /api/v2/users/{id}"


class Bench:
    """An emulated tenant, a vault, and a sync between them that never really sleeps."""

    def __init__(
        self, tenant: Emulation, runtime: Runtime, sync: TenantSync, sql: Sql, waits: list[float]
    ) -> None:
        self.tenant = tenant
        self.runtime = runtime
        self.sync = sync
        self.sql = sql
        self.waits = waits

    def held(self, user_id: str, connection: str = "google-oauth2") -> tuple[str | None, str | None]:
        """The tokens that the vault holds of a user's one identity of a connection."""
        return rows.opened(self.runtime.vault, self.row(user_id, connection))

    def row(self, user_id: str, connection: str = "google-oauth2") -> dict[str, Any]:
        """The row of a user's one identity of a connection."""
        [row] = self.sql("SELECT * FROM grants WHERE user_id = %s AND connection = %s", user_id, connection)
        return row

    def connection(self, name: str = "google-oauth2") -> dict[str, Any]:
        """The row of a connection."""
        [row] = self.sql("SELECT * FROM connections WHERE name = %s", name)
        return row

    def run(self) -> dict[str, Any]:
        """The record of the last sync."""
        return self.sql("SELECT * FROM sync_runs ORDER BY id DESC LIMIT 1")[0]

    def grants(self) -> int:
        """How many grants the vault holds."""
        return int(self.sql("SELECT count(*) AS n FROM grants")[0]["n"])

    def shown(self, user_id: str, number: int = 0) -> tuple[str | None, str | None]:
        """The tokens that Auth0 shows of one of a user's identities."""
        identity = self.tenant.user(user_id)["identities"][number]
        return identity.get("access_token"), identity.get("refresh_token")


@pytest.fixture
async def open_bench(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Sql
) -> AsyncIterator[Callable[[], Awaitable[Bench]]]:
    """Open a bench on the emulation as it stands now."""
    async with AsyncExitStack() as stack:

        async def open_now() -> Bench:
            runtime, waits = await open_worker(), list[float]()

            async def sleep(seconds: float) -> None:
                waits.append(seconds)
                await asyncio.sleep(0)

            credentials = credentials_of(runtime.settings, "default")
            store = VaultTokenStore(runtime.vault, "default", credentials)
            auth0 = await stack.enter_async_context(ManagementClient(credentials, store, sleep=sleep))
            sync = TenantSync("default", runtime.vault, runtime.connections, auth0)
            return Bench(tenant, runtime, sync, sql, waits)

        yield open_now


@pytest.fixture
def google(tenant: Emulation) -> list[str]:
    """Five users of Google."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    return tenant.add_users("google-oauth2", 5)


OpenBench = Callable[[], Awaitable[Bench]]


# Users and their tokens


async def test_connections_come_first(open_bench: OpenBench, google: list[str]) -> None:
    """Renewal needs their credentials, so they are read before the first user is."""
    bench = await open_bench()
    report = await bench.sync.sync_all()
    assert report.ok
    assert (report.connections, report.seen, report.stats) == (1, 5, IngestStats(new=5))
    asked = [call["path"] for call in bench.tenant.call_log("/api/v2")]
    assert asked[0] == "/api/v2/connections"
    assert set(asked[1:]) == {LIST}


async def test_every_identity_keeps_its_own_tokens(open_bench: OpenBench, tenant: Emulation) -> None:
    """Linked accounts, two of one connection among them, and ids that are numbers: each token is its identity's."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_connection("github", "github", "github")
    tenant.add_connection("Username-Password-Authentication", "auth0", None)
    tenant.add_user(
        "google-oauth2|1111",
        [
            {"connection": "google-oauth2"},
            {"connection": "github", "user_id": 4711},
            {"connection": "google-oauth2", "user_id": "2222"},
            {"connection": "Username-Password-Authentication", "user_id": "abc"},
        ],
    )
    bench = await open_bench()
    assert (await bench.sync.sync_all()).stats == IngestStats(new=3)
    for number, connection, subject in (
        (0, "google-oauth2", "1111"),
        (1, "github", "4711"),
        (2, "google-oauth2", "2222"),
    ):
        row = rows.row_of(bench.sql, GrantKey("default", connection, "google-oauth2|1111", subject))
        assert rows.opened(bench.runtime.vault, row) == bench.shown("google-oauth2|1111", number)
        assert (row["expires_at"], row["obtained_at"]) == (None, None)


async def test_the_end_of_a_token_follows_from_the_login(open_bench: OpenBench, tenant: Emulation) -> None:
    """With a single identity it is the last login and the token's life; with linked ones nothing sound is known."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    at = tenant.now() - 600
    [single, primary] = tenant.add_users("google-oauth2", 2, expires_in=3599, at=at, spacing=0)
    [secondary] = tenant.add_users("bitbucket", 1)
    tenant.link(primary, secondary)
    bench = await open_bench()
    await bench.sync.sync_all()
    row = bench.row(single)
    assert abs(row["obtained_at"] - datetime.fromtimestamp(at, UTC)) < timedelta(milliseconds=2)
    assert row["expires_at"] - row["obtained_at"] == timedelta(seconds=3599)
    for connection in ("google-oauth2", "bitbucket"):
        assert (bench.row(primary, connection)["expires_at"], bench.row(primary, connection)["obtained_at"]) == (
            None, None
        )  # fmt: skip


async def test_a_second_sync_changes_nothing(open_bench: OpenBench, google: list[str]) -> None:
    """What Auth0 shows as before costs one page, and not one write to a grant."""
    bench = await open_bench()
    await bench.sync.sync_all()
    before = bench.sql("SELECT id, xmin::text, ctid::text FROM grants ORDER BY id")
    bench.tenant.reset_calls()
    assert (await bench.sync.sync_all()).stats == IngestStats(unchanged=5)
    assert bench.sql("SELECT id, xmin::text, ctid::text FROM grants ORDER BY id") == before
    assert bench.tenant.calls("/api/v2") == {"GET /api/v2/connections": 1, f"GET {LIST}": 1}
    assert bench.tenant.calls("/oauth/token") == {}


async def test_a_sync_after_a_renewal_takes_nothing_old(open_bench: OpenBench, tenant: Emulation) -> None:
    """At a provider that rotates, Auth0's copy is stale at once; neither a sync nor a full one brings it back."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.configure_provider("bitbucket", rotates=True, grace=0)
    users = tenant.add_users("bitbucket", 3)
    bench = await open_bench()
    await bench.sync.sync_all()
    for _ in range(2):
        bench.sql("UPDATE grants SET due_at = now()")
        assert await bench.runtime.engine.renew_due(["default"]) == {Outcome.RENEWED: 3}
        assert (await bench.sync.sync_all()).stats == IngestStats(unchanged=3)
        tenant.set_user(users[0], updated_at="2099-01-01T00:00:00.000Z")
        assert (await bench.sync.sync_all(full=True)).stats == IngestStats(unchanged=3)
    for user in users:
        assert bench.held(user, "bitbucket") == tuple(tenant.live(user, "bitbucket").values())
    assert tenant.double_spends() == 0


async def test_a_login_is_taken(open_bench: OpenBench, google: list[str]) -> None:
    """New tokens at Auth0 are taken by the next sync, also where a login brought no refresh token."""
    bench = await open_bench()
    await bench.sync.sync_all()
    _, refresh_before = bench.held(google[1])
    bench.tenant.advance(60)
    bench.tenant.login(google[0], consent=True)
    bench.tenant.login(google[1], consent=False)
    assert (await bench.sync.sync_all()).stats == IngestStats(changed=2, unchanged=3)
    assert bench.held(google[0]) == bench.shown(google[0])
    made = datetime.fromisoformat(bench.tenant.user(google[0])["created_at"])
    assert bench.row(google[0])["user_created_at"] == made  # which a login does not change
    assert bench.shown(google[1])[1] is None
    assert bench.held(google[1]) == (bench.shown(google[1])[0], refresh_before)
    assert refresh_before is not None


async def test_an_old_token_is_skipped_with_a_user_who_has_none(
    open_bench: OpenBench, tenant: Emulation
) -> None:
    """OAuth 1 identities, databases and enterprise directories bring nothing that could be kept."""
    tenant.add_connection("twitter", "twitter", "custom")
    tenant.add_connection("Username-Password-Authentication", "auth0", None)
    tenant.add_connection("corp-saml", "samlp", None)
    tenant.add_user("twitter|1", [{"connection": "twitter", "access_token": "t", "access_token_secret": "s"}])
    tenant.add_users("Username-Password-Authentication", 2)
    tenant.add_users("corp-saml", 2)
    bench = await open_bench()
    report = await bench.sync.sync_all()
    assert (report.ok, report.seen, report.stats) == (True, 5, IngestStats())
    assert bench.grants() == 0
    assert BY_ID not in bench.tenant.calls("/api/v2")


async def test_a_provider_that_exchanges_access_tokens_needs_no_refresh_token(
    open_bench: OpenBench, tenant: Emulation
) -> None:
    """Facebook's users are renewable without one; GitHub's, whose tokens do not end, are not and need not be."""
    tenant.add_connection("facebook", "facebook", "facebook")
    tenant.add_connection("github", "github", "github")
    [exchanged] = tenant.add_users("facebook", 1, refresh=False)
    [lasting] = tenant.add_users("github", 1, refresh=False, expires_in=None)
    bench = await open_bench()
    await bench.sync.sync_all()
    assert (bench.row(exchanged, "facebook")["state"], bench.row(lasting, "github")["state"]) == (
        "active", "unrenewable"
    )  # fmt: skip


async def test_progress_is_told_page_by_page(open_bench: OpenBench, tenant: Emulation) -> None:
    """Whoever waits sees how many users there are, and all of them seen at the end."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 250)
    bench, told = await open_bench(), list[tuple[int, int | None]]()
    await bench.sync.sync_all(progress=lambda seen, total: told.append((seen, total)))
    assert [total for _, total in told] == [250] * 4
    assert [seen for seen, _ in told] == sorted(seen for seen, _ in told)
    assert told[-1] == (250, 250)


async def test_linking_two_users_moves_what_is_held(open_bench: OpenBench, tenant: Emulation) -> None:
    """An identity that moves to another user keeps its rotated refresh token; the old one is not spent again."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.configure_provider("bitbucket", rotates=True, grace=0)
    [primary], [secondary] = tenant.add_users("google-oauth2", 1), tenant.add_users("bitbucket", 1)
    bench = await open_bench()
    await bench.sync.sync_all()
    bench.sql("UPDATE grants SET due_at = now()")
    await bench.runtime.engine.renew_due(["default"])
    renewed = bench.held(secondary, "bitbucket")
    tenant.link(primary, secondary)
    await bench.sync.sync_all()
    assert bench.held(primary, "bitbucket") == renewed
    bench.sql("UPDATE grants SET due_at = now()")
    await bench.runtime.engine.renew_due(["default"])
    assert tenant.double_spends() == 0


# Connections


async def test_a_connection_that_cannot_be_renewed_is_recorded(
    open_bench: OpenBench, tenant: Emulation
) -> None:
    """Auth0's development keys are no error of the sync: users are kept, and the operator is told why not more."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google", client_id="", client_secret="")
    [user] = tenant.add_users("google-oauth2", 1)
    bench = await open_bench()
    assert (await bench.sync.sync_all()).stats == IngestStats(new=1)
    assert bench.connection()["problem"] == "development_keys"
    assert "own client" in bench.connection()["problem_message"]
    assert bench.held(user) == bench.shown(user)


async def test_auth0s_own_token_vault_is_pointed_out(open_bench: OpenBench, google: list[str]) -> None:
    """Where Auth0 may keep tokens back, the connection carries a note; with the switch off it is gone."""
    bench, name = await open_bench(), "google-oauth2"

    async def notes() -> list[str]:
        await bench.sync.sync_connections()
        return list(bench.connection()["notes"])

    bench.tenant.set_connection_options(name, federated_connections_access_tokens={"active": True})
    [note] = await notes()
    assert "Token Vault" in note
    bench.tenant.set_connection_options(name, federated_connections_access_tokens=None)
    bench.tenant.set_connection(name, connected_accounts={"active": True})
    [note] = await notes()
    assert "those of sign-ins are pulled as before" in note
    bench.tenant.set_connection(name, connected_accounts={"active": False})
    assert await notes() == []


async def test_a_connection_without_sign_ins_is_named(open_bench: OpenBench, google: list[str]) -> None:
    """Where no sign-in brings tokens, the connection and each sync say so, and what is held is renewed on."""
    bench, name = await open_bench(), "google-oauth2"
    await bench.sync.sync_all()
    bench.tenant.set_connection(name, authentication={"active": False}, connected_accounts={"active": True})
    report = await bench.sync.sync_connections()
    [note] = bench.connection()["notes"]
    assert "no sign-in brings tokens" in note
    assert report.notes == [f"connection {name}: {note}"]
    assert (report.ok, bench.connection()["problem"]) == (True, None)
    bench.tenant.set_connection(name, authentication={"active": True}, connected_accounts={"active": False})
    assert (await bench.sync.sync_connections()).notes == []
    assert bench.connection()["notes"] == []


@pytest.mark.parametrize(
    ("name", "strategy", "provider", "admin"),
    [
        ("corp-google", "google-apps", "google", True),
        ("corp-azure", "waad", "entra", True),
        ("corp-azure", "waad", "entra", "bare"),
    ],
)
async def test_admin_tokens_are_taken(
    open_bench: OpenBench, tenant: Emulation, name: str, strategy: str, provider: str, admin: Any
) -> None:
    """The tokens that an administrator's consent left in a connection are its admin grant, and renew like any other."""
    tenant.add_connection(name, strategy, provider, admin=admin)
    bench = await open_bench()
    assert (await bench.sync.sync_all()).stats == IngestStats(new=1)
    live = tenant.admin_live(name)
    assert bench.held("", name) == (live["access_token"], live["refresh_token"])
    assert bench.sql("SELECT kind, user_id, state FROM token_status") == [
        {"kind": "admin", "user_id": None, "state": "active"}
    ]
    options = json.dumps(await _options(bench, name))
    assert str(live["access_token"]) not in options
    assert str(live["refresh_token"]) not in options
    bench.sql("UPDATE grants SET due_at = now()")
    assert await bench.runtime.engine.renew_due(["default"]) == {Outcome.RENEWED: 1}
    renewed = bench.held("", name)
    assert (await bench.sync.sync_all()).stats == IngestStats(unchanged=1)
    assert bench.held("", name) == renewed
    tenant.login_admin(name)
    assert (await bench.sync.sync_all()).stats == IngestStats(changed=1)
    live = tenant.admin_live(name)
    assert bench.held("", name) == (live["access_token"], live["refresh_token"])


async def _options(bench: Bench, name: str) -> Any:
    from worker.vault.connections import connection as table

    [stored] = await table.load_connections(bench.runtime.vault, ["default"], name)
    return table.decrypt_options(bench.runtime.vault, stored)


def observe_refused_leases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each lease that another holds."""
    refused: list[str] = []
    real = leases.try_lease

    @asynccontextmanager
    async def observed(vault: Vault, name: str) -> AsyncIterator[bool]:
        async with real(vault, name) as is_held:
            if not is_held:
                refused.append(name)
            yield is_held

    monkeypatch.setattr(leases, "try_lease", observed)
    return refused


async def test_an_older_answer_about_a_connection_does_not_come_last(
    open_bench: OpenBench, tenant: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections have no time of change: of two syncs, the one that asked later is the one that stores later."""
    tenant.add_connection("corp-google", "google-apps", "google", admin=True)
    bench, other = await open_bench(), await open_bench()
    await bench.sync.sync_connections()
    tenant.reset_calls()
    tenant.fail_next("/api/v2/connections", 1, "hang")
    late = asyncio.create_task(bench.sync.sync_connections())
    await until_async(lambda: bool(tenant.call_log("/api/v2/connections")))
    live = tenant.login_admin("corp-google")
    refused = observe_refused_leases(monkeypatch)
    later = asyncio.create_task(other.sync.sync_connection("corp-google"))
    await until_async(lambda: later.done() or bool(refused))
    tenant.release()
    await asyncio.gather(late, later)
    assert bench.held("", "corp-google") == (live["admin_access_token"], live["admin_refresh_token"])
    assert tenant.admin_live("corp-google")["refresh_token"] == live["admin_refresh_token"]


async def test_the_end_of_an_admin_token_is_a_moment_for_google(
    open_bench: OpenBench, tenant: Emulation
) -> None:
    """`admin_access_token_expiresin` is a time despite its name; waad's bare seconds have no beginning."""
    shown = tenant.add_connection("corp-google", "google-apps", "google", admin=True)
    tenant.add_connection("corp-azure", "waad", "entra", admin="bare")
    bench = await open_bench()
    await bench.sync.sync_all()
    ends = datetime.fromisoformat(shown["options"]["admin_access_token_expiresin"])
    assert bench.row("", "corp-google")["expires_at"] == ends
    assert bench.row("", "corp-azure")["expires_at"] is None


# Scopes


@pytest.mark.parametrize(
    ("missing", "breaks"),
    [
        ("read:users", "no user can be read"),
        ("read:user_idp_tokens", "without their tokens"),
    ],
)
async def test_a_missing_scope_for_users_ends_the_sync(
    open_bench: OpenBench, google: list[str], missing: str, breaks: str
) -> None:
    """Without it no token could be had: the error names the scope and what its absence breaks; nothing is stored."""
    bench = await open_bench()
    bench.tenant.set_scopes(sorted(SCOPES - {missing}))
    with pytest.raises(MissingScope, match=f"{missing}.*{breaks}"):
        await bench.sync.sync_all()
    assert bench.grants() == 0
    assert bench.connection()["problem"] is None
    assert missing in bench.run()["error"]
    with pytest.raises(MissingScope, match=missing):
        await bench.sync.sync_user(google[0])


async def test_a_missing_scope_for_connections_costs_the_renewals_alone(
    open_bench: OpenBench, google: list[str]
) -> None:
    """Without read:connections users are kept all the same, and the report names what is missing."""
    bench = await open_bench()
    bench.tenant.set_scopes(sorted(SCOPES - {"read:connections"}))
    report = await bench.sync.sync_all()
    assert not report.ok
    [problem] = report.problems
    assert "read:connections" in problem
    assert "no connection can be read" in problem
    assert report.stats == IngestStats(new=5)
    assert bench.run()["error"] == problem
    assert bench.connection()["problem"] == "not_shown"


async def test_one_user_is_worth_having_without_connections(open_bench: OpenBench, google: list[str]) -> None:
    """Without read:connections a user whose connection is not known yet is kept, and the report says what is missing."""
    bench = await open_bench()
    bench.tenant.set_scopes(sorted(SCOPES - {"read:connections"}))
    report = await bench.sync.sync_user(google[0])
    assert report.stats == IngestStats(new=1)
    assert [("read:connections" in problem) for problem in report.problems] == [True]


async def test_a_missing_scope_for_options_is_named(open_bench: OpenBench, google: list[str]) -> None:
    """Auth0 leaves options out silently: the report, the connection's problem and its notes say it aloud."""
    bench = await open_bench()
    bench.tenant.set_scopes(sorted(SCOPES - {"read:connections_options"}))
    report = await bench.sync.sync_all()
    assert [("read:connections_options" in problem) for problem in report.problems] == [True]
    assert report.stats == IngestStats(new=5)
    assert bench.connection()["problem"] == "missing_options"
    assert "read:connections_options" in bench.connection()["notes"][0]


async def test_options_that_go_missing_erase_nothing(open_bench: OpenBench, google: list[str]) -> None:
    """A scope that is taken away later leaves the credentials known by then, and renewal goes on."""
    bench = await open_bench()
    await bench.sync.sync_all()
    bench.tenant.set_scopes(sorted(SCOPES - {"read:connections_options"}))
    bench.tenant.invalidate_management_tokens()
    assert not (await bench.sync.sync_all()).ok
    assert bench.connection()["problem"] is None
    bench.sql("UPDATE grants SET due_at = now()")
    assert await bench.runtime.engine.renew_due(["default"]) == {Outcome.RENEWED: 5}


async def test_a_scope_granted_later_is_seen_by_the_next_command(
    open_bench: OpenBench, google: list[str]
) -> None:
    """Who authorizes the scope need not wait a day for the shared management token to end."""
    bench = await open_bench()
    bench.tenant.set_scopes(["read:connections"])
    with pytest.raises(MissingScope):
        await bench.sync.sync_all()
    bench.tenant.set_scopes(sorted(SCOPES))
    report = await (await open_bench()).sync.sync_all()
    assert report.ok
    assert report.stats == IngestStats(new=5)


async def test_workers_share_one_management_token(open_bench: OpenBench, google: list[str]) -> None:
    """Two processes mint one token between them, and it lies in the vault encrypted."""
    both = [await open_bench(), await open_bench()]
    await asyncio.gather(*(bench.sync.sync_connections() for bench in both))
    await both[0].sync.sync_all()
    assert both[0].tenant.calls("/oauth/token") == {"POST /oauth/token": 1}
    [shared] = both[0].sql("SELECT ciphertext, scopes FROM management_tokens")
    assert set(shared["scopes"]) == SCOPES
    assert shared["ciphertext"].startswith(b"gAAAA")


# What the list does not show


async def test_users_are_asked_for_by_id_where_the_list_hides_their_tokens(
    open_bench: OpenBench, google: list[str]
) -> None:
    """Each once; afterwards only those who changed, unless everything is wanted."""
    bench = await open_bench()
    bench.tenant.set_list_tokens(False)
    assert (await bench.sync.sync_all()).stats == IngestStats(new=5)
    assert bench.tenant.calls("/api/v2")[BY_ID] == 5
    bench.tenant.reset_calls()
    assert (await bench.sync.sync_all()).seen == 5
    assert BY_ID not in bench.tenant.calls("/api/v2")
    bench.tenant.advance(60)
    bench.tenant.login(google[2])
    assert (await bench.sync.sync_all()).stats == IngestStats(changed=1)
    assert bench.tenant.calls("/api/v2")[BY_ID] == 1
    assert bench.held(google[2]) == bench.shown(google[2])
    await bench.sync.sync_all(full=True)
    assert bench.tenant.calls("/api/v2")[BY_ID] == 6


async def test_a_list_that_carries_tokens_is_believed(open_bench: OpenBench, google: list[str]) -> None:
    """Beside users whose tokens the list shows, one without any is not asked for at every sync."""
    bench = await open_bench()
    bench.tenant.set_identity(google[0], "google-oauth2", access_token=None, refresh_token=None)
    for stats in (IngestStats(new=4), IngestStats(unchanged=4)):
        assert (await bench.sync.sync_all()).stats == stats
    assert BY_ID not in bench.tenant.calls("/api/v2")


async def test_a_user_deleted_since_the_list_was_made_is_passed_over(
    open_bench: OpenBench, google: list[str]
) -> None:
    """A 404 for one user is no failure of the sync."""
    bench = await open_bench()
    bench.tenant.set_list_tokens(False)
    bench.tenant.fail_next(f"{LIST}/{google[3]}", 1, "404")
    report = await bench.sync.sync_all()
    assert report.ok
    assert report.stats == IngestStats(new=4)


async def test_one_user_who_cannot_be_read_by_id_does_not_cost_the_others(
    open_bench: OpenBench, google: list[str]
) -> None:
    """An answer that does not read is named with its user; all others are kept."""
    bench = await open_bench()
    bench.tenant.set_list_tokens(False)
    bench.tenant.fail_next(f"{LIST}/{google[3]}", 1, 'override:{"identities": "canary"}')
    report = await bench.sync.sync_all()
    assert not report.ok
    assert report.failed == 1
    assert report.stats == IngestStats(new=4)
    assert google[3] in report.problems[0]
    assert "canary" not in report.problems[0]


@pytest.mark.parametrize("list_tokens", [True, False])
async def test_a_list_that_lags_behind_does_no_harm(
    open_bench: OpenBench, google: list[str], list_tokens: bool
) -> None:
    """A list entry older than what get-by-id showed counts for nothing, whatever it carries."""
    bench = await open_bench()
    await bench.sync.sync_all()
    bench.tenant.advance(60)
    bench.tenant.login(google[0])
    bench.tenant.set_list_lag(google[0])
    bench.tenant.set_list_tokens(list_tokens)
    assert (await bench.sync.sync_user(google[0])).stats == IngestStats(changed=1)
    held = bench.held(google[0])
    assert held == bench.shown(google[0])
    stats = (await bench.sync.sync_all()).stats
    assert (stats.new, stats.changed, stats.stale) == (0, 0, 1 if list_tokens else 0)
    assert bench.held(google[0]) == held
    bench.tenant.set_list_lag(google[0], behind=False)
    assert (await bench.sync.sync_all()).stats.changed == 0
    assert bench.held(google[0]) == held


# Malformed entries


async def test_malformed_entries_are_named_and_the_rest_is_kept(
    open_bench: OpenBench, google: list[str]
) -> None:
    """One odd user or identity costs itself alone, is named by id, and shows nothing of what it holds."""
    bench = await open_bench()
    canary = {"access_token": "canary", "refresh_token": "canary"}
    good = bench.tenant.user(google[1])["identities"][0]
    bench.tenant.set_user(google[0], identities="canary")
    bench.tenant.set_user(google[1], identities=[good, {**canary, "connection": "google-oauth2"}, None, 7])
    bench.tenant.set_user(google[2], identities=[{**good, **canary, "user_id": ["canary"]}])
    report = await bench.sync.sync_all()
    assert report.stats == IngestStats(new=3)
    assert report.failed == len(report.problems) == 5
    for user in google[:3]:
        assert any(user in problem for problem in report.problems)
    assert "canary" not in str(report.problems) + bench.run()["error"]
    assert bench.held(google[1]) == (good["access_token"], good["refresh_token"])
    assert bench.row(google[1])["expires_at"] is None  # nobody knows whether the odd one logged in
    assert (bench.run()["failed"], bench.run()["finished_at"] is not None) == (5, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"last_login": "9999-12-31T23:59:59.999Z"},
        {"last_login": "0001-01-01T00:00:00.000Z"},
        {"last_login": {"$date": 1}, "updated_at": None},
        {"last_login": "yesterday", "updated_at": "today"},
    ],
    ids=["last moment", "first moment", "no moment", "words"],
)
async def test_odd_times_cost_no_token(
    open_bench: OpenBench, google: list[str], fields: dict[str, Any]
) -> None:
    """Whatever stands where a time should be, the tokens are kept."""
    bench = await open_bench()
    bench.tenant.set_user(google[0], **fields)
    report = await bench.sync.sync_all()
    assert report.ok
    assert report.stats == IngestStats(new=5)
    assert bench.held(google[0]) == bench.shown(google[0])


# When Auth0 does not answer


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset_before"])
async def test_a_failure_in_the_middle_that_passes_costs_nothing(
    open_bench: OpenBench, tenant: Emulation, fault: str
) -> None:
    """A page that fails once or twice is asked for again."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 650)
    bench, planted = await open_bench(), list[int]()

    def plant(seen: int, total: int | None) -> None:
        if not planted:
            planted.append(seen)
            tenant.fail_next(LIST, 2, fault, retry_after=1 if fault == "429" else None)

    report = await bench.sync.sync_all(progress=plant)
    assert report.ok
    assert report.seen == bench.grants() == 650
    assert bench.waits


@pytest.mark.parametrize(("fault", "error"), [("503", Auth0Unreachable), ("429", Auth0RateLimited)])
async def test_a_failure_that_lasts_leaves_what_was_read(
    open_bench: OpenBench, tenant: Emulation, fault: str, error: type[Exception]
) -> None:
    """When Auth0 is gone for good, the pages read by then are in the vault, and the record says why it ended."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 650)
    bench = await open_bench()

    def plant(seen: int, total: int | None) -> None:
        if not bench.waits:
            tenant.fail_next(LIST, 1000, fault, retry_after=30 if fault == "429" else None)

    with pytest.raises(error):
        await bench.sync.sync_all(progress=plant)
    stored = bench.grants()
    assert stored in (100, 199, 298, 397)  # pages that were asked for ahead are stored too
    run = bench.run()
    assert (run["seen"], run["new"]) == (stored, stored)
    assert run["finished_at"] is not None
    assert "/api/v2/users" in run["error"]


async def test_a_page_that_postgres_refuses_is_an_error(open_bench: OpenBench, google: list[str]) -> None:
    """A failure to store ends the sync with that failure, however well the reading went."""
    bench = await open_bench()
    bench.sql(f"ALTER TABLE grants ADD CONSTRAINT planted CHECK (user_id <> '{google[2]}')")
    try:
        with pytest.raises(DBAPIError, match="planted"):
            await bench.sync.sync_all()
    finally:
        bench.sql("ALTER TABLE grants DROP CONSTRAINT planted")
    assert bench.run()["error"] == "IntegrityError"
    assert (await bench.sync.sync_all()).stats == IngestStats(new=5)


async def test_more_users_than_one_query_shows(open_bench: OpenBench, tenant: Emulation) -> None:
    """Auth0 pages through a thousand records of a query and no further: nobody beyond is lost."""
    tenant.set_window(300)
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 1201)
    bench = await open_bench()
    report = await bench.sync.sync_all()
    assert (report.seen, report.stats, report.gone) == (1201, IngestStats(new=1201), 0)
    assert bench.tenant.calls(LIST) == {f"GET {LIST}": 13}


# Records, and several syncs at once


async def test_a_sync_is_recorded(open_bench: OpenBench, google: list[str]) -> None:
    """What it saw and when is there afterwards, for each kind of sync."""
    bench = await open_bench()
    await bench.sync.sync_all()
    run = bench.run()
    assert {name: run[name] for name in ("tenant", "scope", "seen", "new", "failed", "error")} == {
        "tenant": "default", "scope": "all", "seen": 5, "new": 5, "failed": 0, "error": None
    }  # fmt: skip
    assert run["started_at"] <= run["finished_at"]
    await bench.sync.sync_user(google[0])
    await bench.sync.sync_connection("google-oauth2")
    await bench.sync.sync_connections()
    recorded = bench.sql("SELECT scope, seen, unchanged FROM sync_runs ORDER BY id")
    assert [tuple(run.values()) for run in recorded] == [
        ("all", 5, 0), ("user", 1, 1), ("connection", 5, 5), ("connections", 0, 0)
    ]  # fmt: skip


async def test_a_second_sync_of_everything_at_the_same_time_is_skipped(
    open_bench: OpenBench, google: list[str]
) -> None:
    """Two beats cost one full sync; a tenant of another name is not held up, and the next sync runs again."""
    first, second = await open_bench(), await open_bench()
    first.tenant.fail_next(LIST, 1, "hang")
    syncing = asyncio.create_task(first.sync.sync_all())
    await until_async(lambda: bool(first.tenant.call_log(LIST)))
    skipped = await second.sync.sync_all()
    assert skipped.skipped
    assert not skipped.ok
    other = TenantSync("other", second.runtime.vault, second.runtime.connections, second.sync._auth0)
    assert (await other.sync_connections()).connections == 1
    assert not (await other.sync_all()).skipped
    first.tenant.release()
    assert (await syncing).ok
    assert (await second.sync.sync_all()).stats == IngestStats(unchanged=5)


async def test_a_sync_that_is_cancelled_leaves_whole_pages(open_bench: OpenBench, tenant: Emulation) -> None:
    """Stopped in the middle, it has committed the pages it read, says so, and lets the next one run."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 350)
    bench = await open_bench()
    running: list[asyncio.Task[object]] = []

    def stop(seen: int, total: int | None) -> None:
        if seen >= 100:
            running[0].cancel()

    running.append(asyncio.create_task(bench.sync.sync_all(progress=stop)))
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    assert bench.grants() in (100, 199, 298, 350)
    run = bench.run()
    assert (run["error"], run["new"], run["finished_at"] is not None) == ("interrupted", bench.grants(), True)
    kept = bench.grants()
    bench.tenant.reset_calls()
    assert (await bench.sync.sync_all()).stats.new == 350
    # It goes on where it was: three pages are asked for again at the most.
    assert bench.tenant.calls(LIST)[f"GET {LIST}"] <= (350 - kept) // 99 + 4
    assert (bench.run()["resumed"], bench.run()["error"], bench.run()["complete"]) == (1, None, True)


# One user, one connection


async def test_one_user_is_synced(open_bench: OpenBench, google: list[str]) -> None:
    """A user asked for by id is taken with every identity, and nobody else is."""
    bench = await open_bench()
    report = await bench.sync.sync_user(google[4])
    assert (report.ok, report.seen, report.stats) == (True, 1, IngestStats(new=1))
    assert bench.held(google[4]) == bench.shown(google[4])
    assert bench.grants() == 1
    assert bench.connection()["provider"] == "google"  # not known before, so it was asked for as well


async def test_an_id_is_any_text(open_bench: OpenBench, tenant: Emulation) -> None:
    """Slashes, blanks, dots and letters of any alphabet in an id lead to that user."""
    tenant.add_connection("custom", "oauth2", "custom")
    users = [
        "oauth2|custom|a/b c",
        "oauth2|custom|..",
        "oauth2|custom|日本%2F?x=1#y",
        'oauth2|custom|"q"\\',
    ]
    for user in users:
        tenant.add_user(user, [{"connection": "custom", "user_id": user.rpartition("|")[2]}])
    bench = await open_bench()
    for user in users:
        assert (await bench.sync.sync_user(user)).stats == IngestStats(new=1)
        assert bench.held(user, "custom") == bench.shown(user)


async def test_what_is_not_there_is_an_error(open_bench: OpenBench, google: list[str]) -> None:
    """An unknown user or connection is refused by name, and recorded."""
    bench = await open_bench()
    with pytest.raises(Auth0NotFound, match="nobody"):
        await bench.sync.sync_user("google-oauth2|nobody")
    assert "nobody" in bench.run()["error"]
    with pytest.raises(Auth0NotFound, match="nowhere"):
        await bench.sync.sync_connection("nowhere")
    assert "nowhere" in bench.run()["error"]


@pytest.mark.parametrize("name", ["bitbucket", 'odd "name" \\ (x)'])
async def test_one_connection_is_synced_with_its_users(
    open_bench: OpenBench, google: list[str], tenant: Emulation, name: str
) -> None:
    """Only users with an identity of that connection are read, whatever characters its name has."""
    tenant.add_connection(name, "bitbucket", "bitbucket")
    users = tenant.add_users(name, 2)
    bench = await open_bench()
    report = await bench.sync.sync_connection(name)
    assert (report.ok, report.connections, report.seen, report.stats) == (True, 1, 2, IngestStats(new=2))
    assert bench.held(users[0], name) == bench.shown(users[0])
    assert bench.grants() == 2


async def test_a_scan_of_one_connection_says_nothing_of_other_users(
    open_bench: OpenBench, tenant: Emulation
) -> None:
    """They are not on its pages, and are there all the same."""
    for name in ("google-oauth2", "bitbucket"):
        tenant.add_connection(name, name, name.partition("-")[0])
        tenant.add_users(name, 2, at=1.6e9)
    bench = await open_bench()
    await bench.sync.sync_all()
    report = await bench.sync.sync_connection("bitbucket")
    assert (report.seen, report.gone) == (2, 0)


async def test_an_identity_that_cannot_be_read_is_not_gone(open_bench: OpenBench, tenant: Emulation) -> None:
    """Of a user who is shown in part, neither a list nor an answer by id says what is missing."""
    for name in ("google-oauth2", "bitbucket"):
        tenant.add_connection(name, name, name.partition("-")[0])
    [primary], [secondary] = tenant.add_users("google-oauth2", 1), tenant.add_users("bitbucket", 1)
    tenant.link(primary, secondary)
    bench = await open_bench()
    assert (await bench.sync.sync_all()).stats == IngestStats(new=2)
    tenant.set_user(primary, identities=[tenant.user(primary)["identities"][0], {"connection": "bitbucket"}])
    assert (await bench.sync.sync_all()).gone == 0
    assert (await bench.sync.sync_user(primary)).gone == 0
    tenant.set_user(primary, identities=[tenant.user(primary)["identities"][0]])
    assert (await bench.sync.sync_all()).gone == 1
