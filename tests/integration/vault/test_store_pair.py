"""What one answer does to its grant, by what became of the grant meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.vault.test_obtained_pairs import HOUR, MINE, NOW, OTHER, claimed, rows_of
from tests.support.renewals import Sql
from tests.support.wait import until_async
from tests.support.wakeups import listening
from token_vault.secret import Secret
from token_vault.token_target import TokenTarget
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import outcome
from worker.vault.vault import Vault

WHOLE = TokenPair(Secret("renewed"), Secret("rotated"), NOW + 3 * HOUR)
WITHOUT_ACCESS = TokenPair(None, Secret("rotated"))
CLAIM_ENDED = "claim_owner = NULL, claimed_at = NULL, claim_until = NULL"
LOST = "state = 'reauthorization_required', reason = 'lost_in_rotation', reason_since = obtained_at, due_at = NULL"
REUSED = {"state": "in_doubt", "reason": "reused", "due_at": NOW}

# The grant is due now; an answer asks for two hours.
FATES: list[tuple[str, TokenPair, dict[str, Any]]] = [
    ("claim_owner = claim_owner", WHOLE, {"state": "active", "reason": None, "due_at": NOW + 2 * HOUR}),
    # A login brought a newer access token, which is not put off beyond its own time.
    ("access_version = access_version + 1", WHOLE, {"state": "active", "due_at": NOW}),
    # Somebody else may have presented the spent token.
    (f"claim_owner = '{OTHER}', claimed_at = claim_until", WHOLE, REUSED | {"in_doubt_since": NOW + HOUR}),
    (f"{CLAIM_ENDED}, in_doubt_since = claimed_at", WHOLE, REUSED),
    (f"{CLAIM_ENDED}, {LOST}", WHOLE, REUSED | {"in_doubt_since": NOW - HOUR}),
    (CLAIM_ENDED, WHOLE, {"state": "active", "reason": None, "due_at": NOW + 2 * HOUR}),
    ("attempts = 2", WITHOUT_ACCESS, {"attempts": 3, "last_error": "no_access_token"}),
    ("attempts = 2, last_error = 'x'", WHOLE, {"attempts": 0, "last_error": None}),
]


async def store(vault: Vault, claim: claims.Claim, pair: TokenPair = WHOLE) -> bool:
    return await claims.store_pair(vault, claim, pair, obtained_at=NOW, due_at=NOW + 2 * HOUR)


async def test_an_answer_counts_by_what_became_of_its_grant(vault: Vault, sql: Sql) -> None:
    """It is due when it says, its failures are counted, and it is in doubt where its token may have come twice."""
    for n, (claim, (fate, pair, _)) in enumerate(
        zip(await claimed(vault, sql, "c", len(FATES)), FATES, strict=True)
    ):
        sql(f"UPDATE grants SET {fate} WHERE provider_user_id = %s", str(n))
        assert await store(vault, claim, pair)
    for row, (fate, _, expected) in zip(rows_of(sql, "c"), FATES, strict=True):
        assert {name: row[name] for name in expected} == expected, fate


@pytest.mark.parametrize("end", ["stored", "stored together", "released"])
async def test_an_end_tells_of_a_failing_grant_where_it_says_so(vault: Vault, sql: Sql, end: str) -> None:
    """It does not by itself: the event would follow each renewal."""
    for is_failing, claim in enumerate(await claimed(vault, sql, "c", 2)):
        named: dict[str, Any] = {"is_failing": True} if is_failing else {}
        if end == "released":
            assert await claims.release(vault, claim, due_at=NOW + HOUR, **named)
        elif end == "stored together" and not is_failing:
            obtained = claims.ObtainedPair(claim, WHOLE, NOW, NOW + HOUR)
            assert not obtained.is_failing
            assert await claims.store_pairs(vault, [obtained]) == {0}
        else:
            await claims.store_pair(vault, claim, WITHOUT_ACCESS, obtained_at=NOW, due_at=NOW + HOUR, **named)
    quiet, failing = rows_of(sql, "c")
    assert (quiet["expiry_reported_version"], failing["expiry_reported_version"]) == (None, 1)


async def test_a_failure_without_an_access_token_is_dated(vault: Vault, sql: Sql) -> None:
    """From its first answer of that kind on; an answer that is whole dates none."""
    cases: list[tuple[str, TokenPair, datetime | None]] = [
        ("attempts = 0, failing_since = NULL", WITHOUT_ACCESS, NOW),
        ("attempts = 0, failing_since = obtained_at - interval '9 d'", WITHOUT_ACCESS, NOW),
        ("attempts = 2, failing_since = obtained_at", WITHOUT_ACCESS, NOW - HOUR),
        ("attempts = 2, failing_since = NULL", WITHOUT_ACCESS, NOW),
        ("attempts = 2, failing_since = NULL", WHOLE, None),
        ("attempts = 2, failing_since = obtained_at", WHOLE, NOW - HOUR),
    ]
    for n, (claim, (state, pair, _)) in enumerate(
        zip(await claimed(vault, sql, "c", len(cases)), cases, strict=True)
    ):
        sql(f"UPDATE grants SET {state} WHERE provider_user_id = %s", str(n))
        sql("UPDATE grants SET obtained_at = %s", NOW - HOUR)
        sql("UPDATE grants SET failing_since = %s WHERE failing_since = obtained_at", NOW - HOUR)
        assert await store(vault, claim, pair)
    assert [row["failing_since"] for row in rows_of(sql, "c")] == [since for _, _, since in cases]


async def test_a_call_that_is_over_ends_its_claim(vault: Vault, sql: Sql) -> None:
    """Its grant is due then, and whoever comes finds it in doubt; another owner's claim stays."""
    mine, lost = await claimed(vault, sql, "c", 2)
    taken_over = "claim_owner = %s, claimed_at = claim_until, claim_until = claim_until + interval '1 hour'"
    sql(f"UPDATE grants SET {taken_over} WHERE id = %s", OTHER, lost.id)
    for claim in (mine, lost):
        await claims.end_early(vault, claim, now=NOW + timedelta(minutes=1))
    ended, others = rows_of(sql, "c")
    assert (ended["claim_owner"], ended["claim_until"], ended["due_at"]) == (
        MINE, NOW + timedelta(minutes=1), NOW + timedelta(minutes=1),
    )  # fmt: skip
    assert (others["claim_until"], others["due_at"]) == (NOW + 2 * HOUR, NOW)


async def test_the_token_that_was_asked_for_longest_ago_makes_room(
    vault: Vault, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grant keeps the tokens for other targets that were asked for last, refused or not; its own evicts none."""
    monkeypatch.setattr(outcome, "MAX_RESOURCE_TOKENS", 2)
    await claimed(vault, sql, "c", 1)

    async def ask(resource: str | None, hours: int) -> set[str]:
        sql(f"UPDATE grants SET {CLAIM_ENDED}, due_at = %s", NOW)
        [claim] = await claims.claim_due(
            vault, {("default", "c"): 1}, owner=MINE, now=NOW, until=NOW + HOUR, limit=1
        )
        claim = replace(claim, target=TokenTarget(resource)) if resource else claim
        at = NOW + hours * HOUR
        await claims.store_pair(vault, claim, WHOLE, obtained_at=at, due_at=at + HOUR)
        return {row["resource"] for row in sql("SELECT resource FROM resource_tokens")}

    first, second, third = (f"https://{n}.example" for n in range(3))
    await ask(first, 1)
    assert await ask(second, 2) == {first, second}
    sql(
        "UPDATE resource_tokens SET refusal = 'x', refusal_blame = 'user', refused_at = %s WHERE resource = %s",
        NOW + 3 * HOUR, first,
    )  # fmt: skip
    assert await ask(third, 4) == {first, third}
    monkeypatch.setattr(outcome, "MAX_RESOURCE_TOKENS", 1)
    assert await ask(None, 5) == {first, third}


@pytest.mark.parametrize("end", ["stored", "released", "unspent"])
async def test_an_end_is_decided_on_the_row_as_it_is_then(
    vault: Vault, sql: Sql, database_url: Secret, end: str
) -> None:
    """A claim that ends while a waiter is just being noted waits for that, and tells the waiter."""
    [claim] = await claimed(vault, sql, "c", 1)
    ends: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "stored": lambda: store(vault, claim),
        "released": lambda: claims.release(vault, claim, due_at=NOW + HOUR),
        "unspent": lambda: claims.release_unspent(vault, [claim], due_at=NOW + timedelta(minutes=1)),
    }
    async with listening(database_url) as heard:
        async with await psycopg.AsyncConnection.connect(database_url.reveal()) as noting:
            await noting.execute("UPDATE grants SET awaited = true")
            ending = asyncio.create_task(ends[end]())
            await until_async(
                lambda: bool(
                    sql(
                        "SELECT pid FROM pg_stat_activity"
                        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    )
                )
            )
            await noting.commit()
        await ending
    assert heard() == [str(claim.id)]
