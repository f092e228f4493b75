"""The claim on a grant: whoever holds it may spend the refresh token, and nobody else, whatever dies or comes late."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from tests.support.renewals import Renewals, Sql, opened
from tests.support.wait import WAIT_SECONDS
from tests.support.wakeups import listening
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.renewal.engine import CLAIM_TIME
from worker.renewal.outcome import Outcome
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import Claim, claim
from worker.vault.db import engine
from worker.vault.ingest import ingest
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.vault import Vault

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=2)
AFTERWARDS = NOW + timedelta(minutes=10)
HOUR = timedelta(hours=1)


def shown(number: int, *, login: int = 0, refresh: str | None = "", connection: str = "c") -> IncomingGrant:
    """What Auth0 shows of a user after this login; ``refresh`` None where it shows no refresh token."""
    return IncomingGrant(
        key=GrantKey("default", connection, f"c|{number}", str(number)),
        strategy="oauth2",
        pair=TokenPair(
            access=Secret(f"access-{number}-{login}"),
            refresh=None if refresh is None else Secret(refresh or f"refresh-{number}-{login}"),
            expires_at=NOW + timedelta(hours=login),
        ),
        updated_at=NOW + timedelta(hours=login),
        issued_at=NOW + timedelta(hours=login - 1),
    )


async def planted(vault: Vault, sql: Sql, *wanted: IncomingGrant) -> None:
    """Take grants into the vault, all due now."""
    await ingest.ingest(vault, wanted, now=NOW)
    sql("UPDATE grants SET due_at = %s", NOW)


async def claim_all(
    vault: Vault,
    now: datetime = NOW,
    until: datetime = LATER,
    *,
    quota: int = 1000,
    limit: int = 1000,
    connections: Sequence[str] = ("c",),
    owner: UUID | None = None,
) -> list[Claim]:
    quotas = {("default", name): quota for name in connections}
    return await claims.claim_due(vault, quotas, owner=owner or uuid4(), now=now, until=until, limit=limit)


async def claim_first(vault: Vault, now: datetime = NOW, until: datetime = LATER) -> Claim:
    [claim] = await claim_all(vault, now, until)
    return claim


async def store(
    vault: Vault, claim: Claim, *, access: str = "renewed", refresh: str | None = "rotated"
) -> bool:
    pair = TokenPair(Secret(access), Secret(refresh) if refresh else None, expires_at=AFTERWARDS + HOUR)
    return await claims.store_pair(vault, claim, pair, obtained_at=claim.claimed_at, due_at=AFTERWARDS)


# Once


async def test_many_workers_present_each_refresh_token_once(renewals: Renewals) -> None:
    """However many workers look for due grants at the same time, each refresh token is presented exactly once."""
    users = renewals.connect("strict", users=90)
    workers = [await renewals.synced(), *[await renewals.worker() for _ in range(3)]]
    for _ in range(2):
        renewals.make_due()
        done = await asyncio.gather(*(worker.engine.renew_due(worker.tenants) for worker in workers))
        assert sum(done, Counter()) == {Outcome.RENEWED: 90}
    assert renewals.tenant.double_spends() == 0
    shown_tokens = Counter(call["token"] for call in renewals.token_calls("strict"))
    assert len(shown_tokens) == 180
    assert set(shown_tokens.values()) == {1}
    assert all(renewals.holds_what_lives(workers[0].vault, user, "strict") for user in users[::10])
    assert all(row["claim_owner"] is None for row in renewals.rows())


async def test_two_claims_never_share_a_row(vault: Vault, sql: Sql) -> None:
    """Whoever claims at the same time, with whatever quotas, no row is given to two, and none is forgotten."""
    chance = random.Random(7)
    names = ("a", "b", "c")
    await planted(vault, sql, *(shown(n, connection=names[n % 3]) for n in range(120)))
    for round_ in range(6):
        now = NOW + round_ * HOUR

        async def batch(now: datetime = now) -> list[Claim]:
            found: list[Claim] = []
            while claimed := await claim_all(
                vault,
                now,
                now + timedelta(minutes=2),
                quota=chance.randint(1, 9),
                limit=chance.randint(1, 20),
                connections=names,
            ):
                found += claimed
            return found

        async with asyncio.timeout(WAIT_SECONDS):
            batches = await asyncio.gather(*(batch() for _ in range(8)))
        given = Counter(claim.id for claimed in batches for claim in claimed)
        assert len(given) == 120
        assert set(given.values()) == {1}


@pytest.mark.parametrize("singly", [False, True])
async def test_a_live_claim_is_nobody_elses(vault: Vault, sql: Sql, singly: bool) -> None:
    """Until its deadline a claimed grant is claimed neither with others nor singly, and then by both."""
    await planted(vault, sql, shown(1), shown(2))

    async def claim_singly(id_: int, now: datetime) -> Claim | None:
        return await claims.claim_one(vault, id_, owner=uuid4(), now=now, until=AFTERWARDS)

    first, second = (row["id"] for row in sql("SELECT id FROM grants ORDER BY id"))
    if singly:
        held = [
            await claims.claim_one(vault, id_, owner=uuid4(), now=NOW, until=LATER) for id_ in (first, second)
        ]
        assert all(held)
    else:
        assert len(await claim_all(vault)) == 2
    just_before = LATER - timedelta(milliseconds=1)
    assert await claim_all(vault, just_before) == []
    assert await claim_singly(first, just_before) is None
    assert await claim_singly(first, LATER)
    assert [claim.id for claim in await claim_all(vault, LATER)] == [second]


async def test_a_grant_that_has_changed_is_not_claimed_singly(vault: Vault, sql: Sql) -> None:
    """Who wants to replace a token that has been replaced already gets no claim, forced or not."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await store(vault, claim)
    for force in (False, True):
        taken = await claims.claim_one(
            vault,
            claim.id,
            owner=uuid4(),
            now=NOW,
            until=LATER,
            access_version=claim.access_version,
            force=force,
        )
        assert taken is None
    assert await claims.claim_one(
        vault, claim.id, owner=uuid4(), now=NOW, until=LATER, access_version=claim.access_version + 1
    )


@pytest.mark.parametrize("state", ["dead", "backoff"])
async def test_only_force_claims_what_is_to_be_left_alone(vault: Vault, sql: Sql, state: str) -> None:
    """A dead grant, or one that waits after a failure, is claimed singly by force alone, the latter by the operator's."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    if state == "dead":
        await claims.release(
            vault, claim, due_at=None, state="reauthorization_required", reason="x", attempts=1
        )
    else:
        await claims.release(vault, claim, due_at=AFTERWARDS, attempts=1)

    async def taken(**how: bool) -> Claim | None:
        return await claims.claim_one(vault, claim.id, owner=uuid4(), now=LATER, until=LATER + HOUR, **how)

    assert await taken() is None
    forced = await taken(force=True, by_operator=state == "backoff")
    assert forced is not None
    assert forced.in_doubt_since is None
    if state == "dead":
        assert sql("SELECT due_at FROM grants") == [{"due_at": None}]


async def test_a_row_under_a_lock_is_not_waited_for(vault: Vault, sql: Sql, database_url: Secret) -> None:
    """A row that somebody is just writing is left out, and the others are claimed without delay."""
    await planted(vault, sql, shown(1), shown(2))
    connection = await psycopg.AsyncConnection.connect(database_url.reveal())
    async with connection:
        await connection.execute("SELECT FROM grants WHERE user_id = 'c|1' FOR UPDATE")
        async with asyncio.timeout(WAIT_SECONDS):
            assert [claim.key.user_id for claim in await claim_all(vault)] == ["c|2"]
    assert [claim.key.user_id for claim in await claim_all(vault)] == ["c|1"]


async def test_rows_locked_by_a_process_that_stands_still_are_claimed_in_the_end(
    vault: Vault, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction left open by a paused process, or a host without power, does not keep grants un-renewed for hours."""
    await planted(vault, sql, shown(1))
    monkeypatch.setattr(engine, "SESSION_SETTINGS", {"idle_in_transaction_session_timeout": "200ms"})
    await vault.engine.dispose()
    paused = await vault.engine.connect()
    await paused.execute(text("SELECT 1 FROM grants FOR UPDATE"))

    async def claimed() -> bool:
        return bool(await claim_all(vault))

    assert not await claimed()
    async with asyncio.timeout(WAIT_SECONDS):
        while not await claimed():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.05)
    await paused.invalidate()
    await paused.close()


async def test_the_claim_is_committed_before_the_request_is_sent(renewals: Renewals) -> None:
    """While a request is under way, anybody can see its owner and its time in Postgres."""
    [user] = renewals.connect("strict")
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/strict", 1, "hang")
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await renewals.called("strict")
    row = renewals.row(user)
    assert row["claim_owner"] is not None
    assert row["claimed_at"] <= row["now"] < row["claim_until"]
    assert row["claim_until"] - row["claimed_at"] == CLAIM_TIME
    renewals.tenant.release()
    await running
    assert renewals.row(user)["claim_owner"] is None


async def test_nothing_is_sent_that_would_outlast_its_claim(renewals: Renewals) -> None:
    """A claim with less time left than a whole call takes is given back, unspent."""
    [user] = renewals.connect("strict")
    await renewals.synced()
    renewals.make_due()

    def clock() -> datetime:
        is_claimed = renewals.row(user)["claim_owner"] is not None
        return datetime.now(UTC) + (CLAIM_TIME - timedelta(seconds=30) if is_claimed else timedelta())

    slow = await renewals.worker(now=clock)
    assert await slow.engine.renew_due(slow.tenants) == {Outcome.UNSENT: 1}
    assert renewals.token_calls("strict") == []
    row = renewals.row(user)
    assert (row["claim_owner"], row["in_doubt_since"], row["attempts"]) == (None, None, 0)
    assert row["due_at"] is not None


# Workers that die


async def test_a_dead_workers_claim_is_in_doubt_since_it_began(vault: Vault, sql: Sql) -> None:
    """A claim past its deadline says when the attempt began whose outcome nobody knows; the first one counts."""
    await planted(vault, sql, shown(1))
    first = await claim_first(vault)
    assert first.in_doubt_since is None
    second = await claim_first(vault, LATER, LATER + HOUR)
    assert (second.id, second.in_doubt_since) == (first.id, NOW)
    third = await claim_first(vault, LATER + HOUR, LATER + 2 * HOUR)
    assert third.in_doubt_since == NOW


async def test_a_dead_workers_claim_can_be_taken_over_singly(vault: Vault, sql: Sql) -> None:
    """On demand too, a claim past its deadline is taken over with its doubt."""
    await planted(vault, sql, shown(1))
    first = await claim_first(vault)
    taken = await claims.claim_one(vault, first.id, owner=uuid4(), now=LATER, until=AFTERWARDS)
    assert taken is not None
    assert taken.in_doubt_since == NOW


async def test_a_claim_is_held_until_it_is_taken_over_or_its_token_replaced(vault: Vault, sql: Sql) -> None:
    """A worker that asks learns whether the refresh token that it has claimed is still its own to spend."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    assert await claims.is_held(vault, claim)
    assert not await claims.is_held(vault, replace(claim, refresh_version=claim.refresh_version + 1))
    assert not await claims.is_held(vault, replace(claim, id=claim.id + 1))
    second = await claims.claim_one(vault, claim.id, owner=uuid4(), now=LATER, until=AFTERWARDS)
    assert second is not None
    assert not await claims.is_held(vault, claim)
    assert await claims.is_held(vault, second)


async def test_a_claims_tokens_can_be_decrypted(vault: Vault, sql: Sql) -> None:
    """A claim brings both tokens, and None for the one that the grant lacks."""
    await planted(vault, sql, shown(1), replace(shown(2, refresh=None), exchangeable=True))
    with_both, access_only = await claim_all(vault)
    assert claims.decrypt_access_token(vault, with_both) == Secret("access-1-0")
    assert claims.decrypt_refresh_token(vault, with_both) == Secret("refresh-1-0")
    assert claims.decrypt_refresh_token(vault, access_only) is None
    assert claims.decrypt_access_token(vault, replace(with_both, access_ciphertext=None)) is None


async def test_giving_back_unspent_leaves_no_doubt(vault: Vault, sql: Sql) -> None:
    """A claim given back before its request was sent is as if it had never been."""
    await planted(vault, sql, shown(1))
    await claims.release_unspent(vault, [await claim_first(vault)], due_at=NOW)
    again = await claim_first(vault, AFTERWARDS, AFTERWARDS + HOUR)
    assert (again.in_doubt_since, again.attempts, again.state) == (None, 0, "active")


async def test_giving_back_unspent_keeps_an_older_doubt(vault: Vault, sql: Sql) -> None:
    """The doubt that a dead worker left stays until somebody gets an answer."""
    await planted(vault, sql, shown(1))
    await claim_first(vault)
    taken_over = await claim_first(vault, LATER, AFTERWARDS)
    await claims.release_unspent(vault, [taken_over], due_at=AFTERWARDS)
    assert (await claim_first(vault, AFTERWARDS, AFTERWARDS + HOUR)).in_doubt_since == NOW


async def test_only_the_owner_gives_back(vault: Vault, sql: Sql) -> None:
    """A worker that comes back from the dead takes nothing from the one that took over."""
    await planted(vault, sql, shown(1))
    dead = await claim_first(vault)
    alive = await claim_first(vault, LATER, AFTERWARDS)
    await claims.release_unspent(vault, [dead], due_at=NOW)
    assert not await claims.release(vault, dead, due_at=NOW, state="reauthorization_required", reason="x")
    [row] = sql("SELECT state, claim_owner, reason FROM grants")
    assert row == {"state": "active", "claim_owner": alive.owner, "reason": None}


# Answers that come late


async def test_an_answer_after_the_claim_ran_out_is_stored(vault: Vault, sql: Sql) -> None:
    """A late answer is the only copy of the new pair: it is stored where nothing newer is there."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    assert await store(vault, claim)
    [row] = sql("SELECT * FROM grants")
    assert opened(vault, row) == ("renewed", "rotated")
    assert (row["claim_owner"], row["in_doubt_since"], row["state"]) == (None, None, "active")


async def test_a_late_answer_is_stored_under_another_ones_claim(vault: Vault, sql: Sql) -> None:
    """A late answer is stored even while another worker asks again, whose own outcome then changes nothing."""
    await planted(vault, sql, shown(1))
    late = await claim_first(vault)
    second = await claim_first(vault, LATER, AFTERWARDS)
    assert await store(vault, late)
    [row] = sql("SELECT * FROM grants")
    assert row["claim_owner"] is None  # left behind, it would put a grant in doubt that never was
    assert not await claims.release(
        vault, second, due_at=None, state="reauthorization_required", reason="invalid_grant"
    )
    assert not await store(vault, second, access="not this", refresh="nor this")
    [row] = sql("SELECT * FROM grants")
    assert opened(vault, row) == ("renewed", "rotated")
    assert (row["state"], row["due_at"]) == (
        "in_doubt",
        late.claimed_at,
    )  # the second may have presented it as well
    assert not await claims.is_held(vault, second)


async def test_a_late_answer_heals_what_was_given_up(vault: Vault, sql: Sql) -> None:
    """Where the one who took over was refused, the first one's late answer is kept, and tried at once.

    A provider that took the second presentation for theft has revoked the new pair too: it is still in doubt, so
    that a refusal will be called what it is.
    """
    await planted(vault, sql, shown(1))
    late = await claim_first(vault)
    second = await claim_first(vault, LATER, AFTERWARDS)
    assert await claims.release(
        vault,
        second,
        due_at=None,
        state="reauthorization_required",
        reason="lost_in_rotation",
        reason_since=NOW,
    )
    assert await store(vault, late)
    [row] = sql("SELECT * FROM grants")
    assert (row["state"], row["in_doubt_since"], row["due_at"]) == ("in_doubt", NOW, late.claimed_at)
    assert opened(vault, row) == ("renewed", "rotated")


async def test_a_refusal_just_after_a_late_answer_puts_the_new_pair_in_doubt(vault: Vault, sql: Sql) -> None:
    """The worker that took over presented the token too, which may have revoked the family: the new pair is tried at once."""
    await planted(vault, sql, shown(1))
    late = await claim_first(vault)
    second = await claim_first(vault, LATER, AFTERWARDS)
    assert await store(vault, late)
    third = await claim_first(vault, LATER, AFTERWARDS)
    assert await store(vault, third, access="again", refresh="rotated again")
    assert sql("SELECT state, in_doubt_since FROM grants") == [{"state": "active", "in_doubt_since": None}]
    assert await claims.mark_reused(vault, second, now=AFTERWARDS)
    [row] = sql("SELECT * FROM grants")
    assert (row["state"], row["in_doubt_since"], row["due_at"]) == ("in_doubt", NOW, AFTERWARDS)
    assert opened(vault, row) == ("again", "rotated again")
    assert not await claims.mark_reused(vault, second, now=AFTERWARDS)


async def test_an_answer_stored_twice_changes_nothing(vault: Vault, sql: Sql) -> None:
    """Storing again what is stored, after a commit nobody heard of, leaves the row as it is."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await store(vault, claim)
    before = sql("SELECT * FROM grants")
    assert not await store(vault, claim)
    assert sql("SELECT * FROM grants") == before


async def test_a_grant_healed_while_it_was_forced_is_looked_at_again(vault: Vault, sql: Sql) -> None:
    """After a failed forced try a dead grant is not tried again, but a grant that is active by now is."""
    await planted(vault, sql, shown(1))
    late = await claim_first(vault)
    second = await claim_first(vault, LATER, AFTERWARDS)
    assert await claims.release(
        vault,
        second,
        due_at=None,
        state="reauthorization_required",
        reason="invalid_grant",
        doubt_resolved=True,
    )
    now, until = AFTERWARDS, AFTERWARDS + HOUR
    forced = await claims.claim_one(vault, late.id, owner=uuid4(), now=now, until=until, force=True)
    assert forced is not None
    assert await store(vault, late, refresh=None)  # the provider does not rotate
    assert await claims.release(vault, forced, due_at=None, attempts=1, last_error="http_503")
    [row] = sql("SELECT state, due_at, claim_owner FROM grants")
    assert (row["state"], row["claim_owner"]) == ("active", None)
    assert row["due_at"] is not None


async def test_an_old_answer_from_a_spool_raises_no_dead_grant(vault: Vault, sql: Sql) -> None:
    """Where the provider does not rotate, an answer replayed days late brings nothing, and no event says that the grant recovered."""
    await planted(vault, sql, shown(1))
    late = await claim_first(vault)
    second = await claim_first(vault, LATER, AFTERWARDS)
    assert await store(vault, second, access="newer", refresh=None)
    sql("UPDATE grants SET due_at = %s", AFTERWARDS)
    third = await claim_first(vault, AFTERWARDS, AFTERWARDS + HOUR)
    assert await claims.release(
        vault,
        third,
        due_at=None,
        state="reauthorization_required",
        reason="invalid_grant",
        doubt_resolved=True,
    )
    before = sql("SELECT * FROM grants")
    told = sql("SELECT count(*) FROM outbox")
    assert not await store(vault, late, refresh=None)
    assert sql("SELECT * FROM grants") == before
    assert sql("SELECT count(*) FROM outbox") == told


@pytest.mark.parametrize("is_alone", [True, False])
async def test_an_answer_changes_one_row(vault: Vault, sql: Sql, is_alone: bool) -> None:
    """Neither the user's grant of another connection, as old and claimed too, nor anybody else's gets the pair."""
    await planted(vault, sql, shown(1), shown(1, connection="d"), shown(2))
    mine, *_ = sorted(await claim_all(vault, connections=("c", "d")), key=lambda each: each.id)
    others = sql("SELECT * FROM grants WHERE id <> %s ORDER BY id", mine.id)
    if is_alone:
        assert await store(vault, mine)
    else:
        pair = TokenPair(Secret("renewed"), Secret("rotated"), expires_at=AFTERWARDS + HOUR)
        assert await claims.store_pairs(vault, [claims.ObtainedPair(mine, pair, NOW, AFTERWARDS)]) == {0}
    assert sql("SELECT * FROM grants WHERE id <> %s ORDER BY id", mine.id) == others


@pytest.mark.parametrize(("refresh", "ends"), [("rotated again", None), (None, NOW + HOUR)])
async def test_a_new_refresh_token_does_not_inherit_the_end_of_the_old_one(
    vault: Vault, sql: Sql, refresh: str | None, ends: datetime | None
) -> None:
    """When a refresh token ends is what was said of that very one."""
    await planted(vault, sql, shown(1))
    told = TokenPair(Secret("renewed"), Secret("rotated"), AFTERWARDS + HOUR, NOW + HOUR)
    assert await claims.store_pair(vault, await claim_first(vault), told, obtained_at=NOW, due_at=NOW)
    assert await store(vault, await claim_first(vault), refresh=refresh)
    assert sql("SELECT refresh_expires_at FROM grants") == [{"refresh_expires_at": ends}]


# Logins during the call


async def test_a_newer_login_outlives_an_older_answer(vault: Vault, sql: Sql) -> None:
    """A user who logged in during the call keeps the login's pair, and the claim is void."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await ingest.ingest(vault, [shown(1, login=1)], now=NOW + timedelta(seconds=1))
    [row] = sql("SELECT * FROM grants")
    assert row["claim_owner"] is None
    assert not await store(vault, claim)
    [row] = sql("SELECT * FROM grants")
    assert opened(vault, row) == ("access-1-1", "refresh-1-1")


async def test_a_login_with_an_access_token_alone_costs_no_rotated_refresh_token(
    vault: Vault, sql: Sql
) -> None:
    """A login during the call that brought no refresh token keeps its access token beside the rotated one."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await ingest.ingest(vault, [shown(1, login=2, refresh=None)], now=NOW + timedelta(seconds=1))
    assert await store(vault, claim)
    [row] = sql("SELECT * FROM grants")
    assert opened(vault, row) == ("access-1-2", "rotated")
    assert (row["claim_owner"], row["expires_at"]) == (None, NOW + 2 * HOUR)


async def test_an_answer_of_which_nothing_is_news_was_superseded(vault: Vault, sql: Sql) -> None:
    """An answer without a refresh token, whose access token a login has overtaken, counts as superseded."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await ingest.ingest(vault, [shown(1, login=2, refresh=None)], now=NOW + timedelta(seconds=1))
    assert not await store(vault, claim, refresh=None)
    [row] = sql("SELECT * FROM grants")
    assert opened(vault, row) == ("access-1-2", "refresh-1-0")
    assert row["claim_owner"] is None


async def test_a_verdict_on_a_refresh_token_already_replaced_is_not_believed(vault: Vault, sql: Sql) -> None:
    """``invalid_grant`` for a refresh token that a login has replaced says nothing about the grant."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await ingest.ingest(vault, [shown(1, login=1)], now=NOW + timedelta(seconds=1))
    assert not await claims.release(
        vault, claim, due_at=None, state="reauthorization_required", reason="invalid_grant"
    )
    [row] = sql("SELECT state, reason, due_at FROM grants")
    assert (row["state"], row["reason"]) == ("active", None)
    assert row["due_at"] is not None


async def test_a_verdict_on_an_exchanged_token_already_replaced_is_not_believed(
    vault: Vault, sql: Sql
) -> None:
    """Where the access token itself is exchanged, a login that replaced it voids the claim on the old one."""
    first, second = (shown(1, login=login, refresh=None) for login in (0, 1))
    exchangeable = [
        IncomingGrant(s.key, s.strategy, s.pair, s.updated_at, s.issued_at, exchangeable=True)
        for s in (first, second)
    ]
    await planted(vault, sql, exchangeable[0])
    claim = await claim_first(vault)
    await ingest.ingest(vault, exchangeable[1:], now=NOW + timedelta(seconds=1))
    assert not await claims.release(
        vault, claim, due_at=None, state="reauthorization_required", reason="facebook_190"
    )
    assert not await store(vault, claim, refresh=None)
    [row] = sql("SELECT * FROM grants")
    assert (row["state"], row["claim_owner"]) == ("active", None)
    assert opened(vault, row) == ("access-1-1", None)


async def test_a_verdict_on_an_exchanged_token_that_a_late_answer_replaced_is_not_believed(
    vault: Vault, sql: Sql
) -> None:
    """Where the access token itself is exchanged, what is said of the old one is not held against the new one."""
    await planted(vault, sql, replace(shown(1, refresh=None), exchangeable=True))
    late = await claim_first(vault)
    second = await claim_first(vault, LATER, AFTERWARDS)
    assert await store(vault, late, refresh=None)
    assert not await claims.release(
        vault,
        second,
        due_at=None,
        state="reauthorization_required",
        reason="facebook_190",
        doubt_resolved=True,
    )
    [row] = sql("SELECT * FROM grants")
    assert (row["state"], row["claim_owner"], row["due_at"]) == ("active", None, AFTERWARDS)
    assert opened(vault, row) == ("renewed", None)


# Rows that go


async def test_an_answer_for_an_erased_grant_is_not_kept(vault: Vault, sql: Sql) -> None:
    """Tokens of a user who was erased during the call are not written back."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    sql(
        "UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL,"
        " claim_owner = NULL, claimed_at = NULL, claim_until = NULL"
    )
    assert not await store(vault, claim)
    assert not await claims.release(vault, claim, due_at=AFTERWARDS)
    assert await claims.claim_one(vault, claim.id, owner=uuid4(), now=NOW, until=LATER) is None
    [row] = sql("SELECT state, access_ciphertext, refresh_ciphertext, due_at FROM grants")
    assert row == {"state": "erased", "access_ciphertext": None, "refresh_ciphertext": None, "due_at": None}


async def test_an_answer_for_a_deleted_row_goes_nowhere(vault: Vault, sql: Sql) -> None:
    """A row deleted during the call is not made again."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    sql("DELETE FROM grants")
    assert not await store(vault, claim)
    assert not await claims.release(vault, claim, due_at=AFTERWARDS)
    await claims.release_unspent(vault, [claim], due_at=NOW)
    assert sql("SELECT id FROM grants") == []


# Those who wait


@pytest.mark.parametrize("end", ["stored", "released", "unspent", "login"])
async def test_whoever_waits_for_a_claim_is_told_of_its_end(
    vault: Vault, sql: Sql, database_url: Secret, end: str
) -> None:
    """However a claim ends, those who wait for it are told at once, once."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    async with listening(database_url) as heard:
        async with vault.statement() as connection:
            assert await claims.mark_awaited(connection, claim.id, NOW)
        match end:
            case "stored":
                await store(vault, claim)
            case "released":
                await claims.release(vault, claim, due_at=AFTERWARDS)
            case "unspent":
                await claims.release_unspent(vault, [claim], due_at=NOW)
            case "login":
                await ingest.ingest(vault, [shown(1, login=1)], now=NOW)
    assert heard() == [str(claim.id)]
    [row] = sql("SELECT awaited FROM grants")
    assert not row["awaited"]


async def test_the_time_left_of_a_backoff_is_told(vault: Vault, sql: Sql) -> None:
    """Who asks for a grant that waits after a failure learns for how long; a grant that only is not due waits for nothing."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    sql("UPDATE grants SET due_at = now() + interval '1 hour', attempts = 1")
    assert await claims.backoff_left(vault, claim.id) == 0  # it is being renewed
    sql("UPDATE grants SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL")
    assert 3500 < await claims.backoff_left(vault, claim.id) <= 3600
    assert await claims.backoff_left(vault, claim.id + 1) == 0
    sql("UPDATE grants SET attempts = 0")
    assert await claims.backoff_left(vault, claim.id) == 0


async def test_nobody_waits_for_a_claim_that_has_ended(vault: Vault, sql: Sql) -> None:
    """Who comes to wait after the end is told so, as no notification will come any more."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await store(vault, claim)
    async with vault.statement() as connection:
        assert not await claims.mark_awaited(connection, claim.id, NOW)


async def test_an_end_nobody_waits_for_is_not_told(vault: Vault, sql: Sql, database_url: Secret) -> None:
    """Thousands of renewals that nobody waits for send no notifications."""
    await planted(vault, sql, shown(1))
    async with listening(database_url) as heard:
        await store(vault, await claim_first(vault))
    assert heard() == []


# What it costs


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", []) for node in _nodes(inner))]


async def test_finding_due_grants_costs_what_is_due(vault: Vault, sql: Sql) -> None:
    """With 20,000 grants of which ten are due, a claim reads the due index and few pages."""
    await planted(vault, sql, shown(1), shown(2, connection="d"))
    sql("DELETE FROM grants")
    sql(
        "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from, due_at)"
        " SELECT 'default', CASE WHEN n %% 2 = 0 THEN 'c' ELSE 'd' END, 'u' || n, n::text, 'active', 'auth0',"
        " CASE WHEN n <= 10 THEN %s::timestamptz ELSE %s::timestamptz + n * interval '1 second' END"
        " FROM generate_series(1, 20000) n",
        NOW,
        LATER,
    )
    sql("ANALYZE grants")
    values = {
        "quotas": json.dumps([{"tenant": "default", "name": name, "quota": 100} for name in ("c", "d")]),
        "owner": uuid4(), "now": NOW, "until": LATER, "limit": 128, "due_by": NOW,
    }  # fmt: skip
    explain = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claim._CLAIM_DUE}")
    async with vault.engine.connect() as connection:
        [plan] = (await connection.execute(explain, values)).scalar_one()
        await connection.rollback()
    nodes = _nodes(plan["Plan"])
    on_grants = {node["Node Type"] for node in nodes if node.get("Relation Name") == "grants"}
    assert "Seq Scan" not in on_grants
    assert any(node.get("Index Name") == "grants_due_idx" for node in nodes)
    touched = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    assert touched < 400, "one scan of the table alone is more"
    assert len(await claim_all(vault, connections=("c", "d"))) == 10


@pytest.mark.parametrize(("hours", "allowed"), [(23, False), (24, True)])
async def test_a_dead_grant_is_forced_once_a_day(vault: Vault, sql: Sql, hours: int, allowed: bool) -> None:
    """Twenty-three hours after a forced try the next one is refused, and a day after it is allowed."""
    await planted(vault, sql, shown(1))
    claim = await claim_first(vault)
    await claims.release(vault, claim, due_at=None, state="reauthorization_required", reason="x", attempts=1)
    sql("UPDATE grants SET forced_at = %s", NOW)
    now = NOW + timedelta(hours=hours)
    assert await claims.may_be_forced(vault, claim.id, now=now) == allowed
    forced = await claims.claim_one(vault, claim.id, owner=uuid4(), now=now, until=now + HOUR, force=True)
    assert (forced is not None) == allowed
