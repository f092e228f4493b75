"""Random histories of one identity, and Auth0's copy of it.

Tokens carry their true order in their name, so that a test can tell older from newer without asking the vault.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hypothesis import strategies as st

EPOCH = datetime(2026, 3, 15, 7, 14, 32, 451000, tzinfo=UTC)
LIFE = timedelta(hours=1)


class Age(NamedTuple):
    """A token's true age: login first, then renewals of it."""

    login: int
    renewal: int = 0


def name(kind: str, age: Age) -> str:
    """Name a token."""
    return f"{kind}-{age.login}-{age.renewal}"


def age(token: str) -> Age:
    """Read a token's true age from its name."""
    _, login, renewal = token.split("-")
    return Age(int(login), int(renewal))


@dataclass(frozen=True)
class Copy:
    """Auth0's copy of the identity at one moment."""

    access: str
    refresh: str | None
    updated_at: datetime
    last_login: datetime


@dataclass(frozen=True)
class Event:
    """Something that happens to an identity.

    Attributes:
        what: ``login`` (with consent), ``silent_login`` (no refresh token comes), ``touch`` (the profile changes),
            ``renew`` (we do, and the provider rotates), ``extend`` (we do, and it does not), ``die`` (the provider
            refuses the grant), ``see`` (the vault is shown Auth0's copy).
        wait: seconds since the event before.
        lag: how many changes the answer is behind; of ``see`` alone.
    """

    what: str
    wait: int
    lag: int = 0


class Auth0Copy:
    """All states of Auth0's copy since the first login."""

    def __init__(self) -> None:
        self.now = EPOCH
        self.logins = 0
        self.copies: list[Copy] = []
        self._login(with_refresh=True)

    def happen(self, event: Event) -> None:
        """Let time pass, and apply an event at Auth0."""
        self.now += timedelta(seconds=event.wait)
        if event.what in ("login", "silent_login"):
            self._login(with_refresh=event.what == "login")
        elif event.what == "touch":
            latest = self.copies[-1]
            self.copies.append(Copy(latest.access, latest.refresh, self.now, latest.last_login))

    def shown(self, lag: int) -> Copy:
        """Answer with a copy that is so many changes behind."""
        return self.copies[max(0, len(self.copies) - 1 - lag)]

    def _login(self, *, with_refresh: bool) -> None:
        self.logins += 1
        born = Age(self.logins)
        refresh = name("refresh", born) if with_refresh else None
        self.copies.append(Copy(name("access", born), refresh, self.now, self.now))


_WHAT = ("login", "silent_login", "touch", "renew", "renew", "extend", "die", "see", "see", "see")
_EVENT = st.sampled_from(_WHAT).flatmap(
    lambda what: st.builds(
        Event,
        what=st.just(what),
        wait=st.sampled_from((1, 60, 4000)),  # the last one outlives an access token
        lag=st.integers(0, 3) if what == "see" else st.just(0),
    )
)
HISTORIES = st.lists(_EVENT, min_size=1, max_size=20)
