"""`make scale`, small."""

from __future__ import annotations

import pytest

from tests.scale.__main__ import one, stage
from tests.scale.tenant import is_held


def test_a_day_at_the_limits_leaves_nobody_wrong() -> None:
    """A full sync, some minutes of activity and the reconciliation: each identity has the two tokens Auth0 shows."""
    with stage() as (servers, tenant, environment):
        outcome = one(servers, tenant, environment, "free", 300, minutes=1)
    assert outcome.clean, outcome


@pytest.mark.parametrize(
    ("access", "refresh", "shown_refresh", "held"),
    [("a", "r", "r", True), ("a", "old", "r", False), ("a", None, "r", False), ("old", "r", "r", False),
     ("a", "r", None, True), ("a", "earlier", None, True), ("a", None, None, True), ("a", "old", None, False)],
)  # fmt: skip
def test_both_tokens_are_compared(
    access: str, refresh: str | None, shown_refresh: str | None, held: bool
) -> None:
    """The access token that Auth0 shows, and the refresh token, or one that lives where it shows none."""
    identity = {"shown_access": "a", "shown_refresh": shown_refresh}
    assert is_held(access, refresh, identity, lambda: {"r", "earlier"}) is held
