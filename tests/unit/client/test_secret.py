from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import string
import traceback
from collections.abc import Callable
from dataclasses import asdict, astuple, replace
from datetime import UTC, datetime

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from token_vault.grant_key import GrantKey
from token_vault.secret import Secret, hide
from worker.token_pair import TokenPair

CANARY = "1//0g-canary-in-a-coal-mine"
SECRET = Secret(CANARY)
PAIR = TokenPair(SECRET, SECRET, datetime(2026, 3, 15, tzinfo=UTC))


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    token: Secret


def test_secrets_are_compared_to_their_end() -> None:
    """Keys and tokens may begin alike."""
    assert Secret("a" * 99 + "b") == Secret("a" * 99 + "b")
    assert Secret("a" * 99 + "b") != Secret("a" * 99 + "c")
    assert Secret("a") != Secret("aa")


def test_dictionaries_within_lists_are_hidden() -> None:
    """Wherever a file has a table, nothing of it is shown."""
    assert CANARY not in repr(hide([{"token": CANARY}, [{"b": CANARY}]]))


PRINTED: dict[str, Callable[[object], object]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": format,
    "f-string": lambda value: f"{value} {value!r} {value!s} {value!a}",
    "f-string with a width": lambda value: f"{value!s:>60}",
    "percent": lambda value: "%s %r %a" % (value, value, value),  # noqa: UP031
    "str.format": "{0} {0!r}".format,
    "template": lambda value: string.Template("$token").substitute(token=value),
    "within a list": lambda value: str([value]),
    "within a dictionary": lambda value: str({"token": value}),
    "within an exception": lambda value: repr(ValueError(value)) + str(KeyError(value)),
    "pprint": pprint.pformat,
    "json with default": lambda value: json.dumps({"token": value}, default=str),
    "structlog": lambda value: structlog.dev.ConsoleRenderer(colors=False)(
        logging.getLogger(), "info", {"event": "seen", "token": value}
    ),
    "structlog as JSON": lambda value: structlog.processors.JSONRenderer()(
        logging.getLogger(), "info", {"event": "seen", "token": value}
    ),
}


@pytest.mark.parametrize("how", PRINTED)
@pytest.mark.parametrize("value", [SECRET, PAIR, Model(token=SECRET)], ids=["secret", "pair", "model"])
def test_printing_shows_nothing(how: str, value: object) -> None:
    """However a secret is made into text, alone or inside something, its value is not in it."""
    text = str(PRINTED[how](value))
    assert "canary" not in text
    assert "…" in text or "\\u2026" in text


@pytest.mark.parametrize("spec", [">40", "s", "x", "{}", ".3", "%Y"])
def test_no_format_shows_anything(spec: str) -> None:
    """No format specification gets at the value, not even a part of it."""
    assert format(SECRET, spec) == "Secret(…)"


@given(st.text(min_size=1))
def test_every_secret_prints_alike(value: str) -> None:
    """Text made of a secret does not even tell how long it is."""
    assert repr(Secret(value)) == str(Secret(value)) == f"{Secret(value)}" == "Secret(…)"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [SECRET, PAIR, [SECRET]], ids=["secret", "pair", "list"])
def test_pickling_is_refused(protocol: int, value: object) -> None:
    """No protocol of pickle takes a secret, and the refusal does not show it."""
    with pytest.raises(TypeError) as caught:
        pickle.dumps(value, protocol)
    assert "canary" not in str(caught.value)


SERIALISED: dict[str, Callable[[object], object]] = {
    "json": json.dumps,
    "pydantic": to_json,
    "join": lambda value: "".join([value]),  # type: ignore[list-item]
    "concatenation": lambda value: "Bearer " + value,  # type: ignore[operator]
    "bytes": bytes,  # type: ignore[dict-item]
    "list": list,  # type: ignore[dict-item]
    "length": len,  # type: ignore[dict-item]
    "vars": vars,
    "hash": hash,
}


@pytest.mark.parametrize("how", SERIALISED)
def test_serialising_is_refused(how: str) -> None:
    """What would need the value raises, and does not show it."""
    with pytest.raises((TypeError, PydanticSerializationError)) as caught:
        SERIALISED[how](SECRET)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_model_with_a_secret_is_not_dumped_as_json() -> None:
    """Pydantic cannot write out a model that holds a secret, and a dump to Python keeps it closed."""
    with pytest.raises(PydanticSerializationError) as caught:
        Model(token=SECRET).model_dump_json()
    assert "canary" not in str(caught.value)
    assert "canary" not in str(Model(token=SECRET).model_dump())


def test_a_validation_error_beside_a_secret_does_not_show_it() -> None:
    """An error of a neighbouring field prints its input, in which the secret stays closed."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"a": SECRET})
    assert "canary" not in str(caught.value)


def test_a_dataclass_made_into_a_dictionary_keeps_its_secrets_closed() -> None:
    """asdict, astuple, replace and copies hold the secret itself, not its value."""
    made = [asdict(PAIR), astuple(PAIR), replace(PAIR), copy.copy(PAIR), copy.deepcopy(PAIR)]
    assert "canary" not in str(made)
    assert asdict(PAIR)["access"] is SECRET
    assert copy.deepcopy(PAIR) == PAIR


def test_a_log_line_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A secret passed to a logger in any way is not in the line, nor one in a traceback."""
    log = logging.getLogger("test")
    log.error("token %s", SECRET)
    log.error("token %(token)r", {"token": SECRET})
    log.error(SECRET)
    log.error("failed", exc_info=RuntimeError(SECRET))
    assert "Secret(…)" in caplog.text
    assert "canary" not in caplog.text


def test_a_traceback_with_local_variables_shows_nothing() -> None:
    """Even a traceback that prints the local variables of each frame keeps a secret closed."""

    def fails(token: Secret, pair: TokenPair) -> None:
        raise RuntimeError(f"no answer for {token}, {pair}")

    with pytest.raises(RuntimeError) as caught:
        fails(SECRET, PAIR)
    whole = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "token = Secret(…)" in whole
    assert "canary" not in whole


def test_the_value_is_had_by_asking_for_it() -> None:
    """reveal() gives the value back, and an empty secret counts as none."""
    assert SECRET.reveal() == CANARY
    assert SECRET
    assert not Secret("")


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_secrets_compare_by_value(one: str, other: str) -> None:
    """Two secrets are equal when their values are, and a secret never equals plain text."""
    assert (Secret(one) == Secret(other)) == (one == other)
    assert Secret(one) != one
    assert one != Secret(one)


def test_a_grant_is_named_without_its_provider_user_id() -> None:
    """In a message a grant is named by user and connection, an admin grant by its connection."""
    assert str(GrantKey("t", "google-oauth2", "auth0|1", "42")) == "user auth0|1 of connection google-oauth2"
    assert str(GrantKey("t", "corp-google")) == "admin of connection corp-google"
    assert GrantKey("t", "corp-google").is_admin
