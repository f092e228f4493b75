"""Shapes that are in no library."""

import json
import re
from random import Random
from typing import Any

import pytest

from emulators.scripted import LIBRARY, Exchange, ScriptedProvider, Trouble, invent
from tests.unit.emulators.scripted.conftest import Present

SEEDS = range(200)


def _exchange(refresh_token: str | None = "rt_new") -> Exchange:
    return Exchange(
        now=0.0,
        access_token="at_new",
        refresh_token=refresh_token,
        presented="rt_old",
        client_id="app",
        life=3600.0,
        scopes=("read", "write"),
        idle_life=None,
        hard_life=None,
        random=Random(1),
    )


def _find(value: Any, name: str) -> Any:
    """Find a field at any depth."""
    if isinstance(value, dict):
        found = [value[name]] if name in value else [_find(inner, name) for inner in value.values()]
        return next((each for each in found if each is not None), None)
    return None


@pytest.mark.parametrize("trouble", list(Trouble))
def test_one_seed_is_one_shape(trouble: Trouble) -> None:
    """What is made up is the same for the same seed, and many seeds make many."""
    made = {seed: invent(trouble, Random(seed)).write(_exchange()) for seed in SEEDS}
    assert made == {seed: invent(trouble, Random(seed)).write(_exchange()) for seed in SEEDS}
    assert len({(script.status, script.body) for script in made.values()}) > 20


def test_words_are_unknown() -> None:
    """No made-up refusal holds a word that any shape of the library uses as a code."""
    known = {"invalid_grant", "invalid_client", "unauthorized_client", "temporarily_unavailable", *LIBRARY}
    for trouble in (Trouble.USER, Trouble.OPERATOR, Trouble.NOBODY):
        for seed in SEEDS:
            body = invent(trouble, Random(seed)).write(_exchange()).body.decode()
            assert known.isdisjoint(re.findall(r"\w+", body))


def test_statuses_fit_the_trouble() -> None:
    """What passes is a 5xx, what does not is a 4xx, and a success is a 200."""
    for seed in SEEDS:
        random = Random(seed)
        assert invent(Trouble.NOBODY, random).write(_exchange()).status // 100 == 5
        assert invent(Trouble.USER, random).write(_exchange()).status // 100 == 4
        assert invent(Trouble.OPERATOR, random).write(_exchange()).status // 100 == 4
        assert invent(Trouble.NONE, random).write(_exchange()).status == 200


def test_a_success_keeps_its_refresh_token() -> None:
    """A made-up success has the new refresh token under its own name, at some depth."""
    depths = set()
    for seed in SEEDS:
        shape = invent(Trouble.NONE, Random(seed))
        fields = json.loads(shape.write(_exchange()).body)
        assert _find(fields, "refresh_token") == "rt_new"
        if "access_token" not in shape.omits:
            assert fields["access_token"] == "at_new"
        if "end" not in shape.omits:
            assert fields["expires_in"] == 3600
        depths.add("refresh_token" in fields)
    assert depths == {True, False}


def test_it_is_sent_over_http(provider: ScriptedProvider, present: Present) -> None:
    """Made-up shapes leave as any other, whatever their status."""
    random = Random(11)
    for _ in range(40):
        shape = invent(random.choice(list(Trouble)), random)
        provider.queue(shape, grant="ada")
        answer = present(provider.grants["ada"].refresh_token)
        seen = provider.presentations()[-1]
        assert (seen.shape, seen.trouble) == (shape.name, shape.trouble)
        assert answer.status_code == shape.write(_exchange()).status
