"""What goes wrong at a scripted provider over days."""

from collections import Counter

import pytest

from emulators.clock import Clock
from emulators.scripted import INCIDENTS, Incidents, Policy, ScriptedProvider, Trouble
from emulators.scripted.request import ClientAuthentication, TokenRequest
from tests.unit.emulators.scripted.conftest import CLIENT, NOW

WEEK = 7 * 86_400.0
NAMES = [f"user{number}" for number in range(12)]


def _provider() -> ScriptedProvider:
    clock = Clock()
    clock.set(NOW)
    provider = ScriptedProvider("acme", clock=clock, policy=Policy(), seed=1)
    provider.add_client(*CLIENT)
    for name in NAMES:
        provider.add_grant(name, CLIENT[0])
    return provider


def _renew(provider: ScriptedProvider, token: str) -> None:
    fields = {"grant_type": "refresh_token", "refresh_token": token}
    client = ClientAuthentication("post", *CLIENT)
    provider.answer(TokenRequest("POST", "/acme/token", {}, b"", fields, client))


def test_one_seed_is_one_course() -> None:
    """The same seed gives the same incidents, as many of each kind as were asked for."""
    counts = dict.fromkeys(INCIDENTS, 5)
    first = Incidents(_provider(), WEEK, counts, seed=4).pending
    again = Incidents(_provider(), WEEK, counts, seed=4).pending
    assert [(each.at, each.kind, each.subject) for each in first] == [
        (each.at, each.kind, each.subject) for each in again
    ]
    assert Counter(each.kind for each in first) == counts
    assert all(NOW <= each.at <= NOW + WEEK for each in first)
    assert [each.at for each in first] == sorted(each.at for each in first)


def test_an_unknown_kind_is_refused() -> None:
    """A kind that does not exist is an error of the caller."""
    with pytest.raises(ValueError, match="earthquake"):
        Incidents(_provider(), WEEK, {"earthquake": 1}, seed=1)


def test_a_client_is_put_right_again() -> None:
    """A disabled client and a changed secret pass, and the first secret holds again."""
    provider = _provider()
    incidents = Incidents(provider, WEEK, {"disabled_client": 3, "changed_secret": 3}, seed=2)
    client = provider.clients[CLIENT[0]]
    broken = 0
    while (at := incidents.next_at) is not None:
        provider.clock.set(at)
        incidents.apply()
        broken += client.state != "active" or client.secret != CLIENT[1]
    assert broken > 1
    assert (client.state, client.secret) == ("active", CLIENT[1])


def test_a_week_of_everything() -> None:
    """Through a week of all incidents, a spared grant that is renewed each hour lives and is never reused."""
    provider = _provider()
    counts = dict.fromkeys(INCIDENTS, 8)
    incidents = Incidents(provider, WEEK, counts, seed=9, spared=NAMES[:2])
    happened: Counter[str] = Counter()
    held = {name: provider.grants[name].refresh_token for name in NAMES}
    while provider.clock.now() < NOW + WEEK:
        provider.clock.advance(3600)
        happened.update(incident.kind for incident in incidents.apply())
        for name in NAMES:
            _renew(provider, held[name])
            seen = provider.ledger[-1]
            if seen.trouble is Trouble.NONE:
                held[name] = str(seen.issued)
    assert happened == counts
    for name in NAMES[:2]:
        assert provider.alive(name)
        assert provider.takes(held[name])
        assert {each.trouble for each in provider.presentations(name)} <= {
            Trouble.NONE,
            Trouble.NOBODY,
            Trouble.OPERATOR,
        }
        assert not any(each.reused for each in provider.presentations(name))
    lost = [name for name in NAMES if provider.alive(name) and not provider.takes(held[name])]
    assert lost  # what was lost in rotation or consented to again, and nobody told the caller
