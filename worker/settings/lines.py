"""Finds the line of a key in a TOML file.

tomllib does not report positions.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence

_HEADER = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(#.*)?")


def find_line(text: str, place: Sequence[int | str]) -> int | None:
    """Return the line of a key, or of its table.

    It may be wrong in a file with texts over several lines, as their lines may look like keys.
    """
    nearest, depth = None, 0
    for number, path in _paths(text):
        if depth < len(path) <= len(place) and tuple(map(str, place[: len(path)])) == path:
            nearest, depth = number, len(path)
    return nearest


def _paths(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield each header's and key's line and whole name."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            table = _names(f"{header[1]} = 0")
            yield number, table
        elif "=" in line and (names := _names(f"{line.partition('=')[0]} = 0")):
            yield number, (*table, *names)


def _names(assignment: str) -> tuple[str, ...]:
    try:
        found: object = tomllib.loads(assignment)
    except tomllib.TOMLDecodeError:
        return ()
    names: list[str] = []
    while isinstance(found, dict) and found:
        name, found = next(iter(found.items()))
        names.append(name)
    return tuple(names)
