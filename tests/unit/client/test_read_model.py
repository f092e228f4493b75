"""What a row says by itself: whether its token may be served, and whether a refresh can come."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.client.test_read_flow import HOUR, NOW, RESOURCE, served
from token_vault.encryption_context import EncryptionContext
from token_vault.freshness import READ_NOTE_INTERVAL
from token_vault.read_model import GrantStatus

MOMENT = timedelta(milliseconds=500)
ENDLESS = {"expires_at": None}
OF_AUTH0 = {"expires_at": None, "obtained_from": "auth0"}


@pytest.mark.parametrize(
    ("row", "min_ttl", "is_fresh"),
    [
        ({}, None, True),
        ({"state": "erased"}, None, False),
        ({"access_ciphertext": None}, None, False),
        ({"access_ciphertext": None, "expires_at": None}, None, False),
        ({"expires_at": NOW}, 0, False),
        ({"expires_at": NOW - MOMENT}, -3600, False),
        ({"expires_at": NOW + MOMENT}, 0, True),
        ({"expires_at": NOW + HOUR}, 3600, False),
        ({"expires_at": NOW + HOUR + MOMENT}, 3600, True),
        ({"state": "reauthorization_required"}, None, True),
        (ENDLESS, None, True),
        (ENDLESS, 0, True),
        (ENDLESS, 0.5, False),
        (ENDLESS | {"state": "in_doubt"}, None, True),
        (ENDLESS | {"state": "reauthorization_required"}, None, False),
        (ENDLESS | {"state": "unrenewable"}, None, True),
        (OF_AUTH0, None, False),
        (OF_AUTH0 | {"state": "reauthorization_required"}, None, False),
        (OF_AUTH0 | {"state": "unrenewable"}, None, True),
    ],
)
def test_what_is_served(row: dict[str, object], min_ttl: float | None, is_fresh: bool) -> None:
    """A token that lives long enough; one whose end is unknown only if it is new, or nothing can renew it."""
    assert served(**row).is_fresh(min_ttl) is is_fresh


def test_the_time_may_be_of_later() -> None:
    """A cached row is judged by the database's time of now, and not of when it was read."""
    assert not served().is_fresh(0, NOW + HOUR)
    assert served().is_fresh(0, NOW + HOUR - MOMENT)


def test_what_a_token_is_for_binds_its_ciphertext() -> None:
    """Neither a token of one resource nor one of another version decrypts as the other."""
    row = served()
    assert row.context == EncryptionContext.of_access_token(row.key, 3, NOW + HOUR)
    row = served(resource=RESOURCE.resource)
    assert row.context == EncryptionContext.of_resource_token(row.key, RESOURCE, 3, NOW + HOUR)


def test_a_refusal_counts_for_a_minute() -> None:
    """Then the provider is asked again."""
    assert served(refused_at=NOW - timedelta(seconds=59)).is_refused
    assert not served(refused_at=NOW - timedelta(seconds=61)).is_refused
    assert not served().is_refused


def test_a_read_is_noted_now_and_then() -> None:
    """Where a grant is renewed on read alone, and then not at each read."""
    assert served(last_read_at=NOW - READ_NOTE_INTERVAL - MOMENT).wants_note
    assert not served(last_read_at=NOW - READ_NOTE_INTERVAL + MOMENT).wants_note
    assert not served().wants_note


@pytest.mark.parametrize(
    ("blocked_for", "next_in", "attempts", "in_flight", "must_wait"),
    [
        (0.0, 0.5, 0, False, False),
        (0.0, 0.0, 1, False, False),
        (0.0, 0.5, 1, False, True),
        (0.5, 0.0, 0, False, True),
        (0.5, 0.5, 1, True, False),
    ],
)
def test_when_no_refresh_can_come(
    blocked_for: float, next_in: float, attempts: int, in_flight: bool, must_wait: bool
) -> None:
    """After a failure until the next call is due, and while the circuit is open; not while a call is under way."""
    assert GrantStatus("active", None, blocked_for, next_in, attempts, in_flight).must_wait is must_wait


@pytest.mark.parametrize(("seconds", "said"), [(0.0, 1.0), (1.5, 1.5), (59.5, 59.5), (3600.0, 60.0)])
def test_a_wait_that_is_told_is_neither_nothing_nor_endless(seconds: float, said: float) -> None:
    """A caller that is told 0 would ask in a loop."""
    status = GrantStatus("active", None, seconds, seconds, 1, False)
    assert (status.seconds_to_retry, status.seconds_blocked) == (said, max(1.0, seconds))
