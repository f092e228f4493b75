"""The library of shapes, each over HTTP."""

import json
from random import Random
from urllib.parse import parse_qs

import httpx
import jwt
import pytest

from emulators.scripted import LIBRARY, Policy, ScriptedProvider, Shape, Trouble, random_wording
from tests.support.wait import WAIT_SECONDS
from tests.unit.emulators.scripted.conftest import NOW, Present

SUCCESSES = [shape for shape in LIBRARY.values() if shape.trouble is Trouble.NONE]


def _names(shapes: list[Shape]) -> list[str]:
    return [shape.name for shape in shapes]


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_every_shape_says_the_truth_about_the_token(
    provider: ScriptedProvider, present: Present, name: str
) -> None:
    """A shape spends the refresh token if and only if it says so, and names its source."""
    shape = LIBRARY[name]
    provider.queue(shape, grant="ada")
    token = provider.grants["ada"].refresh_token
    try:
        present(token, timeout=0.3 if name == "hanging" else WAIT_SECONDS)
    except httpx.TransportError:
        assert shape.trouble is Trouble.NOBODY
    [seen] = provider.presentations()
    assert (seen.shape, seen.trouble) == (name, shape.trouble)
    assert seen.carried_out == shape.carried_out == (provider.grants["ada"].refresh_token != token)
    assert shape.source


@pytest.mark.parametrize("name", _names(SUCCESSES))
def test_a_success_brings_what_it_says(provider: ScriptedProvider, present: Present, name: str) -> None:
    """A success carries the new refresh token unless it omits it, and the access token likewise."""
    provider.policy = Policy(idle_life=86_400, hard_life=864_000)
    provider.queue(LIBRARY[name], grant="ada")
    text = present(provider.grants["ada"].refresh_token).text
    grant, omits = provider.grants["ada"], LIBRARY[name].omits
    assert (grant.refresh_token in text) == ("refresh_token" not in omits)
    assert (grant.access_token in text) or "access_token" in omits


def test_ends_are_told_in_each_form(provider: ScriptedProvider, present: Present) -> None:
    """Seconds, milliseconds, strings, moments and a JWT's exp all tell the same end."""

    def told(name: str) -> dict[str, object]:
        provider.queue(LIBRARY[name], grant="ada")
        return dict(present(provider.grants["ada"].refresh_token).json())

    end = int(NOW) + 3600
    assert told("life_as_string")["expires_in"] == "3600"
    assert told("life_in_milliseconds")["expires_in"] == 3_600_000
    assert told("end_in_unix_seconds")["expires_at"] == end
    assert told("end_in_unix_milliseconds")["expires_at"] == end * 1000
    assert told("end_as_iso_time")["expires_at"] == "2026-05-28T21:26:40Z"
    assert told("end_as_string")["expires_on"] == str(end)
    assert "expires_in" not in told("no_end")
    token = told("end_in_jwt")["access_token"]
    assert jwt.decode(str(token), options={"verify_signature": False})["exp"] == end


def test_ends_of_consent_are_told(provider: ScriptedProvider, present: Present) -> None:
    """The hard end comes nearer, the sliding one does not."""
    provider.policy = Policy(idle_life=1000, hard_life=5000)
    provider.queue(LIBRARY["hard_end"], LIBRARY["draft_ends"], grant="ada")
    first = present(provider.grants["ada"].refresh_token).json()
    provider.clock.advance(100)
    second = present(provider.grants["ada"].refresh_token).json()
    assert first["x_refresh_token_expires_in"] == second["refresh_token_timeout"] == 1000
    assert (first["x_refresh_token_hard_expires_in"], second["authorization_expires_in"]) == (5000, 4900)


def test_encodings(provider: ScriptedProvider, present: Present) -> None:
    """A form, another content type, chunks and gzip arrive as what they are."""

    def get(name: str) -> httpx.Response:
        provider.queue(LIBRARY[name], grant="ada")
        return present(provider.grants["ada"].refresh_token)

    assert parse_qs(get("form_encoded").text)["token_type"] == ["Bearer"]
    page = get("json_as_html")
    assert page.headers["content-type"].startswith("text/html")
    assert json.loads(page.text)["token_type"] == "Bearer"
    assert "content-type" not in get("json_without_type").headers
    assert get("chunked").headers["transfer-encoding"] == "chunked"
    assert get("chunked").json()["access_token"] == provider.grants["ada"].access_token
    assert get("gzip").headers["content-encoding"] == "gzip"
    assert get("gzip").json()["access_token"] == provider.grants["ada"].access_token


def test_a_wording_is_the_same_for_a_seed() -> None:
    """A random provider's words are drawn by seed, each of the trouble that it is for."""
    drawn = random_wording(Random(5), invented=0.5)
    again = random_wording(Random(5), invented=0.5)
    assert [drawn.dead_grant.name, drawn.throttled.name] == [again.dead_grant.name, again.throttled.name]
    for seed in range(50):
        wording = random_wording(Random(seed), invented=0.3)
        assert wording.success.trouble is Trouble.NONE
        assert wording.success.omits == frozenset()
        assert wording.dead_grant.trouble is Trouble.USER
        assert wording.wrong_client.trouble is wording.other_client.trouble is Trouble.OPERATOR
        assert wording.throttled.trouble is wording.unavailable.trouble is Trouble.NOBODY
