"""What seems gone is marked, and unmarked by what was seen later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.support.readers import Rows, Sql
from token_vault.grant_key import GrantKey
from worker.vault.grants import erase, missing, queries
from worker.vault.grants.erase import ErasureResult
from worker.vault.sync_state.scanned_pages import ScannedPage, commit_page
from worker.vault.vault import Vault

NOON, SECOND = datetime(2026, 3, 15, 12, tzinfo=UTC), timedelta(seconds=1)
KEY = GrantKey("default", "custom", "oauth2|u1", "u1")


def marks(sql: Sql) -> list[datetime | None]:
    """Since when each grant seems gone."""
    return [row["missing_since"] for row in sql("SELECT missing_since FROM grants ORDER BY id")]


async def test_a_grant_that_is_newer_than_the_scan_is_not_missing(vault: Vault, rows: Rows, sql: Sql) -> None:
    """A scan that began before the grant was made could not show it."""
    for number in range(2):
        await rows.add(f"oauth2|u{number}", subject=f"u{number}")
    sql("UPDATE grants SET created_at = %s + (id - 2) * interval '1 s'", NOON)
    assert await missing.mark_undated(vault, "default", before=NOON, now=NOON) == 1
    assert marks(sql) == [NOON, None]
    # One whose user has a time is found missing by the page of that time.
    sql("UPDATE grants SET missing_since = NULL, user_created_at = %s", NOON)
    assert await missing.mark_undated(vault, "default", before=NOON, now=NOON) == 0


async def test_a_page_speaks_of_its_time_range_alone(vault: Vault, rows: Rows, sql: Sql) -> None:
    """From its beginning, inclusive, to its end, exclusive: the next page begins there."""
    for number in range(4):
        await rows.add(f"oauth2|u{number}", subject=f"u{number}")
    sql("UPDATE grants SET user_created_at = %s + (id - 2) * interval '1 s'", NOON)
    page = ScannedPage([], [], NOON, (NOON, NOON + 2 * SECOND), [])
    gone, _ = await commit_page(vault, "default", page, "users", None, now=NOON)
    assert (gone, marks(sql)) == (2, [None, NOON, NOON, None])


async def test_a_mark_keeps_its_time(vault: Vault, rows: Rows, sql: Sql) -> None:
    """A user whom each sync finds missing would else never have been missing for long enough."""
    await rows.add()
    sql("UPDATE grants SET missing_since = %s, user_created_at = %s", NOON - SECOND, NOON)
    assert await missing.mark_users(vault, "default", [KEY.user_id], now=NOON) == 0
    assert await missing.mark_unlinked(vault, "default", [KEY.user_id], [], now=NOON) == 0
    page = ScannedPage([], [], NOON, (None, NOON + SECOND), [])
    assert (await commit_page(vault, "default", page, "users", None, now=NOON))[0] == 0
    assert marks(sql) == [NOON - SECOND]


async def test_only_a_missing_user_is_withdrawn(vault: Vault, rows: Rows) -> None:
    """One who was found again meanwhile is served on."""
    grant_id = await rows.add()
    assert await missing.withdraw(vault, "default", [KEY.user_id], now=NOON) == []
    await missing.mark_users(vault, "default", [KEY.user_id], now=NOON)
    served = queries.GrantFilter(is_served=True)
    assert await queries.count_grants(vault, ["default"], served) == 1
    assert await missing.withdraw(vault, "default", [KEY.user_id], now=NOON) == [grant_id]
    assert await queries.count_grants(vault, ["default"], served) == 0


async def test_erased_users_do_not_count(vault: Vault, rows: Rows, sql: Sql) -> None:
    """Else the more were erased, the more could be erased unasked."""
    for number in range(3):
        await rows.add(f"oauth2|u{number}", subject=f"u{number}")
    await rows.add("")
    async with vault.engine.begin() as connection:
        [(grant_id, key)] = await queries.list_keys(vault, "default", "oauth2|u0")
        moved = replace(key, user_id="oauth2|before")  # as somebody read it before it moved
        for whose, result in ((moved, ErasureResult.NOTHING), (key, ErasureResult.LAST)):
            erased = await erase.erase(vault, connection, grant_id, whose, reason="deleted", now=NOON)
            assert erased is result
    await missing.mark_users(vault, "default", ["oauth2|u1"], now=NOON)
    assert await missing.count_users(vault, "default") == (1, 2)
    assert await missing.count_missing_users(vault, "default") == 1
    assert await missing.count_present_grants(vault, "default", limit=9) == 1


async def test_an_identity_is_looked_for_at_its_own_connection(vault: Vault, rows: Rows, sql: Sql) -> None:
    """Two connections to one provider have the same ids."""
    await rows.add()
    await rows.add(connection="other")
    assert await missing.mark_unlinked(vault, "default", [KEY.user_id], [KEY], now=NOON) == 1
    assert marks(sql) == [None, NOON]


async def test_an_identity_is_looked_for_under_its_own_user(vault: Vault, rows: Rows, sql: Sql) -> None:
    """What another user has now is gone from this one."""
    await rows.add()
    of_another = replace(KEY, user_id="oauth2|u2")
    read = [KEY.user_id, of_another.user_id]
    assert await missing.mark_unlinked(vault, "default", read, [of_another], now=NOON) == 1
    await missing.unmark_observed(vault, "default", [of_another], before=NOON)
    assert marks(sql) == [NOON]


async def test_only_what_was_seen_later_unmarks(vault: Vault, rows: Rows, sql: Sql) -> None:
    """Then it is served again as well; a list that is older than the mark proves nothing."""
    await rows.add()

    def mark() -> None:
        sql("UPDATE grants SET missing_since = %s, withdrawn_at = %s", NOON, NOON)

    async def page(seen: datetime) -> None:
        shown = ScannedPage([], [KEY], seen, None, [KEY.user_id])
        await commit_page(vault, "default", shown, "users", None, now=NOON)

    mark()
    for before, left in ((NOON - SECOND, [NOON]), (NOON, [None])):
        await missing.unmark_observed(vault, "default", [KEY], before=before)
        assert marks(sql) == left
    mark()
    await page(NOON - SECOND)
    assert marks(sql) == [NOON]
    await page(NOON)
    assert served(sql) == [True]
    mark()
    await missing.unmark(vault, [row["id"] for row in sql("SELECT id FROM grants")])
    assert served(sql) == [True]


def served(sql: Sql) -> Sequence[bool]:
    """Whether readers get each grant."""
    return [row["served"] for row in sql("SELECT id IN (SELECT id FROM served_tokens) AS served FROM grants")]
