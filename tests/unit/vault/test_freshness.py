from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.histories import HISTORIES, LIFE, Age, Auth0Copy, Copy, Event, age, name
from worker.vault.ingest.freshness import Freshness, Incoming, Stored, compare_freshness

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HELD = Stored(
    observed_access=b"access",
    observed_refresh=b"refresh",
    observed_updated_at=NOW - timedelta(hours=1),
    has_access=True,
    expires_at=NOW + timedelta(minutes=30),
    obtained_at=NOW - timedelta(minutes=30),
    renewable=True,
    from_auth0=False,
)
NEVER_SHOWN = Stored(
    None, None, None, has_access=False, expires_at=None, obtained_at=None, renewable=False, from_auth0=False
)
SHOWN = Incoming(access=b"access", refresh=b"refresh", updated_at=NOW, issued_at=NOW)
NOTHING = Freshness()
BOTH = Freshness(access=True, refresh=True)
ACCESS = Freshness(access=True)


@dataclass
class Model:
    """A vault without a database: it does what `judge` says, and renews."""

    linked: bool
    access: str | None = None
    refresh: str | None = None
    expires_at: datetime | None = None
    obtained_at: datetime | None = None
    alive: bool = False
    held: Stored | None = None
    renewals: int = 0

    def look(self, copy: Copy, now: datetime) -> Freshness:
        issued_at = None if self.linked else copy.last_login
        shown = Incoming(
            access=copy.access.encode(),
            refresh=None if copy.refresh is None else copy.refresh.encode(),
            updated_at=copy.updated_at,
            issued_at=issued_at,
        )
        verdict = compare_freshness(self._held(), shown, now)
        if verdict.stale:
            return verdict
        self.held = replace(
            self.held or NEVER_SHOWN,
            observed_access=shown.access,
            observed_refresh=shown.refresh or (self.held.observed_refresh if self.held else None),
            observed_updated_at=shown.updated_at,
        )
        if verdict.access:
            self.access, self.obtained_at = copy.access, issued_at
            self.expires_at = issued_at and issued_at + LIFE
        if verdict.refresh:
            self.refresh, self.alive = copy.refresh, True
        return verdict

    def renew(self, now: datetime, *, rotate: bool) -> None:
        if self.refresh is None or not self.alive:
            return
        self.renewals += 1
        born = Age(age(self.refresh).login, self.renewals)
        self.access, self.obtained_at, self.expires_at = name("access", born), now, now + LIFE
        if rotate:
            self.refresh = name("refresh", born)

    def _held(self) -> Stored | None:
        return self.held and replace(
            self.held,
            has_access=self.access is not None,
            expires_at=self.expires_at,
            obtained_at=self.obtained_at,
            renewable=self.alive,
        )


def live_through(history: list[Event], linked: bool) -> list[tuple[Model, Model, Copy | None, Freshness]]:
    """Play a history; for each event the vault before and after it, and what it was shown."""
    auth0, vault, played = Auth0Copy(), Model(linked), []
    for event in history:
        before, copy, verdict = replace(vault), None, NOTHING
        auth0.happen(event)
        match event.what:
            case "renew" | "extend":
                vault.renew(auth0.now, rotate=event.what == "renew")
            case "die":
                vault.alive = False
            case "see":
                copy = auth0.shown(event.lag)
                verdict = vault.look(copy, auth0.now)
        played.append((before, replace(vault), copy, verdict))
    return played


@given(HISTORIES, st.booleans())
def test_a_refresh_token_never_gets_older_and_never_gets_lost(history: list[Event], linked: bool) -> None:
    """Through any history, no refresh token is replaced by an older one or by none."""
    for before, after, _, _ in live_through(history, linked):
        if before.refresh is not None:
            assert after.refresh is not None
            assert age(after.refresh) >= age(before.refresh)


@given(HISTORIES, st.booleans())
def test_an_access_token_is_never_replaced_by_one_shown_before(history: list[Event], linked: bool) -> None:
    """Through any history, no access token comes back that Auth0 has shown before, and none gets lost."""
    shown: set[str] = set()
    for before, after, copy, verdict in live_through(history, linked):
        if before.access is not None:
            assert after.access is not None
        if copy is not None:
            assert not (verdict.access and copy.access in shown)
            if not verdict.stale:
                shown.add(copy.access)


@given(HISTORIES, st.booleans())
def test_an_answer_older_than_one_seen_counts_for_nothing(history: list[Event], linked: bool) -> None:
    """Whatever a stale answer holds, the vault is as it was."""
    newest: datetime | None = None
    for before, after, copy, verdict in live_through(history, linked):
        if copy is None:
            continue
        if newest is not None and copy.updated_at < newest:
            assert verdict == Freshness(stale=True)
            assert after == before
        else:
            assert not verdict.stale
            newest = copy.updated_at


@given(HISTORIES, st.booleans())
def test_what_is_shown_again_is_no_news(history: list[Event], linked: bool) -> None:
    """The same answer a second time changes nothing, whatever was renewed in between."""
    auth0, vault = Auth0Copy(), Model(linked)
    for event in history:
        auth0.happen(event)
        if event.what == "see" and not vault.look(auth0.shown(event.lag), auth0.now).stale:
            vault.renew(auth0.now + SECOND, rotate=True)
            assert vault.look(auth0.shown(event.lag), auth0.now + 2 * SECOND) == NOTHING


@given(HISTORIES, st.booleans())
def test_a_login_that_brought_a_refresh_token_is_always_taken(history: list[Event], linked: bool) -> None:
    """Once the present copy was shown, the vault holds its refresh token or one that descends from it."""
    auth0, vault = Auth0Copy(), Model(linked)
    for event in history:
        auth0.happen(event)
        if event.what == "see":
            vault.look(auth0.shown(event.lag), auth0.now)
        vault.renew(auth0.now, rotate=event.what == "renew")
        now_shown = auth0.shown(0)
        vault.look(now_shown, auth0.now)
        if now_shown.refresh is not None:
            assert vault.refresh is not None
            assert age(vault.refresh).login == age(now_shown.refresh).login


FINGERPRINTS = st.sampled_from((None, b"1", b"2"))
MOMENTS = st.none() | st.datetimes(timezones=st.just(UTC))


@given(
    st.none()
    | st.builds(
        Stored, FINGERPRINTS, FINGERPRINTS, MOMENTS, st.booleans(), MOMENTS, MOMENTS, renewable=st.booleans()
    ),
    st.builds(Incoming, FINGERPRINTS, FINGERPRINTS, MOMENTS, MOMENTS),
)
def test_nothing_is_ever_taken_that_is_not_shown(held: Stored | None, shown: Incoming) -> None:
    """An absent token is never taken, a token shown last time neither, and a stale answer not at all."""
    verdict = compare_freshness(held, shown, NOW)
    assert not (verdict.access and shown.access is None)
    assert not (verdict.refresh and shown.refresh is None)
    assert not (verdict.stale and (verdict.access or verdict.refresh))
    if held is not None:
        assert not (verdict.refresh and shown.refresh == held.observed_refresh)
        assert not (verdict.access and shown.access == held.observed_access)


@pytest.mark.parametrize(
    ("held", "shown", "verdict"),
    [
        pytest.param(None, SHOWN, BOTH, id="first sight"),
        pytest.param(None, replace(SHOWN, refresh=None), ACCESS, id="first sight, no refresh token"),
        pytest.param(
            None, replace(SHOWN, access=None), Freshness(refresh=True), id="first sight, no access token"
        ),
        pytest.param(HELD, SHOWN, NOTHING, id="the profile changed, the tokens did not"),
        pytest.param(HELD, replace(SHOWN, access=None, refresh=None), NOTHING, id="both absent"),
        pytest.param(HELD, replace(SHOWN, access=b"new", refresh=b"new"), BOTH, id="a login"),
        pytest.param(
            HELD,
            replace(SHOWN, access=b"new", refresh=b"new", updated_at=NOW - timedelta(hours=1)),
            BOTH,
            id="a login in the same millisecond",
        ),
        pytest.param(
            HELD,
            replace(
                SHOWN, access=b"new", refresh=b"new", updated_at=NOW - timedelta(hours=1, milliseconds=1)
            ),
            Freshness(stale=True),
            id="a millisecond behind",
        ),
        pytest.param(
            HELD,
            replace(SHOWN, access=b"new", refresh=b"new", updated_at=None),
            Freshness(stale=True),
            id="an answer that hides its time",
        ),
        pytest.param(
            replace(HELD, observed_updated_at=None),
            Incoming(b"new", b"new", None, None),
            BOTH,
            id="an administrator consented again: connections have no time",
        ),
        pytest.param(
            HELD, replace(SHOWN, access=None, refresh=b"new"), Freshness(refresh=True), id="refresh alone"
        ),
        pytest.param(
            HELD, replace(SHOWN, access=b"new", refresh=None), ACCESS, id="access alone, issued later"
        ),
        pytest.param(
            HELD,
            replace(SHOWN, access=b"new", issued_at=HELD.obtained_at),
            ACCESS,
            id="access alone, issued as ours was",
        ),
        pytest.param(
            HELD,
            replace(SHOWN, access=b"new", issued_at=NOW - timedelta(minutes=30, seconds=1)),
            NOTHING,
            id="access alone, issued before ours",
        ),
        pytest.param(
            HELD, replace(SHOWN, access=b"new", issued_at=None), NOTHING, id="access alone, of unknown issue"
        ),
        pytest.param(
            replace(HELD, obtained_at=None), replace(SHOWN, access=b"new"), ACCESS, id="ours of unknown issue"
        ),
        pytest.param(
            replace(HELD, expires_at=NOW),
            replace(SHOWN, access=b"new", issued_at=None),
            ACCESS,
            id="ours has just ended: any other is better",
        ),
        pytest.param(
            replace(HELD, expires_at=NOW + SECOND),
            replace(SHOWN, access=b"new", issued_at=None),
            NOTHING,
            id="ours has a second left and is renewed by us",
        ),
        pytest.param(
            replace(HELD, renewable=False),
            replace(SHOWN, access=b"new", issued_at=None),
            ACCESS,
            id="ours cannot be renewed",
        ),
        pytest.param(
            replace(HELD, has_access=False),
            replace(SHOWN, access=b"new", issued_at=None),
            ACCESS,
            id="ours is none",
        ),
        pytest.param(
            HELD,
            replace(SHOWN, access=b"new", refresh=b"new", issued_at=None),
            BOTH,
            id="an access token comes with its new refresh token, whenever it was issued",
        ),
    ],
)
def test_each_case(held: Stored | None, shown: Incoming, verdict: Freshness) -> None:
    """What is news is decided case by case."""
    assert compare_freshness(held, shown, NOW) == verdict


IMPORTED = replace(HELD, observed_access=None, observed_refresh=None, imported_at=NOW - timedelta(hours=2))


@pytest.mark.parametrize(
    ("held", "issued_at", "verdict"),
    [
        pytest.param(IMPORTED, NOW - timedelta(hours=3), NOTHING, id="a login before the import"),
        pytest.param(IMPORTED, NOW - timedelta(hours=2), NOTHING, id="at that moment"),
        pytest.param(IMPORTED, None, NOTHING, id="of unknown time"),
        pytest.param(IMPORTED, NOW - timedelta(hours=1), BOTH, id="a login since"),
        pytest.param(replace(IMPORTED, renewable=False), None, BOTH, id="what was imported is dead"),
        pytest.param(
            replace(IMPORTED, observed_access=b"1"), None, BOTH, id="an access token was observed since"
        ),
        pytest.param(
            replace(IMPORTED, observed_refresh=b"1"), None, BOTH, id="a refresh token was observed since"
        ),
        pytest.param(replace(IMPORTED, imported_at=None), None, BOTH, id="not imported"),
    ],
)
def test_auth0s_first_copy_of_an_imported_grant_is_old(
    held: Stored, issued_at: datetime | None, verdict: Freshness
) -> None:
    """What another store has renewed is newer than what Auth0 shows, until a login or a second copy."""
    assert compare_freshness(held, Incoming(b"new", b"new", NOW, issued_at), NOW) == verdict


def test_a_grant_is_judged_by_our_renewals_unless_auth0_brought_it() -> None:
    """Without a word of where a token came from, it is taken for renewed; and no import is presumed."""
    assert not HELD.from_auth0
    assert HELD.imported_at is None
