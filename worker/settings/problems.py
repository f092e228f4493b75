"""Mistakes in the settings, in the operator's terms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.settings.annotations import annotation_at, choices, is_section, is_table, names_of, types

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Place = tuple[int | str, ...]
"""A key of the TOML file, with its tables' names before it."""
Fault = tuple[Place, str, object]
"""A mistake that a check of several tables finds: place, message and value."""

# A longer text in a wrong place may be a secret: all secrets have at least 32 characters.
MAX_SHOWN_CHARACTERS = 31
_UNITS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800} | {
    f"{unit}{plural}": seconds
    for unit, seconds in (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400), ("week", 604_800))
    for plural in ("", "s")
}


# What the operator should have written, by Pydantic's kind of error.
_KINDS = {
    "dict_type": "a table", "mapping_type": "a table", "model_type": "a table", "model_attributes_type": "a table",
    "is_instance_of": "a text", "list_type": "a list", "path_type": "a path", "string_type": "a text", "tuple_type": "a list",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """One mistake, and its fix.

    Attributes:
        place: the variable or the key; empty if the message names it.
        message: what is wrong, and how to correct it.
        value: the wrong value; empty if it may be a secret.
        source: the file and line; empty for a variable.
    """

    place: str
    message: str
    value: str = ""
    source: str = ""

    def __str__(self) -> str:
        message = ": ".join(filter(None, (self.source, f"{self.place} {self.message}".strip())))
        return f"{message} (given: {self.value})" if self.value else message


class SettingsError(ConfigurationError):
    """The settings have mistakes; it has all of them."""

    def __init__(self, problems: Iterable[SettingProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class WrongSettings(ValueError):
    """Mistakes that a check of several tables found."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(message for _, message, _ in faults))


def find_problems(
    error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any]
) -> Iterator[tuple[Place, str, str]]:
    """Yield each mistake's place, message and value.

    The value is empty if it may be a secret.
    """
    for fault in error.errors(include_input=False, include_url=False):
        found = fault.get("ctx", {}).get("error")
        if isinstance(found, WrongSettings):
            for place, message, value in found.faults:
                yield place, message, _shown(value, str)
            continue
        annotation = annotation_at(model, fault["loc"])
        value = _value_at(raw, fault["loc"])
        yield fault["loc"], _describe(fault, annotation, model, value), _shown(value, annotation)


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return a question that suggests a similar name, if any."""
    near = get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""


def _describe(fault: ErrorDetails, annotation: object, model: type[BaseModel], value: object) -> str:
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "has to be")
    match fault["type"]:
        case "extra_forbidden":
            known = names_of(annotation_at(model, fault["loc"][:-1]))
            hint = suggest(str(fault["loc"][-1]), known) or f": there are {', '.join(known)}"
            return f"there is no such setting{hint}"
        case "missing":
            return "is missing: set it"
        case kind if kind in _KINDS:
            return f"has to be {_KINDS[kind]}"
        case "literal_error" if isinstance(value, str):
            return message + suggest(value, map(str, choices(annotation)))
        case "float_parsing" | "int_parsing" if isinstance(value, str):
            return message.split(",", maxsplit=1)[0] + _in_seconds(value)
        case _:
            return message


def _in_seconds(value: str) -> str:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)
    seconds = _UNITS.get(found[2].lower()) if found else None
    if found is None or seconds is None:
        return ""
    return f", times in seconds without a unit: did you mean {float(found[1]) * seconds:.10g}?"


def _shown(value: object, annotation: object) -> str:
    """Return a value as text (empty if maybe secret).

    Of a URL only scheme and host, as paths and user names may be secrets.
    """
    found = list(types(annotation))
    if Secret in found or any(map(is_section, found)) or any(map(is_table, found)):
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        return ""
    if "://" in value:
        return _shown_url(value)
    return json.dumps(value, ensure_ascii=False) if len(value) <= MAX_SHOWN_CHARACTERS else ""


def _shown_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return json.dumps(f"{parts.scheme}://{parts.hostname or ''}/…", ensure_ascii=False)


def _value_at(raw: object, place: Sequence[int | str]) -> object:
    for part in place:
        try:
            raw = raw[part]  # type: ignore[index]  # what is no table ends the search
        except (TypeError, LookupError):
            return None
    return raw
