from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_vault.freshness import default_min_ttl
from worker.vault import schedule

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

CHANCE = st.floats(0, 1)
LIVES = st.timedeltas(timedelta(seconds=1), timedelta(days=3650))


@pytest.mark.parametrize(
    ("life", "margin"),
    [
        (MINUTE, timedelta(seconds=20)),
        (30 * MINUTE, 10 * MINUTE),
        (HOUR, 10 * MINUTE),
        (2 * HOUR, 10 * MINUTE),
        (60 * DAY, 5 * DAY),
        (timedelta(0), timedelta(0)),
    ],
)
def test_the_margin_follows_the_life(life: timedelta, margin: timedelta) -> None:
    """An hour's token keeps ten minutes in reserve, a short one a third of its life, a long one a twelfth."""
    assert schedule.margin(life) == margin


@given(LIVES, CHANCE)
def test_a_token_is_due_in_the_second_half_of_its_life_and_a_margin_before_its_end(
    life: timedelta, chance: float
) -> None:
    """Whatever the chance, a renewed token is neither renewed again early nor so late that a miss would hurt."""
    due_at = schedule.after_renewal(NOW + life, NOW, chance)
    assert NOW + life / 2 - timedelta(microseconds=2) <= due_at
    assert due_at <= NOW + life - schedule.margin(life)


def test_tokens_obtained_together_are_not_due_together() -> None:
    """Chance spreads what was obtained at once over half a margin."""
    first, last = (schedule.after_renewal(NOW + HOUR, NOW, chance) for chance in (1, 0))
    assert last - first == 5 * MINUTE


@given(CHANCE)
def test_a_token_of_unknown_life_is_asked_for_again(chance: float) -> None:
    """A provider that never says how long its tokens live is asked again within the hour, not at once."""
    due_at = schedule.after_renewal(None, NOW, chance)
    assert NOW + 20 * MINUTE < due_at < NOW + HOUR


def test_a_token_that_had_ended_when_it_came_is_due_at_once_and_not_before_it_came() -> None:
    """A life below nothing counts as none."""
    assert schedule.after_renewal(NOW - HOUR, NOW, 0.5) == NOW


@given(CHANCE)
def test_a_shown_token_of_unknown_end_is_due_soon(chance: float) -> None:
    """What Auth0 shows without a known end is renewed within five minutes, spread by chance."""
    due_at = schedule.after_sync(None, None, NOW, chance)
    assert NOW <= due_at <= NOW + 5 * MINUTE
    assert schedule.after_sync(None, NOW - HOUR, NOW, chance) == due_at


def test_a_shown_token_of_known_life_is_due_as_if_renewed() -> None:
    """A token whose login is known is due by its life; where only the end is known, at once."""
    assert schedule.after_sync(NOW + HOUR, NOW, NOW, 0.5) == schedule.after_renewal(NOW + HOUR, NOW, 0.5)
    assert schedule.after_sync(NOW + HOUR, None, NOW, 0.5) == NOW


@given(st.integers(1, 10**9), CHANCE, st.none() | st.floats(-10, 3600))
def test_a_failure_is_followed_by_a_pause_that_is_bounded(
    attempts: int, chance: float, retry_after: float | None
) -> None:
    """After any number of failures the pause is five seconds at least, half an hour at most, and never under
    what the provider asked for."""
    wait = (schedule.after_failure(attempts, NOW, chance, retry_after) - NOW).total_seconds()
    asked = retry_after or 0
    assert wait >= max(5, asked - 1e-5)
    assert wait <= max(1800, asked) + 1e-5


def test_the_pause_doubles_up_to_its_bound() -> None:
    """With the least luck, each failure doubles the pause, to half an hour."""
    waits = [(schedule.after_failure(attempts, NOW, 1.0) - NOW).total_seconds() for attempts in range(1, 12)]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800]


@given(LIVES, CHANCE)
def test_a_reader_that_asks_for_nothing_gets_what_renewal_in_time_leaves(
    life: timedelta, chance: float
) -> None:
    """Up to the moment it is due, a token always has the life that readers get by default."""
    left = NOW + life - schedule.after_renewal(NOW + life, NOW, chance)
    assert default_min_ttl(NOW + life, NOW) <= left


@pytest.mark.parametrize(
    ("expires_at", "obtained_at", "min_ttl"),
    [
        (NOW + HOUR, NOW, 30),
        (NOW + MINUTE, NOW, 20),
        (NOW, NOW + HOUR, 0),
        (None, NOW, 30),
        (NOW + HOUR, None, 30),
    ],
)
def test_the_default_life(expires_at: datetime | None, obtained_at: datetime | None, min_ttl: float) -> None:
    """By default it is thirty seconds, or a third of a shorter life."""
    assert default_min_ttl(expires_at, obtained_at) == timedelta(seconds=min_ttl)


@given(st.timedeltas(timedelta(minutes=2), timedelta(days=3650)), CHANCE)
def test_a_refresh_token_is_used_between_half_and_three_quarters_of_its_idle_life(
    idle: timedelta, chance: float
) -> None:
    """Whatever the chance, it is neither used for nothing nor so late that a few days' outage would end it."""
    policy = schedule.RenewalPolicy(read_window=DAY, idle_life=idle)
    due_at = schedule.after_renewal(NOW + idle, NOW, chance, policy)
    assert NOW + max(idle / 2, MINUTE) - timedelta(microseconds=2) <= due_at
    assert due_at <= NOW + max(idle * 3 / 4, MINUTE) + timedelta(microseconds=2)


@given(CHANCE)
def test_a_fresh_grant_is_kept_alive_too(chance: float) -> None:
    """A token that lives longer than its refresh token may lie unused is renewed for the refresh token's sake."""
    policy = schedule.RenewalPolicy(idle_life=7 * DAY)
    for due_at in (
        schedule.after_renewal(NOW + 60 * DAY, NOW, chance, policy),
        schedule.after_renewal(NOW + 60 * DAY, NOW, chance, refresh_expires_at=NOW + 7 * DAY),
        schedule.after_sync(NOW + 60 * DAY, NOW, NOW, chance, policy),
    ):
        assert NOW + 3.5 * DAY - MINUTE <= due_at <= NOW + 5.25 * DAY + MINUTE


ON_READ = schedule.RenewalPolicy(read_window=DAY)


@pytest.mark.parametrize(
    ("last_read_at", "dormant"),
    [(None, True), (NOW - DAY - MINUTE, True), (NOW - DAY, False), (NOW, False), (NOW + MINUTE, False)],
)
def test_a_grant_that_was_not_read_within_the_window_is_dormant(
    last_read_at: datetime | None, dormant: bool
) -> None:
    """The window includes its end; without one no grant is dormant."""
    assert ON_READ.is_dormant(last_read_at, NOW) is dormant
    assert schedule.EAGER.is_dormant(last_read_at, NOW) is False


def test_a_dormant_grant_is_due_to_be_kept_alive() -> None:
    """Renewed or ingested, it waits for three quarters of its refresh token's idle life at the most."""
    policy = schedule.RenewalPolicy(read_window=DAY, idle_life=8 * DAY)
    assert schedule.after_renewal(NOW + HOUR, NOW, 0, policy) == NOW + 6 * DAY
    assert schedule.after_sync(NOW + HOUR, NOW - DAY, NOW, 0, policy) == NOW + 5 * DAY
    assert schedule.after_sync(None, None, NOW, 0, policy) == NOW + 6 * DAY


@pytest.mark.parametrize(
    ("policy", "ends_in", "alive_for"),
    [
        (ON_READ, None, 5.25 * DAY),  # of the seven days that are assumed
        (ON_READ, 4 * DAY, 3 * DAY),
        (schedule.RenewalPolicy(idle_life=2 * DAY), 4 * DAY, 1.5 * DAY),
        (schedule.RenewalPolicy(idle_life=8 * DAY), 4 * DAY, 3 * DAY),
        (schedule.RenewalPolicy(keep_alive=2 * DAY), 4 * DAY, 2 * DAY),
        (schedule.RenewalPolicy(keep_alive=9 * DAY), 4 * DAY, 3 * DAY),
        (ON_READ, timedelta(0), MINUTE),  # the closer its end, the sooner, to a minute
    ],
)
def test_a_refresh_token_is_kept_alive_by_the_shortest_that_is_known(
    policy: schedule.RenewalPolicy, ends_in: timedelta | None, alive_for: timedelta
) -> None:
    """What the provider says, what is known of it, and what the operator says: the shortest of them counts."""
    end = None if ends_in is None else NOW + ends_in
    assert schedule.keep_alive_due_at(NOW, 0, policy, end) == NOW + alive_for
    # Those that came together are spread over a third of that.
    assert schedule.keep_alive_due_at(NOW, 1, policy, end) == NOW + max(alive_for * 2 / 3, MINUTE)


def test_a_wanted_margin_is_a_third_of_the_life_at_the_most() -> None:
    """A declared margin counts as it is, unless tokens live too short for it."""
    assert schedule.margin(HOUR, 5 * MINUTE) == 5 * MINUTE
    assert schedule.margin(HOUR, HOUR) == 20 * MINUTE
