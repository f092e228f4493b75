"""What an import does with a grant that the vault has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.vault.db.tables import GRANT_STATES
from worker.vault.transfers.imported import ImportVerdict, judge

NOW = datetime(2026, 11, 28, tzinfo=UTC)
TIMES = st.none() | st.sampled_from([NOW - timedelta(days=1), NOW, NOW + timedelta(minutes=1)])
FINGERPRINTS = st.sampled_from([None, b"this", b"other"])
ROWS = st.fixed_dictionaries(
    {
        "state": st.sampled_from(GRANT_STATES), "reason": st.sampled_from([None, "invalid_grant", "revoked"]),
        "has_refresh": st.booleans(), "user_id": st.just("u"), "attempts": st.integers(0, 2), "obtained_from": st.sampled_from(["auth0", "import", "renewal"]), "claim_until": TIMES, "last_renewed_at": TIMES, "imported_at": TIMES,
        "observed_refresh": FINGERPRINTS, "imported_refresh": FINGERPRINTS,
    }
)  # fmt: skip


@given(row=ROWS, has_tombstone=st.booleans())
def test_nothing_is_replaced_that_lives_or_must_stay_away(row: dict[str, Any], has_tombstone: bool) -> None:
    """A living, an erased and a revoked grant stay as they are, whatever another store has."""
    verdict = judge(row, imported=b"this", has_tombstone=has_tombstone, is_elsewhere=False, now=NOW)
    if row["state"] in ("active", "in_doubt", "erased") or row["reason"] == "revoked":
        assert not verdict.is_stored
    if row["claim_until"] is not None and row["claim_until"] > NOW:
        assert not verdict.is_stored
    if row["imported_refresh"] == b"this" and row["has_refresh"]:
        assert not verdict.is_stored  # an import that is repeated stores nothing again


@given(row=ROWS)
def test_an_administrators_copy_is_replaced_until_it_was_sent(row: dict[str, Any]) -> None:
    """What Auth0 shows of an administrator gives way to another store's token, and what was renewed does not."""
    row |= {"user_id": "", "state": "active", "observed_refresh": b"auth0's", "imported_refresh": None}
    is_untried = row["last_renewed_at"] is None and row["attempts"] == 0 and row["claim_until"] is None
    verdict = judge(row, imported=b"this", has_tombstone=False, is_elsewhere=False, now=NOW)
    assert verdict.is_stored == (is_untried and row["obtained_from"] == "auth0")


def test_what_is_not_there_is_new_unless_it_was_erased() -> None:
    """A tombstone keeps an erased grant erased."""
    assert (
        judge(None, imported=b"this", has_tombstone=False, is_elsewhere=False, now=NOW) is ImportVerdict.NEW
    )
    erased = judge(None, imported=b"this", has_tombstone=True, is_elsewhere=False, now=NOW)
    assert erased is ImportVerdict.ERASED


@given(row=st.none() | ROWS, has_tombstone=st.booleans())
def test_what_another_user_has_is_never_stored(row: dict[str, Any] | None, has_tombstone: bool) -> None:
    """A second grant of one identity would end the first one."""
    verdict = judge(row, imported=b"this", has_tombstone=has_tombstone, is_elsewhere=True, now=NOW)
    assert verdict is ImportVerdict.ELSEWHERE
