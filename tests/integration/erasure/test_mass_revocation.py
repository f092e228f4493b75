"""Revoking after a leak: readers are refused at once, and each token is proven dead or listed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest

from emulators.idp.tokens import digest
from tests.support.keys import ACCESS_KEY
from tests.support.renewals import Renewals
from token_vault import ReauthorizationRequired, TokenVault
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.erasure.mass_revocation import MAX_ATTEMPTS, MassRevocation, RevocationReport
from worker.runtime import Runtime
from worker.settings import ConnectionSettings
from worker.vault.grants.relink import relink
from worker.vault.revocations import revocations
from worker.vault.revocations.revocations import Scope

ALL = Scope(["default"])


async def opened(renewals: Renewals, users: int = 1) -> tuple[Runtime, list[str]]:
    """Synced users of a connection whose revocation URL is set."""
    names = renewals.connect("c", users=users)
    worker = await renewals.synced()
    set_revocation_url(renewals, worker)
    return worker, names


def set_revocation_url(renewals: Renewals, worker: Runtime) -> None:
    given = worker.settings.connections.get("c") or ConnectionSettings()
    changed = given.model_copy(update={"revocation_url": renewals.tenant.revocation_url("c")})
    worker.connections._settings = worker.settings.model_copy(
        update={"connections": {**worker.settings.connections, "c": changed}}
    )


async def revoke(worker: Runtime, scope: Scope = ALL) -> RevocationReport:
    return await MassRevocation(worker.vault, worker.connections, worker.http, scope).run()


def is_alive(renewals: Renewals, user: str) -> bool:
    """Whether the provider still takes any token of this user."""
    return any(renewals.tenant.live(user, "c").values())


async def test_tokens_end_at_their_provider_and_readers_are_refused(
    renewals: Renewals, database_url: Secret
) -> None:
    """Each token is dead at the provider, no ciphertext is left, and a reader is told to send the user to sign in."""
    worker, users = await opened(renewals, users=5)
    renewals.sql("UPDATE grants SET extra_ciphertext = access_ciphertext")
    versions = "SELECT access_version, refresh_version FROM grants ORDER BY id"
    before = renewals.sql(versions)
    report = await revoke(worker)
    assert (report.requested, report.revoked, report.not_revoked) == (5, 5, [])
    # What was read or sent under a version before is void.
    assert renewals.sql(versions) == [{name: each[name] + 1 for name in each} for each in before]
    assert [is_alive(renewals, user) for user in users] == [False] * 5
    # Also the access tokens: not every provider ends these with the refresh token.
    assert len({call["token"] for call in renewals.tenant.call_log("/idp/c/revoke")}) == 10
    left = renewals.sql(
        "SELECT id FROM grants WHERE access_ciphertext IS NOT NULL OR refresh_ciphertext IS NOT NULL"
        " OR extra_ciphertext IS NOT NULL"
        " UNION ALL SELECT id FROM revocations"
        " WHERE access_ciphertext IS NOT NULL OR refresh_ciphertext IS NOT NULL"
    )
    assert left == []
    with (
        TokenVault(database_url.reveal(), [ACCESS_KEY.reveal()]) as reader,
        pytest.raises(ReauthorizationRequired) as refused,
    ):
        await asyncio.to_thread(reader.user_token, users[0], "c", wait=5)
    assert refused.value.reason == "revoked"


async def test_readers_are_refused_before_any_call(renewals: Renewals, database_url: Secret) -> None:
    """A provider that hangs keeps no leaked token in service."""
    worker, [user] = await opened(renewals)
    renewals.tenant.fail_next("/idp/c/revoke", 1, "hang")
    revoking = asyncio.create_task(revoke(worker))
    await renewals.called("c")
    with (
        TokenVault(database_url.reveal(), [ACCESS_KEY.reveal()]) as reader,
        pytest.raises(ReauthorizationRequired),
    ):
        await asyncio.to_thread(reader.user_token, user, "c", wait=0)
    renewals.tenant.release()
    assert (await revoking).revoked == 1


async def test_the_scope_is_kept(renewals: Renewals) -> None:
    """One user's revocation leaves the others their tokens."""
    worker, [user, other] = await opened(renewals, users=2)
    report = await revoke(worker, Scope(["default"], user, "c"))
    assert report.requested == 1
    assert (is_alive(renewals, user), is_alive(renewals, other)) == (False, True)
    assert renewals.row(other)["state"] == "active"


async def test_a_killed_run_goes_on(renewals: Renewals) -> None:
    """What a killed run has not revoked is revoked by the next one; nothing of it was lost."""
    worker, users = await opened(renewals, users=3)
    now = await worker.vault.now()
    assert await revocations.request(worker.vault, ALL, now=now) == 3
    claimed = await revocations.claim(
        worker.vault, ALL, "default", "c", now=now, until=now + timedelta(seconds=0.5), limit=2
    )
    assert len(claimed) == 2  # and the process is killed here
    report = await revoke(worker)
    assert (report.requested, report.revoked, report.not_revoked) == (0, 3, [])
    assert [is_alive(renewals, user) for user in users] == [False] * 3


async def test_a_renewal_under_way_is_waited_for(renewals: Renewals) -> None:
    """The pair that a call brings just then is revoked too, and no reader gets it meanwhile."""
    worker, [user] = await opened(renewals)
    spent = renewals.tenant.live(user, "c")["refresh_token"]
    assert spent is not None
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c/oauth/token", 1, "hang", carried_out=True)
    renewing = asyncio.create_task(worker.engine.renew_due(["default"]))
    await renewals.called("c")
    revoking = asyncio.create_task(revoke(worker))
    while not renewals.sql("SELECT 1 FROM revocations"):  # noqa: ASYNC110  # another connection's commit
        await asyncio.sleep(0.02)
    assert renewals.row(user)["access_ciphertext"] is None
    renewals.tenant.release()
    await renewing
    report = await revoking
    assert (report.revoked, report.not_revoked) == (1, [])
    assert not is_alive(renewals, user)
    [first, _] = renewals.tenant.call_log("/idp/c/revoke")  # the refresh token, then the access token
    assert first["token"] != digest(
        spent
    )  # the one that the call brought: no family need end with an older token
    assert (renewals.row(user)["state"], renewals.row(user)["reason"]) == (
        "reauthorization_required",
        "revoked",
    )


async def test_what_is_not_proven_is_listed(renewals: Renewals) -> None:
    """Without a revocation URL the tokens are listed and kept, and revoked once the URL is set."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    report = await revoke(worker)
    assert [(each["user_id"], each["code"]) for each in report.not_revoked] == [(user, "no_revocation_url")]
    set_revocation_url(renewals, worker)
    report = await revoke(worker)
    assert (report.requested, report.revoked, report.not_revoked) == (0, 1, [])
    assert not is_alive(renewals, user)
    assert len({call["token"] for call in renewals.tenant.call_log("/idp/c/revoke")}) == 2


async def test_no_provider_is_shown_anothers_token(renewals: Renewals) -> None:
    """Each connection's tokens go to its own provider, though they are revoked at the same time."""
    renewals.connect("d", users=1)
    worker, users = await opened(renewals, users=2)
    report = await revoke(worker)
    assert (report.revoked, [each["connection"] for each in report.not_revoked]) == (2, ["d"])
    assert len(renewals.tenant.call_log("/idp/c/revoke")) == 4
    assert [is_alive(renewals, user) for user in users] == [False] * 2


async def test_a_token_that_may_have_been_replaced_is_listed(renewals: Renewals) -> None:
    """Where an answer was lost, or its worker died, the provider may have issued a token that nobody has."""
    worker, [lost, died, dying, refused] = await opened(renewals, users=4)
    renewals.sql("UPDATE grants SET in_doubt_since = now(), state = 'in_doubt' WHERE user_id = %s", lost)
    for user, until in ((died, "0 s"), (dying, "0.7 s")):  # the latter's claim ends while it is waited for
        renewals.sql(
            "UPDATE grants SET claim_owner = gen_random_uuid(), claimed_at = now() - interval '2 min',"
            f" claim_until = now() + interval '{until}' WHERE user_id = %s",
            user,
        )
    for user in (dying, died, lost):
        (found,) = (await revoke(worker, Scope(["default"], user))).not_revoked
        assert (found["user_id"], found["code"]) == (user, "in_doubt")
    renewals.tenant.fail_next("/idp/c/revoke", 1, "error:invalid_request")
    report = await revoke(worker, Scope(["default"], refused))
    assert [each["code"] for each in report.not_revoked] == ["http_400"]


async def test_a_grant_that_moves_while_it_is_waited_for(renewals: Renewals) -> None:
    """Its refresh token is then encrypted for its new user, and revoked all the same."""
    worker, [user] = await opened(renewals)
    renewals.sql(
        "UPDATE grants SET claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now() + interval '1 h'"
    )
    now, row = await worker.vault.now(), renewals.row(user)
    await revocations.request(worker.vault, ALL, now=now)
    renewals.sql("UPDATE grants SET claimed_at = now() - interval '1 h', claim_until = now()")
    key = GrantKey("default", "c", "somebody|else", row["provider_user_id"])
    later = now + timedelta(seconds=9)
    assert await relink(worker.vault, [(row["id"], key, later)], now=later) == {key}
    [found] = (await revoke(worker)).not_revoked
    # The access token is still encrypted for the user before; that keeps no refresh token alive.
    assert (found["user_id"], found["code"]) == (key.user_id, "access_token_cannot_decrypt")
    assert not is_alive(renewals, user)


async def test_a_provider_that_slows_down_is_obeyed(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 429 is waited out and repeated; one that never ends is listed with its code."""
    monkeypatch.setattr("worker.erasure.mass_revocation.FIRST_RETRY_SECONDS", 0.01)
    worker, [user] = await opened(renewals)
    renewals.tenant.fail_next("/idp/c/revoke", 1, "429", retry_after=1)
    assert (await revoke(worker)).revoked == 1
    renewals.tenant.login(user)
    await renewals.sync(worker)
    renewals.tenant.fail_next("/idp/c/revoke", MAX_ATTEMPTS, "503")
    report = await revoke(worker)
    assert [each["code"] for each in report.not_revoked] == ["http_503"]


async def test_a_refused_client_costs_one_call(renewals: Renewals) -> None:
    """A client that the provider refuses is tried once; all its grants are listed."""
    worker, _ = await opened(renewals, users=4)
    renewals.tenant.fail_next("/idp/c/revoke", 10, "error:invalid_client")
    report = await revoke(worker)
    assert [each["code"] for each in report.not_revoked] == ["invalid_client"] * 4
    assert len(renewals.token_calls("c")) == 1


async def test_who_signs_in_again_is_renewed_again(renewals: Renewals) -> None:
    """A new login brings new tokens; Auth0's stale copy of the old ones does not."""
    worker, [user] = await opened(renewals)
    await revoke(worker)
    await renewals.sync(worker)
    assert renewals.row(user)["state"] == "reauthorization_required"
    renewals.tenant.login(user)
    await renewals.sync(worker)
    assert renewals.row(user)["state"] == "active"
    renewals.make_due()
    await worker.engine.renew_due(["default"])
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_nobody_else_takes_a_refresh_token_away(renewals: Renewals) -> None:
    """The database still refuses a statement that empties a refresh token for any other reason."""
    await opened(renewals)
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
        renewals.sql("UPDATE grants SET refresh_ciphertext = NULL")
