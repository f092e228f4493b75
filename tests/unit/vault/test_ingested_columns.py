"""What Auth0 shows, as columns: what is replaced, what stays, and when the grant is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault import schedule
from worker.vault.ingest.columns import (
    EMPTY,
    IncomingGrant,
    as_stored,
    ingested_columns,
    observed_columns,
    row_key,
)
from worker.vault.ingest.freshness import Freshness, Incoming, Stored
from worker.vault.ingest.ingest import IngestStats
from worker.vault.ingest.writes import insert_parameters
from worker.vault.vault import Vault

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = GrantKey("default", "c", "c|1", "1")
ACCESS, REFRESH = KeyRing("access", [ACCESS_KEY]), KeyRing("refresh", [REFRESH_KEY])
VAULT = Vault(engine=None, access=ACCESS, refresh=REFRESH, fingerprints=None)  # type: ignore[arg-type]  # nothing is asked of Postgres
PAIR = TokenPair(
    Secret("access"), Secret("refresh"), NOW + HOUR, NOW + 2 * HOUR, ("read",), NOW + 3 * HOUR, {"site": "x"}
)
GRANT = IncomingGrant(KEY, "oauth2", PAIR, NOW, NOW - HOUR, NOW - 9 * HOUR)
INCOMING = Incoming(b"a", b"r", NOW, NOW - HOUR)
BOTH, ACCESS_ONLY, REFRESH_ONLY = (
    Freshness(access=True, refresh=True),
    Freshness(access=True),
    Freshness(refresh=True),
)
# A dead grant with a claim on it.
ROW = {
    **EMPTY, "state": "reauthorization_required", "reason": "x", "reason_since": NOW, "access_version": 4,
    "refresh_version": 6, "expires_at": NOW, "refresh_expires_at": NOW, "consent_expires_at": NOW, "scopes": ["old"],
    "obtained_at": NOW, "obtained_from": "renewal", "due_at": NOW - HOUR, "claim_owner": uuid4(), "claimed_at": NOW,
    "claim_until": NOW, "awaited": True, "in_doubt_since": NOW, "attempts": 3, "last_error": "x", "has_access": True,
    "access_ciphertext": b"old", "refresh_ciphertext": b"old", "extra_ciphertext": b"old",
    "observed_access": b"1", "observed_refresh": b"2", "observed_updated_at": NOW - HOUR, "user_created_at": NOW - HOUR,
}  # fmt: skip
OBSERVED = {
    "observed_access": b"a", "observed_refresh": b"r", "observed_updated_at": NOW, "user_created_at": NOW - 9 * HOUR,
}  # fmt: skip


def ingested(freshness: Freshness, grant: IncomingGrant = GRANT, **row: Any) -> dict[str, Any]:
    return ingested_columns(VAULT, grant, INCOMING, freshness, ROW | row, NOW)


def changes(columns: dict[str, Any]) -> dict[str, Any]:
    """What differs from the row, ciphertexts apart."""
    return {
        name: value
        for name, value in columns.items()
        if value != ROW[name] and not name.endswith("_ciphertext")
    }


def test_an_access_token_alone_leaves_the_rest_of_a_dead_grant() -> None:
    """Its end, scopes and values come with it; the grant is as dead as before, and its claim stands."""
    columns = ingested(ACCESS_ONLY)
    assert changes(columns) == OBSERVED | {
        "access_version": 5, "expires_at": NOW + HOUR, "obtained_at": NOW - HOUR, "obtained_from": "auth0",
        "scopes": ["read"],
    }  # fmt: skip
    context = EncryptionContext.of_access_token(KEY, 5, NOW + HOUR)
    assert ACCESS.decrypt(context, columns["access_ciphertext"]) == Secret("access")
    assert ACCESS.decrypt(EncryptionContext.of_extra(KEY), columns["extra_ciphertext"]) == Secret(
        '{"site": "x"}'
    )
    assert columns["refresh_ciphertext"] == b"old"


def test_a_refresh_token_revives_a_dead_grant() -> None:
    """A login ends every trouble, and voids the claim on the token that it replaces."""
    columns = ingested(REFRESH_ONLY)
    due_at = columns.pop("due_at")
    assert NOW - HOUR < due_at <= NOW + HOUR
    assert changes(columns) == OBSERVED | {
        "refresh_version": 7, "refresh_expires_at": NOW + 2 * HOUR, "consent_expires_at": NOW + 3 * HOUR,
        "consented_at": NOW - HOUR, "consent_is_counted": False, "state": "active", "reason": None, "reason_since": None, "in_doubt_since": None, "attempts": 0,
        "last_error": None, "claim_owner": None, "claimed_at": None, "claim_until": None, "awaited": False,
    }  # fmt: skip
    context = EncryptionContext.of_grant(KEY, "refresh", 7)
    assert REFRESH.decrypt(context, columns["refresh_ciphertext"]) == Secret("refresh")
    assert (columns["access_ciphertext"], columns["extra_ciphertext"]) == (b"old", b"old")


def test_a_consent_is_as_old_as_its_login_at_the_latest() -> None:
    """Of all times that bound it the earliest counts, and its end is counted where nobody names it."""
    silent = replace(GRANT, pair=replace(PAIR, consent_expires_at=None))
    for issued_at, updated_at in ((NOW - HOUR, NOW), (None, NOW - HOUR), (NOW, NOW - HOUR)):
        columns = ingested(BOTH, replace(silent, issued_at=issued_at, updated_at=updated_at))
        assert (columns["consented_at"], columns["consent_is_counted"]) == (NOW - HOUR, True)
    late = replace(silent, issued_at=NOW + HOUR, updated_at=None)
    assert ingested(BOTH, late)["consented_at"] == NOW
    assert ingested(ACCESS_ONLY, silent)["consented_at"] is None


def test_what_is_not_told_beside_a_token_stays() -> None:
    """Scopes and values that Auth0 does not show are those that were known; a token that is not shown is none."""
    silent = replace(GRANT, pair=TokenPair(Secret("access"), None, None))
    columns = ingested(BOTH, silent)
    assert (columns["scopes"], columns["extra_ciphertext"], columns["refresh_ciphertext"]) == (
        ["old"],
        b"old",
        b"old",
    )
    assert (columns["access_version"], columns["refresh_version"]) == (5, 6)
    columns = ingested(BOTH, replace(GRANT, pair=TokenPair(None, Secret("refresh"), None, scopes=("new",))))
    assert (columns["scopes"], columns["access_ciphertext"]) == (["old"], b"old")
    assert (columns["access_version"], columns["refresh_version"]) == (4, 7)


@pytest.mark.parametrize(("exchangeable", "state"), [(True, "active"), (False, "reauthorization_required")])
def test_an_access_token_that_is_exchanged_revives_its_grant(exchangeable: bool, state: str) -> None:
    """Where the provider renews with the access token itself, a new one is a new login."""
    assert ingested(ACCESS_ONLY, replace(GRANT, exchangeable=exchangeable))["state"] == state
    assert ingested(Freshness(), replace(GRANT, exchangeable=True))["state"] == "reauthorization_required"


def test_a_login_brings_an_erased_grant_back() -> None:
    """Without a refresh token nothing renews it; with one it is as any other."""
    back = ingested(ACCESS_ONLY, state="erased")
    assert (back["state"], back["reason"], back["reason_since"]) == ("unrenewable", "no_refresh_token", None)
    assert ingested(BOTH, state="erased")["state"] == "active"


@pytest.mark.parametrize(
    ("row", "freshness", "policy", "when"),
    [
        ({"has_access": False}, REFRESH_ONLY, schedule.EAGER, "now"),
        ({"has_access": False}, BOTH, schedule.EAGER, "later"),
        ({"has_access": True}, REFRESH_ONLY, schedule.EAGER, "later"),
        ({}, REFRESH_ONLY, replace(schedule.EAGER, read_window=HOUR), "kept alive"),
        ({"has_access": False}, REFRESH_ONLY, replace(schedule.EAGER, read_window=HOUR), "kept alive"),
        ({"state": "active"}, ACCESS_ONLY, schedule.EAGER, "claimed"),
        ({"state": "active", "claim_owner": None}, ACCESS_ONLY, schedule.EAGER, "later"),
        ({"state": "in_doubt", "claim_owner": None}, ACCESS_ONLY, schedule.EAGER, "later"),
        ({"state": "unrenewable", "claim_owner": None}, ACCESS_ONLY, schedule.EAGER, "claimed"),
    ],
)
def test_when_a_grant_is_due(
    row: dict[str, Any], freshness: Freshness, policy: schedule.RenewalPolicy, when: str
) -> None:
    """At once without an access token, else before its end; a claimed grant, or one that nothing renews, as it was."""
    due_at = ingested(
        freshness, replace(GRANT, policy=policy), expires_at=NOW + HOUR, obtained_at=NOW, **row
    )["due_at"]
    match when:
        case "now":
            assert due_at == NOW
        case "later":
            assert NOW < due_at < NOW + HOUR
        case "kept alive":
            assert due_at > NOW + HOUR
        case "claimed":
            assert due_at == NOW - HOUR


def test_what_is_not_shown_now_was_observed_before() -> None:
    """The same token shown again later is not new."""
    nothing = replace(GRANT, user_created_at=None)
    kept = observed_columns(nothing, Incoming(None, None, None, None), ROW)
    assert kept == {name: ROW[name] for name in OBSERVED}
    assert observed_columns(GRANT, INCOMING, ROW) == OBSERVED


def test_a_row_is_compared_by_what_it_holds() -> None:
    """What the vault can renew, and whether Auth0 showed it."""
    assert as_stored(ROW | {"state": "active"}) == Stored(
        b"1", b"2", NOW - HOUR, True, NOW, NOW, renewable=True, from_auth0=False, imported_at=None
    )
    assert as_stored(ROW | {"state": "in_doubt"}).renewable
    assert not as_stored(ROW).renewable
    assert as_stored(ROW | {"obtained_from": "auth0"}).from_auth0
    assert as_stored(ROW | {"imported_at": NOW}).imported_at == NOW


def test_a_row_that_is_not_there_is_empty() -> None:
    """An unknown grant begins without tokens, failures or waiters."""
    counts = ("access_version", "refresh_version", "attempts", "awaited", "has_access")
    assert [EMPTY[name] for name in counts] == [0, 0, 0, False, False]
    names = {"tenant": "default", "connection": "c", "user_id": "c|1", "provider_user_id": "1"}
    assert row_key({**EMPTY, **names}) == KEY
    assert not GRANT.exchangeable


def test_new_rows_go_column_by_column() -> None:
    """Ciphertexts are text, fingerprints hexadecimal digits, times ISO 8601; what is null stays null."""
    names = {
        "tenant": "default",
        "connection": "c",
        "user_id": "c|1",
        "provider_user_id": "1",
        "strategy": "oauth2",
    }
    row = {**EMPTY, **names, "access_ciphertext": b"gA==", "observed_access": b"\x01\xff", "due_at": NOW}
    columns = insert_parameters([row, row | {"due_at": None, "scopes": ["a", 'b "c"']}])
    assert (columns["access_ciphertext"], columns["observed_access"], columns["due_at"]) == (
        '{"gA==","gA=="}',
        '{"\\\\x01ff","\\\\x01ff"}',
        f'{{"{NOW.isoformat().replace("+00:00", "Z")}",null}}',
    )
    assert {name: columns[name] for name in names} == {
        name: f'{{"{value}","{value}"}}' for name, value in names.items()
    }
    assert (columns["access_version"], columns["state"]) == ('{"0","0"}', '{"unrenewable","unrenewable"}')
    absent = ("refresh_ciphertext", "extra_ciphertext", "observed_refresh", "expires_at")
    assert {columns[name].upper() for name in absent} == {"{NULL,NULL}"}
    assert columns["scopes"] == r"""{NULL,"{\"a\",\"b \\\"c\\\"\"}"}"""


def test_counts_of_ingests_add_up() -> None:
    """Each count is added to its own; they begin at nothing."""
    stats = IngestStats()
    stats.add(IngestStats(1, 2, 3, 4))
    stats.add(IngestStats(10, 20, 30, 40))
    assert stats == IngestStats(new=11, changed=22, unchanged=33, stale=44)
