"""What is noted of a grant without changing its tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.readers import Rows, Sql
from token_vault.freshness import READ_NOTE_INTERVAL
from token_vault.grant_key import GrantKey
from worker.vault.grants import touch
from worker.vault.vault import Vault

NOON, SECOND, HOUR = datetime(2026, 3, 15, 12, tzinfo=UTC), timedelta(seconds=1), timedelta(hours=1)
KEY = GrantKey("default", "custom", "oauth2|u1", "u1")
CLAIMED = "claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now() + interval '1 h'"


async def test_what_was_observed_never_grows_older(vault: Vault, rows: Rows, sql: Sql) -> None:
    """An answer that is behind tells of the user's creation, and Auth0's older copy is still known as older."""
    await rows.add()
    for updated_at in (NOON, NOON - SECOND):
        await touch.touch_observed(vault, [(KEY, updated_at, updated_at)])
    [row] = sql("SELECT observed_updated_at, user_created_at FROM grants")
    assert (row["observed_updated_at"], row["user_created_at"]) == (NOON, NOON - SECOND)


@pytest.mark.parametrize(
    ("state", "due_at"),
    [
        ("state = 'active'", NOON),
        (CLAIMED, NOON + HOUR),
        ("attempts = 3", NOON + HOUR),
        ("state = 'in_doubt', in_doubt_since = now()", NOON + HOUR),
        (f"due_at = '{NOON - HOUR}'", NOON - HOUR),
    ],
)
async def test_a_read_makes_a_dormant_grant_due(
    vault: Vault, rows: Rows, sql: Sql, state: str, due_at: datetime
) -> None:
    """Never later than it was, and neither one under renewal nor one that waits after a failure."""
    grant_id = await rows.add()
    sql("UPDATE grants SET due_at = %s", NOON + HOUR)
    sql(f"UPDATE grants SET {state}")
    await touch.record_read(vault, grant_id, now=NOON, due_at=NOON)
    assert sql("SELECT last_read_at, due_at FROM grants") == [{"last_read_at": NOON, "due_at": due_at}]


async def test_a_read_is_noted_once_in_a_while(vault: Vault, rows: Rows, sql: Sql) -> None:
    """A grant that is read each second is not written each second."""
    grant_id = await rows.add()
    for now in (NOON, NOON + READ_NOTE_INTERVAL, NOON + READ_NOTE_INTERVAL + SECOND):
        await touch.record_read(vault, grant_id, now=now, due_at=NOON)
        expected = NOON if now <= NOON + READ_NOTE_INTERVAL else now
        assert sql("SELECT last_read_at FROM grants") == [{"last_read_at": expected}]
