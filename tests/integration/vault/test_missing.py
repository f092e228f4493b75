"""What seems gone is marked, and unmarked by what was seen later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tests.support.readers import Rows, Sql
from token_vault.grant_key import GrantKey
from worker.vault.grants import missing
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


async def test_a_page_speaks_of_its_time_range_alone(vault: Vault, rows: Rows, sql: Sql) -> None:
    """From its beginning, inclusive, to its end, exclusive: the next page begins there."""
    for number in range(4):
        await rows.add(f"oauth2|u{number}", subject=f"u{number}")
    sql("UPDATE grants SET user_created_at = %s + (id - 2) * interval '1 s'", NOON)
    page = ScannedPage([], [], NOON, (NOON, NOON + 2 * SECOND), [])
    gone, _ = await commit_page(vault, "default", page, "users", None, now=NOON)
    assert (gone, marks(sql)) == (2, [None, NOON, NOON, None])


async def test_an_identity_is_looked_for_at_its_own_connection(vault: Vault, rows: Rows, sql: Sql) -> None:
    """Two connections to one provider have the same ids."""
    await rows.add()
    await rows.add(connection="other")
    assert await missing.mark_unlinked(vault, "default", [KEY.user_id], [KEY], now=NOON) == 1
    assert marks(sql) == [None, NOON]


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
