"""A claim's own arithmetic."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from token_vault.grant_key import GrantKey
from worker.vault import schedule
from worker.vault.claims import Claim
from worker.vault.claims.claim import unchanged_due_at

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIELDS: dict[str, Any] = {
    "id": 1, "key": GrantKey("default", "c", "c|1", "1"), "owner": uuid4(), "claimed_at": NOW, "until": NOW, "state": "active",
    "access_ciphertext": None, "access_version": 3, "refresh_ciphertext": None, "refresh_version": 4, "expires_at": NOW + HOUR,
    "in_doubt_since": None, "attempts": 0, "obtained_at": NOW - HOUR,
}  # fmt: skip
CLAIM = Claim(**FIELDS)


@pytest.mark.parametrize(
    ("claim", "life"),
    [(CLAIM, 2 * HOUR), (replace(CLAIM, expires_at=None), None), (replace(CLAIM, obtained_at=None), None)],
)
def test_a_life_is_known_from_both_its_ends(claim: Claim, life: timedelta | None) -> None:
    """How long a token lives is known only where its begin and its end are."""
    assert claim.life == life


def test_a_grants_own_time_is_put_back_after_another_targets_call() -> None:
    """The grant's own token is due as it was before the call, and at once where nobody knows when it was obtained."""
    expected = schedule.after_renewal(CLAIM.expires_at, NOW - HOUR, 0.5, schedule.EAGER)
    assert unchanged_due_at(CLAIM, NOW, 0.5, schedule.EAGER) == expected
    assert unchanged_due_at(replace(CLAIM, obtained_at=None), NOW, 0.5, schedule.EAGER) == NOW


def test_a_claim_is_for_the_grants_own_token_unless_it_says_otherwise() -> None:
    """Without a word of the operator or another target a claim is an ordinary one."""
    claim = Claim(**FIELDS)
    assert (claim.is_ordered, claim.target.is_default, claim.target_version) == (False, True, 0)
