"""Pairs that are stored together end as if each had been stored by itself."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import psycopg
import pytest

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.renewals import Sql, opened
from tests.support.wait import WAIT_SECONDS, until_async
from tests.support.wakeups import listening
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from token_vault.token_target import TokenTarget
from worker.renewal.group_commit import MAX_GROUP, GroupCommit
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import ObtainedPair
from worker.vault.ingest import ingest
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.vault import Vault

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINE, OTHER = UUID(int=1), UUID(int=2)

# What may have become of a claimed grant when its answer comes, one word of each column.
FATES = [
    "SET claim_owner = claim_owner",
    f"SET claim_owner = '{OTHER}', claimed_at = claim_until",
    "SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL",
    "SET refresh_version = refresh_version + 1",
    "SET access_version = access_version + 1",
    "SET in_doubt_since = claimed_at, state = 'in_doubt', attempts = 2, last_error = 'http_503'",
    "SET state = 'reauthorization_required', reason = 'lost_in_rotation', reason_since = claimed_at, due_at = NULL",
    "SET awaited = true, renewal_ordered_at = claimed_at, attempts = 3",
    "SET state = 'erased', due_at = NULL, access_ciphertext = NULL, refresh_ciphertext = NULL",
    "SET user_id = user_id || '-linked'",
    "SET consent_expires_at = claim_until, consent_is_counted = false",
]
ANSWERS = [
    TokenPair(Secret("renewed"), Secret("rotated"), NOW + HOUR),
    TokenPair(Secret("renewed"), None, None, scopes=("a", 'b"\\é')),
    TokenPair(Secret("renewed"), Secret("rotated"), NOW + HOUR, NOW + 2 * HOUR, (), NOW + 3 * HOUR),
    TokenPair(
        Secret("renewed"), None, NOW + HOUR, NOW + 2 * HOUR, extra={"instance_url": "https://x.example"}
    ),
    TokenPair(Secret("renewed"), Secret("rotated"), NOW + HOUR, counted_consent_end=NOW + 4 * HOUR),
    TokenPair(None, Secret("rotated")),
]
# Each column but those that name the row or hold a ciphertext, which is never the same twice.
OUTCOME = (
    "state", "reason", "reason_since", "access_version", "refresh_version", "expires_at", "refresh_expires_at",
    "consent_expires_at", "consent_is_counted", "scopes", "obtained_at", "obtained_from", "due_at", "claim_owner", "claimed_at", "claim_until",
    "awaited", "in_doubt_since", "attempts", "last_error", "last_renewed_at", "renewal_ordered_at",
)  # fmt: skip


async def claimed(vault: Vault, sql: Sql, connection: str, number: int) -> list[claims.Claim]:
    """Ingest so many grants of a connection and claim them, in the order of their numbers."""
    shown = [
        IncomingGrant(
            GrantKey("default", connection, f"{connection}|{n}", str(n)),
            "oauth2",
            TokenPair(Secret(f"access-{n}"), Secret(f"refresh-{n}"), NOW, NOW + 5 * HOUR, ("before",)),
            updated_at=NOW,
            issued_at=NOW - HOUR,
        )
        for n in range(number)
    ]
    await ingest.ingest(vault, shown, now=NOW)
    sql("UPDATE grants SET due_at = %s WHERE connection = %s", NOW, connection)
    found = await claims.claim_due(
        vault, {("default", connection): number}, owner=MINE, now=NOW, until=NOW + HOUR, limit=number
    )
    assert len(found) == number
    return sorted(found, key=lambda claim: int(claim.key.provider_user_id))


def rows_of(sql: Sql, connection: str) -> list[dict[str, object]]:
    rows = sql("SELECT * FROM grants WHERE connection = %s", connection)
    return sorted(rows, key=lambda row: int(row["provider_user_id"]))


async def test_a_group_decides_on_each_answer_as_if_it_came_alone(vault: Vault, sql: Sql) -> None:
    """Whatever became of the grants: a group leaves each row, and returns of each answer, what one by one would."""
    cases = list(product(FATES, ANSWERS))
    together = await claimed(vault, sql, "together", len(cases))
    alone = await claimed(vault, sql, "alone", len(cases))
    for connection in ("together", "alone"):
        for n, (fate, _) in enumerate(cases):
            where = "WHERE connection = %s AND provider_user_id = %s"
            sql(f"UPDATE grants {fate} {where}", connection, str(n))

    def obtained(claim: claims.Claim, pair: TokenPair) -> ObtainedPair:
        return ObtainedPair(claim, pair, NOW, NOW + HOUR / 2)

    answers = [pair for _, pair in cases]
    group = GroupCommit(vault)
    by_group = await asyncio.gather(*map(group.store, map(obtained, together, answers)))
    one_by_one = [
        await claims.store_pair(vault, claim, pair, obtained_at=NOW, due_at=NOW + HOUR / 2)
        for claim, pair in zip(alone, answers, strict=True)
    ]
    assert by_group == one_by_one
    assert {True, False} == set(by_group)
    for case, got, wanted in zip(cases, rows_of(sql, "together"), rows_of(sql, "alone"), strict=True):
        assert {name: got[name] for name in OUTCOME} == {name: wanted[name] for name in OUTCOME}, case
        fate, pair = case
        is_whole = bool(
            pair.access and pair.refresh
        )  # else a token stays that was encrypted for another place
        if "_version" not in fate and (is_whole or "user_id" not in fate):
            assert opened(vault, got) == opened(vault, wanted), case
        assert (got["extra_ciphertext"] is None) == (wanted["extra_ciphertext"] is None), case


async def test_a_group_takes_the_plain_answers(vault: Vault, sql: Sql, database_url: Secret) -> None:
    """One statement stores what needs no decision of its own, names these answers, and tells those who wait for them."""
    mine = await claimed(vault, sql, "c", 5)
    sql("UPDATE grants SET awaited = true WHERE id = ANY(%s)", [mine[0].id, mine[4].id])
    other_target = replace(mine[3], target=TokenTarget(resource="https://x.example"))
    gone = replace(mine[4], owner=OTHER)
    pairs = [ANSWERS[3], ANSWERS[-1], ANSWERS[0], ANSWERS[0], ANSWERS[0]]
    answers = [
        ObtainedPair(claim, pair, NOW, NOW + HOUR)
        for claim, pair in zip([*mine[:3], other_target, gone], pairs, strict=True)
    ]
    async with listening(database_url) as heard:
        assert await claims.store_pairs(vault, answers) == {0, 2}
        assert await claims.store_pairs(vault, [answers[1]]) == set()
        assert await claims.store_pairs(vault, []) == set()
    assert heard() == [str(mine[0].id)]
    rows = rows_of(sql, "c")
    assert [row["obtained_from"] == "renewal" for row in rows] == [True, False, True, False, False]
    assert (opened(vault, rows[0]), opened(vault, rows[2])) == (
        ("renewed", "refresh-0"),
        ("renewed", "rotated"),
    )
    assert [row["extra_ciphertext"] is not None for row in rows] == [True, False, False, False, False]
    assert rows[2]["scopes"] == ["before"]


async def test_only_the_answer_that_lost_its_race_is_refused(vault: Vault, sql: Sql) -> None:
    """Of a group, the pair whose grant has a newer login meanwhile is superseded; the others are stored."""
    mine = await claimed(vault, sql, "c", 3)
    sql(
        "UPDATE grants SET refresh_version = refresh_version + 1, access_version = access_version + 1"
        " WHERE provider_user_id = '1'"
    )
    group = GroupCommit(vault)
    pairs = [ObtainedPair(claim, ANSWERS[0], NOW, NOW + HOUR) for claim in mine]
    assert await asyncio.gather(*map(group.store, pairs)) == [True, False, True]
    rows = rows_of(sql, "c")
    assert [row["obtained_from"] for row in rows] == ["renewal", "auth0", "renewal"]
    assert rows[1]["claim_owner"] == MINE


async def test_a_locked_row_delays_no_other_answer(vault: Vault, sql: Sql, database_url: Secret) -> None:
    """A transaction that holds one grant's row keeps its answer waiting, and those of other grants are committed."""
    mine = await claimed(vault, sql, "c", 3)
    group = GroupCommit(vault)
    connecting = await psycopg.AsyncConnection.connect(database_url.reveal())
    async with asyncio.timeout(WAIT_SECONDS), connecting as locking:
        await locking.execute("SELECT FROM grants WHERE id = %s FOR UPDATE", (mine[0].id,))
        storing = [
            asyncio.create_task(group.store(ObtainedPair(claim, ANSWERS[0], NOW, NOW + HOUR)))
            for claim in mine
        ]
        assert await asyncio.gather(*storing[1:]) == [True, True]
        late = [replace(claim, refresh_version=7) for claim in mine[1:]]
        await asyncio.gather(*(group.store(ObtainedPair(claim, ANSWERS[0], NOW, NOW)) for claim in late))
        assert not storing[0].done()
        await locking.rollback()
    assert await storing[0]


async def test_one_answer_that_postgres_refuses_costs_no_other(vault: Vault, sql: Sql) -> None:
    """Where one answer's content makes its group fail, those beside it and behind it are stored."""
    mine = await claimed(vault, sql, "c", MAX_GROUP + 2)
    refused = replace(ANSWERS[0], scopes=("a\0b",))
    pairs = [ANSWERS[0], refused, *[ANSWERS[0]] * MAX_GROUP]
    group = GroupCommit(vault)
    storing = [
        group.store(ObtainedPair(claim, pair, NOW, NOW + HOUR))
        for claim, pair in zip(mine, pairs, strict=True)
    ]
    async with asyncio.timeout(WAIT_SECONDS):
        stored = await asyncio.gather(*storing, return_exceptions=True)
    assert isinstance(stored.pop(1), Exception)
    assert stored == [True] * (MAX_GROUP + 1)


async def test_who_is_cancelled_takes_no_other_answer_along(vault: Vault, sql: Sql) -> None:
    """An answer whose wait is cancelled leaves its group to be committed."""
    mine = await claimed(vault, sql, "c", 2)
    group = GroupCommit(vault)
    first, second = (
        asyncio.create_task(group.store(ObtainedPair(claim, ANSWERS[0], NOW, NOW + HOUR))) for claim in mine
    )
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first


DYING = """
import asyncio, json, sys
from tests.integration.vault.test_obtained_pairs import *
from worker.vault.vault import open_vault

async def main():
    async with open_vault(Secret(sys.argv[1]), [Secret(sys.argv[2])], [Secret(sys.argv[3])]) as vault:
        mine = await claims.claim_due(
            vault, {("default", "c"): 5}, owner=OTHER, now=NOW + HOUR, until=NOW + 2 * HOUR, limit=5
        )
        group = GroupCommit(vault)
        await asyncio.gather(*(group.store(ObtainedPair(claim, ANSWERS[0], NOW, NOW + HOUR)) for claim in mine))

asyncio.run(main())
"""
HELD_BACK = """
CREATE FUNCTION hold_back() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(15); RETURN NEW; END $$;
CREATE TRIGGER hold_back BEFORE UPDATE OF access_ciphertext ON grants FOR EACH ROW EXECUTE FUNCTION hold_back()
"""


@pytest.fixture
def held_back(sql: Sql) -> Iterator[None]:
    """Hold the commit of each new token back, in the middle of its statement."""
    sql("SELECT pg_advisory_lock(15)")
    sql(HELD_BACK)
    yield
    sql("SELECT pg_advisory_unlock_all()")
    sql("DROP FUNCTION hold_back CASCADE")


@pytest.mark.usefixtures("held_back")
async def test_a_worker_killed_in_a_group_commit_leaves_no_half_of_it(
    vault: Vault, sql: Sql, database_url: Secret
) -> None:
    """After a kill -9 all answers of the statement are stored or none is, and then each grant is known to be in doubt."""
    await claimed(vault, sql, "c", 5)
    sql("UPDATE grants SET due_at = %s, claim_owner = NULL, claimed_at = NULL, claim_until = NULL", NOW)
    secrets = [secret.reveal() for secret in (database_url, ACCESS_KEY, REFRESH_KEY)]
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", DYING, *secrets)
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%%unlocked%%'"
    try:
        await until_async(lambda: bool(sql(waiting)))
        (held,) = sql(waiting)
    finally:
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
    sql("SELECT pg_advisory_unlock_all()")
    # The lock goes before the commit is there to be seen: only the end of its process says how it ended.
    await until_async(lambda: not sql("SELECT FROM pg_stat_activity WHERE pid = %s", held["pid"]))
    fates = {(row["obtained_from"], row["claim_owner"]) for row in rows_of(sql, "c")}
    assert fates in ({("renewal", None)}, {("auth0", OTHER)})
    sql("UPDATE grants SET due_at = %s", NOW)
    again = await claims.claim_due(
        vault, {("default", "c"): 5}, owner=MINE, now=NOW + 3 * HOUR, until=NOW + 4 * HOUR, limit=5
    )
    in_doubt = {claim.in_doubt_since for claim in again}
    assert in_doubt == ({None} if ("renewal", None) in fates else {NOW + HOUR})
