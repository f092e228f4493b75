"""Erasing: what is gone is confirmed first, what is only elsewhere moves, and nothing comes back by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from emulators.client import Emulation
from tests.integration.sync.test_full_scan import SCOPES, Bench
from tests.support import rows
from tests.support.rows import Sql
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.auth0.errors import Auth0Error, Auth0RateLimited
from worker.auth0.models import Auth0Identity, Auth0User
from worker.erasure import confirmation
from worker.resolved_connections import ConnectionResolver
from worker.runtime import Runtime
from worker.settings import ConnectionSettings, ProviderSettings
from worker.vault.grants import missing
from worker.vault.grants.erase import erase_connection, load_tombstones
from worker.vault.revocations import revocations
from worker.vault.revocations.revocations import Scope

# What a grant may have beside its tokens, and all that its tombstone keeps.
FILLED = """
    extra_ciphertext = 'x', scopes = '{read}', refresh_expires_at = now(), consent_expires_at = now(), last_renewed_at = now(),
    last_read_at = now(), forced_at = now(), renewal_ordered_at = now(), claim_owner = gen_random_uuid(), claimed_at = now(),
    claim_until = now(), in_doubt_since = now(), attempts = 1, last_error = 'x', failing_since = now()
"""
KEPT = {
    "id", "tenant", "connection", "user_id", "provider_user_id", "state", "reason", "reason_since", "obtained_from",
    "access_version", "refresh_version", "observed_access", "observed_refresh", "observed_updated_at", "awaited",
    "attempts", "created_at", "consent_is_counted",
}  # fmt: skip


@pytest.fixture
async def bench(tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Sql) -> Bench:
    """Five users of a provider that rotates, synced; the tenant's log is read."""
    tenant.set_scopes(SCOPES)
    tenant.configure_provider("bitbucket", rotates=True, grace=0)
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("bitbucket", 5)
    runtime = await open_worker()
    made = Bench(tenant, runtime, await runtime.tenant_sync("default"), sql)
    await made.sync.sync_all()
    return made


async def sweep(bench: Bench, **settings: Any) -> Any:
    """Take what changed, then confirm and erase."""
    await bench.sync.sync_changes()
    return await bench.erasure(**settings).sweep()


def tombstones(bench: Bench) -> list[dict[str, Any]]:
    return bench.sql("SELECT * FROM grants WHERE state = 'erased' ORDER BY id")


async def test_a_deleted_user_is_erased(bench: Bench) -> None:
    """No ciphertext stays, nothing names the user or says what was granted, and one event tells of it."""
    user = sorted(bench.users())[0]
    bench.sql(f"UPDATE grants SET {FILLED} WHERE user_id = %s", user)
    bench.tenant.delete_user(user)
    assert (await sweep(bench)).erased == 1
    [row] = tombstones(bench)
    assert (row["access_ciphertext"], row["refresh_ciphertext"], row["due_at"], row["reason"]) == (
        None, None, None, "deleted"
    )  # fmt: skip
    subject = user.rpartition("|")[2]
    named = {name: value for name, value in row.items() if subject in str(value) and name != "tenant"}
    assert {name for name in named if "provider_user_id" in name or name == "user_id"} == set()
    assert {name for name, value in row.items() if value is not None} == KEPT
    # It is known again under whomever the identity is linked to.
    elsewhere = GrantKey("default", "bitbucket", "somebody|else", subject)
    assert [*await load_tombstones(bench.runtime.vault, [elsewhere])] == [elsewhere]
    told = bench.sql("SELECT kind, user_id, reason FROM outbox WHERE kind = 'user.forgotten'")
    assert told == [{"kind": "user.forgotten", "user_id": user, "reason": "deleted"}]
    assert (await sweep(bench)).erased == 0
    assert len(bench.sql("SELECT 1 FROM outbox WHERE kind = 'user.forgotten'")) == 1


async def test_what_seems_gone_waits_until_it_is_settled(bench: Bench) -> None:
    """Until somebody has seemed gone for long enough, nothing is erased."""
    user = sorted(bench.users())[0]
    bench.tenant.delete_user(user)
    assert (await sweep(bench, settle=300)).erased == 0
    bench.sql("UPDATE grants SET missing_since = now() - interval '4 min' WHERE user_id = %s", user)
    assert (await sweep(bench, settle=300)).erased == 0
    assert bench.missing() == {user}


async def test_the_operator_need_not_wait(bench: Bench) -> None:
    """If the operator confirms it, nothing is waited for, but each user is still read by id."""
    gone, found = sorted(bench.users())[:2]
    bench.tenant.delete_user(gone)
    await bench.sync.sync_changes()
    now = await bench.runtime.vault.now()
    await missing.mark_users(bench.runtime.vault, "default", [found], now=now)
    swept = await bench.erasure(settle=300).sweep(anyway=True)
    assert (swept.erased, swept.found, found in bench.users()) == (1, 1, True)


async def test_a_search_that_lacks_a_user_proves_nothing(bench: Bench) -> None:
    """Whoever Auth0 has by id keeps the tokens, whatever a list did not show."""
    user = sorted(bench.users())[0]
    now = await bench.runtime.vault.now()
    await missing.mark_users(bench.runtime.vault, "default", [user], now=now)
    await missing.withdraw(bench.runtime.vault, "default", [user], now=now)
    swept = await bench.erasure().sweep()
    assert (swept.erased, swept.found, bench.missing()) == (0, 1, set())


async def test_a_deletion_that_was_a_link_moves_the_tokens(bench: Bench) -> None:
    """The identity is another user's now: its refresh token, which we have renewed since, moves with it."""
    primary, secondary = sorted(bench.users())[:2]
    bench.sql("UPDATE grants SET due_at = now()")
    await bench.runtime.engine.renew_due(["default"])
    [before] = bench.sql("SELECT * FROM grants WHERE user_id = %s", secondary)
    held = rows.opened(bench.runtime.vault, before)
    subject, ring = before["provider_user_id"], bench.runtime.vault.access
    of_user = {user: GrantKey("default", "bitbucket", user, subject) for user in (primary, secondary)}
    extra = ring.encrypt(EncryptionContext.of_extra(of_user[secondary]), Secret("extra"))
    bench.sql("UPDATE grants SET extra_ciphertext = %s WHERE id = %s", extra, before["id"])
    bench.tenant.link(primary, secondary)
    now = await bench.runtime.vault.now()
    await missing.mark_users(bench.runtime.vault, "default", [secondary], now=now)
    assert (await bench.erasure().sweep()).erased == 0
    [after] = bench.sql("SELECT * FROM grants WHERE id = %s", before["id"])
    assert (after["user_id"], after["missing_since"]) == (primary, None)
    assert rows.opened(bench.runtime.vault, after) == held
    of_primary = EncryptionContext.of_extra(of_user[primary])
    assert ring.decrypt(of_primary, after["extra_ciphertext"]).reveal() == "extra"
    assert (await sweep(bench)).erased == 0


async def test_an_unlinked_identity_moves_back(bench: Bench) -> None:
    """It is a user of its own again, and keeps the tokens that we renewed."""
    primary, secondary = sorted(bench.users())[:2]
    bench.tenant.link(primary, secondary)
    await sweep(bench)
    bench.sql("UPDATE grants SET due_at = now()")
    await bench.runtime.engine.renew_due(["default"])
    bench.tenant.unlink(primary, "bitbucket")
    for _ in range(2):
        await sweep(bench)
    assert bench.newest_shown()
    assert tombstones(bench) == []
    for row in bench.sql("SELECT * FROM grants"):
        live = bench.tenant.live(row["user_id"], row["connection"])
        assert rows.opened(bench.runtime.vault, row)[1] == live["refresh_token"]


async def test_a_list_that_lags_brings_nothing_back_and_a_login_does(bench: Bench) -> None:
    """What was erased is known by what Auth0 showed of it; who signs in again has consented again."""
    user = sorted(bench.users())[0]
    shown = bench.tenant.user(user)
    erasure = bench.erasure()
    assert (await erasure.forget(user)).erased == 1
    assert (await bench.sync.sync_user(user)).stats.unchanged == 1
    assert user not in bench.users()
    bench.tenant.set_user(user, updated_at="2099-01-01T00:00:00.000Z", nickname="changed")
    await bench.sync.sync_all(full=True)
    assert user not in bench.users()
    bench.tenant.set_user(user, updated_at=shown["updated_at"])
    bench.tenant.login(user)
    assert (await bench.sync.sync_user(user)).stats.new == 1
    assert user in bench.users()
    assert (await erasure.forget(user)).erased == 1  # and once more: one tombstone stays
    assert len(tombstones(bench)) == 1


async def test_too_many_at_once_are_not_erased_unasked(bench: Bench) -> None:
    """A tenant that seems empty is more likely the wrong one: nothing is erased until the operator says so."""
    bench.tenant.add_users("google-oauth2", 75)  # so more are there than are gone
    await bench.sync.sync_all()
    for user in sorted(bench.users())[:30]:
        bench.tenant.delete_user(user)
    swept = await sweep(bench)
    assert (swept.erased, len(swept.problems)) == (0, 1)
    assert "token-vault sync --erase" in swept.problems[0]
    assert len(bench.users()) == 80
    assert (await bench.erasure().sweep(anyway=True)).erased == 30


async def test_all_of_a_few_are_not_erased_unasked(bench: Bench) -> None:
    """However few a tenant has: when most of them seem gone, it is more likely the wrong one."""
    for user in sorted(bench.users())[:3]:
        bench.tenant.delete_user(user)
    swept = await sweep(bench)
    assert (swept.erased, len(swept.problems)) == (0, 1)
    assert (await bench.erasure().sweep(anyway=True)).erased == 3


async def test_a_search_that_auth0_refuses_keeps_only_its_own_grant(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one for an id too long for a query: the others that are gone are erased."""
    gone = sorted(bench.users())[:2]
    for user in gone:
        bench.tenant.delete_user(user)
    asking = type(bench.sync._auth0).users_with_identity

    async def refused(self: Any, connection: str, provider_user_id: str) -> Any:
        if gone[0].endswith(provider_user_id):
            raise Auth0Error("the request line is too long for Auth0; ask for less", status=414)
        return await asking(self, connection, provider_user_id)

    monkeypatch.setattr(type(bench.sync._auth0), "users_with_identity", refused)
    swept = await sweep(bench)
    assert (swept.erased, swept.waiting, len(swept.problems)) == (1, 1, 1)


async def test_who_is_shown_again_does_not_seem_gone(bench: Bench) -> None:
    """Once the settings name the right tenant again, its lists take the marks off, and nothing is held back."""
    bench.tenant.add_users("google-oauth2", 40)
    await bench.sync.sync_all()
    now = await bench.runtime.vault.now()
    await missing.mark_users(bench.runtime.vault, "default", sorted(bench.users()), now=now)
    await bench.sync.sync_all()
    assert len(bench.missing()) == 45  # so soon, the list may only lag behind
    bench.sql("UPDATE grants SET missing_since = missing_since - interval '1 h'")
    await bench.sync.sync_all()
    swept = await bench.erasure().sweep()
    assert (swept.problems, bench.missing()) == ([], set())


async def test_a_grant_in_use_is_erased_later(bench: Bench) -> None:
    """With a revocation URL, a call under way is waited for: its answer would bring a pair that nobody revokes."""
    user = sorted(bench.users())[0]
    configure(bench)
    bench.sql(
        "UPDATE grants SET claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now() + interval '1 min'"
        " WHERE user_id = %s", user
    )  # fmt: skip
    swept = await bench.erasure().forget(user)
    assert (swept.erased, swept.waiting) == (0, 1)
    bench.sql("UPDATE grants SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL")
    assert (await bench.erasure().forget(user)).erased == 1


@pytest.mark.parametrize(
    "state",
    [
        "attempts = 3, due_at = now() + interval '20 min'",
        "state = 'reauthorization_required', reason = 'invalid_grant', due_at = NULL, forced_at = now()",
    ],
)
async def test_a_grant_in_backoff_is_not_in_use(bench: Bench, state: str) -> None:
    """Nor is a dead one that an app insisted on today: with a revocation URL, too, they are erased at once."""
    user = sorted(bench.users())[0]
    configure(bench)
    bench.sql(f"UPDATE grants SET {state} WHERE user_id = %s", user)
    swept = await bench.erasure().forget(user)
    assert (swept.erased, swept.waiting) == (1, 0)


async def test_a_login_before_forgetting_is_no_new_one(bench: Bench) -> None:
    """Even if the vault had not ingested it yet."""
    user = sorted(bench.users())[0]
    await bench.sync.sync_changes()
    bench.tenant.login(user)
    assert (await bench.erasure().forget(user)).erased == 1
    await bench.sync.sync_changes()
    assert user not in bench.users()


async def test_forgetting_does_not_need_auth0(bench: Bench) -> None:
    """Who is to be forgotten is, whether Auth0 answers or not."""
    first, second = sorted(bench.users())[:2]
    bench.tenant.fail_next("/api/v2/users", 1, "403")
    assert (await bench.erasure().forget(first)).erased == 1
    bench.tenant.set_scopes(["read:connections"])
    bench.sync._auth0._api._token.forget()
    bench.sql("DELETE FROM management_tokens")
    assert (await bench.erasure().forget(second)).erased == 1


async def test_what_was_told_of_a_linked_identity_goes_with_its_new_user(bench: Bench) -> None:
    """It names who has to act now, and no event told before is left of a user who is forgotten."""
    primary, secondary = sorted(bench.users())[:2]
    bench.sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', due_at = NULL"
        " WHERE user_id = %s",
        secondary,
    )
    bench.tenant.link(primary, secondary)
    await sweep(bench)
    assert [row["user_id"] for row in bench.sql("SELECT user_id FROM outbox")] == [primary]
    assert (await bench.erasure().forget(primary)).erased == 2
    assert [row["kind"] for row in bench.sql("SELECT kind FROM outbox")] == ["user.forgotten"]


async def test_a_deleted_user_is_told_as_forgotten_whose_other_identity_went_elsewhere(bench: Bench) -> None:
    """A grant that moves in the same sweep is not the user's any more: erasing the last remaining one writes the event."""
    primary, secondary = sorted(bench.users())[:2]
    bench.tenant.link(primary, secondary)
    await sweep(bench)
    bench.tenant.unlink(primary, "bitbucket")
    bench.tenant.delete_user(primary)
    now = await bench.runtime.vault.now()
    await missing.mark_users(bench.runtime.vault, "default", [primary], now=now)
    assert (await bench.erasure().sweep(anyway=True)).erased == 1
    assert primary not in bench.users()
    assert [row["user_id"] for row in bench.sql("SELECT * FROM outbox")] == [primary]


async def test_a_user_who_loses_an_identity_is_not_told_as_forgotten(bench: Bench) -> None:
    """The last grant is erased, but the user lives on at Auth0, and with the apps."""
    user = sorted(bench.users())[0]
    bench.tenant.add_connection("db", "auth0", None)
    bare = {"connection": "db", "provider": "auth0", "user_id": "1", "isSocial": False}
    bench.tenant.set_user(user, identities=[bare])
    await bench.sync.sync_user(user)
    assert (await bench.erasure().sweep()).erased == 1
    assert [row["reason"] for row in tombstones(bench)] == ["unlinked"]
    assert bench.sql("SELECT kind FROM outbox") == []


async def test_a_spent_rate_limit_ends_the_sweep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other searches would only spend more of it."""
    for user in sorted(bench.users())[:2]:
        bench.tenant.delete_user(user)
    await bench.sync.sync_changes()
    searches: list[str] = []

    async def spent(_: object, __: str, provider_user_id: str) -> tuple[()]:
        searches.append(provider_user_id)
        raise Auth0RateLimited("spent", retry_after=60)

    monkeypatch.setattr(type(bench.sync._auth0), "users_with_identity", spent)
    with pytest.raises(Auth0RateLimited):
        await bench.erasure().sweep()
    assert (len(searches), len(bench.users())) == (1, 5)


async def test_forgetting_leaves_no_event_of_whom_the_vault_holds_no_more(bench: Bench) -> None:
    """A user whose last grant was unlinked or erased is forgotten in the events too."""
    user = sorted(bench.users())[0]
    bench.sql("INSERT INTO outbox (kind, tenant, user_id) VALUES ('grant.expiring', 'default', 'x|1')")
    bench.sql("INSERT INTO outbox (kind, tenant, user_id) VALUES ('grant.expiring', 'default', %s)", user)
    assert (await bench.erasure().forget("x|1")).erased == 0
    assert [row["user_id"] for row in bench.sql("SELECT user_id FROM outbox")] == [user]


async def test_forgetting_leaves_no_work_that_names_the_user(bench: Bench) -> None:
    """Neither tokens that are to be revoked, nor the wish to read the user again."""
    user = sorted(bench.users())[0]
    scope = Scope(["default"], user)
    assert await revocations.request(bench.runtime.vault, scope, now=await bench.runtime.vault.now()) == 1
    bench.sql("INSERT INTO users_to_sync (tenant, user_id) VALUES ('default', %s)", user)
    assert (await bench.erasure().forget(user)).erased == 1
    assert bench.sql("SELECT user_id FROM revocations UNION ALL SELECT user_id FROM users_to_sync") == []


async def test_a_linked_identity_that_shows_no_token_moves_too(bench: Bench) -> None:
    """Otherwise no sync would move it, and both users would be read from Auth0 each minute."""
    primary, secondary = sorted(bench.users())[:2]
    bench.tenant.link(primary, secondary)
    identities = bench.tenant.user(primary)["identities"]
    bare = [
        {name: value for name, value in each.items() if name not in ("access_token", "refresh_token")}
        for each in identities
    ]
    bench.tenant.set_user(primary, identities=[identities[0], *bare[1:]])
    [before] = bench.sql("SELECT * FROM grants WHERE user_id = %s", secondary)
    await sweep(bench)
    [after] = bench.sql("SELECT * FROM grants WHERE id = %s", before["id"])
    assert (after["user_id"], after["missing_since"]) == (primary, None)
    assert rows.opened(bench.runtime.vault, after) == rows.opened(bench.runtime.vault, before)
    bench.sql("UPDATE grants SET created_at = created_at - interval '1 d'")
    await bench.sync.sync_all()  # it counts as of the time at which its new user was made
    assert bench.missing() == set()


def configure(bench: Bench) -> None:
    """Set the provider's revocation URL for the connection."""
    url = bench.tenant.revocation_url("bitbucket")
    settings = bench.runtime.settings.model_copy(
        update={"connections": {**bench.runtime.settings.connections, "bitbucket": connection_of(bench, url)}}
    )
    bench.runtime.connections._settings = settings


def connection_of(bench: Bench, url: str) -> ConnectionSettings:
    before = bench.runtime.settings.connections.get("bitbucket") or ConnectionSettings()
    return before.model_copy(update={"revocation_url": url})


async def test_a_grant_is_revoked_before_it_is_erased(bench: Bench) -> None:
    """The provider takes neither token any more; one that does not answer does not keep the grant alive here."""
    first, second = sorted(bench.users())[:2]
    configure(bench)
    swept = await bench.erasure().forget(first)
    assert (swept.erased, swept.not_revoked) == (1, 0)
    assert bench.tenant.live(first, "bitbucket")["refresh_token"] is None
    bench.tenant.fail_next("/idp/bitbucket/revoke", 1, "error:invalid_client")
    swept = await bench.erasure().forget(second)
    assert (swept.erased, swept.not_revoked) == (1, 1)
    assert second not in bench.users()


async def test_a_provider_of_the_operators_own_is_told_too(bench: Bench) -> None:
    """What the file declares as a provider takes a revocation like any other."""
    user = sorted(bench.users())[0]
    url = bench.tenant.revocation_url("bitbucket")
    own = connection_of(bench, url).model_copy(update={"provider": "ours", "client_auth": "basic"})
    bench.runtime.connections = ConnectionResolver(
        bench.runtime.vault,
        bench.runtime.settings.model_copy(
            update={"connections": {"bitbucket": own}, "providers": {"ours": ProviderSettings(rotates=True)}}
        ),
    )
    swept = await bench.erasure().forget(user)
    assert (swept.erased, swept.not_revoked) == (1, 0)
    assert bench.tenant.live(user, "bitbucket")["refresh_token"] is None


async def test_old_tombstones_are_deleted(bench: Bench) -> None:
    """After their time nothing is left of an erased grant."""
    user = sorted(bench.users())[0]
    await bench.erasure().forget(user)
    for days, left in ((29, 1), (31, 0)):
        bench.sql("UPDATE grants SET reason_since = now() - %s * interval '1 d' WHERE state = 'erased'", days)
        await bench.erasure().sweep()
        assert len(tombstones(bench)) == left


async def test_a_user_who_cannot_be_read_is_not_erased(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without identities, or none, says nothing about who is gone, nor does a search that lags behind."""
    user = sorted(bench.users())[0]
    now = await bench.runtime.vault.now()
    await missing.mark_users(bench.runtime.vault, "default", [user], now=now)

    async def nobody(*_: object) -> tuple[()]:
        return ()

    monkeypatch.setattr(type(bench.sync._auth0), "users_with_identity", nobody)
    for fault in ('override:{"identities": []}', "414"):
        bench.tenant.fail_next("/api/v2/users/", 1, fault)
        swept = await bench.erasure().sweep()
        assert (swept.erased, swept.waiting) == (0, 1)


def test_an_identity_is_of_one_connection() -> None:
    """Two connections to one provider have the same ids: who was unlinked from one is gone from that one."""
    user = Auth0User("waad|1", None, None, (Auth0Identity("waad", "1", "corp"),))
    for connection, has in (("corp", True), ("other-corp", False)):
        assert confirmation._has(user, GrantKey("default", connection, "waad|1", "1")) is has


# Connections


async def with_admin(bench: Bench) -> str:
    """A connection with an administrator's consent, synced."""
    bench.tenant.add_connection("corp-google", "google-apps", "google", admin=True)
    await bench.sync.sync_connections()
    return "corp-google"


def admin_grants(bench: Bench) -> list[dict[str, Any]]:
    return bench.sql("SELECT * FROM grants WHERE user_id = ''")


async def test_a_deleted_connection_loses_its_admin_tokens(bench: Bench) -> None:
    """Its client too is erased, as nobody's grant needs it; when it is made again all comes back."""
    name = await with_admin(bench)
    bench.tenant.delete_connection(name)
    await bench.sync.sync_connections()
    assert (await sweep(bench)).erased == 1
    [row] = bench.sql(f"SELECT * FROM connections WHERE name = '{name}'")
    assert (admin_grants(bench), row["options_ciphertext"], row["auth0_id"]) == ([], None, None)
    assert (await sweep(bench)).erased == 0
    await with_admin(bench)
    assert len(admin_grants(bench)) == 1
    told = bench.sql(f"SELECT kind, reason FROM outbox WHERE connection = '{name}' ORDER BY at")
    assert [(each["kind"], each["reason"]) for each in told] == [
        ("connection.broken", "deleted"), ("connection.mended", None),
    ]  # fmt: skip


async def test_a_connections_client_outlives_it_while_grants_need_it(bench: Bench) -> None:
    """The users of a connection that Auth0 deleted are erased one by one; until then their tokens are renewed."""
    bench.sql("UPDATE grants SET state = 'in_doubt', in_doubt_since = now()")
    bench.tenant.delete_connection("bitbucket")
    await bench.sync.sync_connections()
    await bench.erasure().sweep(anyway=True)
    [row] = bench.sql("SELECT * FROM connections WHERE name = 'bitbucket'")
    assert row["options_ciphertext"] is not None
    for user in bench.users():
        await bench.erasure().forget(user)
    await bench.erasure().sweep(anyway=True)
    [row] = bench.sql("SELECT * FROM connections WHERE name = 'bitbucket'")
    assert row["options_ciphertext"] is None


async def test_a_list_that_lacks_a_connection_proves_nothing(bench: Bench) -> None:
    """Auth0 is asked for it by id before it counts as gone, and that has to settle."""
    name = await with_admin(bench)
    bench.tenant.fail_next("/api/v2/connections", 1, 'override:{"connections": [{"name": "odd"}]}')
    await bench.sync.sync_connections()
    assert bench.sql("SELECT 1 FROM connections WHERE missing_since IS NOT NULL") == []
    bench.tenant.delete_connection(name)
    await bench.sync.sync_connections()
    assert (await sweep(bench, settle=300)).erased == 0
    bench.sql("UPDATE connections SET missing_since = NULL")  # it is back while it is about to be erased
    async with bench.runtime.vault.engine.begin() as transaction:
        assert await erase_connection(transaction, "default", name) == []
    assert len(admin_grants(bench)) == 1


async def test_another_tenants_credentials_erase_no_connection(bench: Bench) -> None:
    """Where most connections seem gone, the operator is asked."""
    name = await with_admin(bench)
    for gone in (name, "google-oauth2"):
        bench.tenant.delete_connection(gone)
    await bench.sync.sync_connections()
    swept = await sweep(bench)
    assert (swept.erased, len(admin_grants(bench))) == (0, 1)
    [problem] = swept.problems
    assert "2 of 3 connections seem to be gone" in problem
    assert (await bench.erasure().sweep(anyway=True)).erased == 1


async def test_admin_tokens_are_revoked_where_that_is_configured(bench: Bench) -> None:
    """As with a user's grant, the provider is told first."""
    name = await with_admin(bench)
    settings = ConnectionSettings(revocation_url=bench.tenant.revocation_url("bitbucket"))
    bench.runtime.connections._settings = bench.runtime.settings.model_copy(
        update={"connections": {**bench.runtime.settings.connections, name: settings}}
    )
    bench.tenant.delete_connection(name)
    await bench.sync.sync_connections()
    bench.calls()
    bench.sql("UPDATE grants SET claim_owner = gen_random_uuid(), claimed_at = now(),"
              " claim_until = now() + interval '1 min' WHERE user_id = ''")  # fmt: skip
    assert ((await sweep(bench)).waiting, len(admin_grants(bench))) == (1, 1)
    bench.sql("UPDATE grants SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL")
    await sweep(bench)
    assert bench.tenant.calls("/idp/bitbucket/revoke")
    assert admin_grants(bench) == []
