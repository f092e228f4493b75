"""docs/log-events.md lists the worker's log events as the code has them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "log-events.md"
SOURCES = [path for room in ("worker", "client/src") for path in sorted((ROOT / room).rglob("*.py"))]
LEVELS = {
    "debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error",
    "critical": "critical",
}  # fmt: skip
LOGGERS = ("log", "_log")
IRREGULAR = (
    "broken",
    "forgotten",
    "found",
    "held_back",
    "lost",
    "withdrawn",
)  # participles that do not end in -ed
COUNTS = "counts"  # fields that are named after what was counted: `**counts`

Logged = tuple[str, frozenset[str]]
"""An event's level and the names of its fields."""


def log_calls() -> Iterator[tuple[str, Logged]]:
    """Each event that the code logs."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute(ast.Name(logger), level), [event, *_]) if (
                    logger in LOGGERS and level in LEVELS
                ):
                    fields = {each.arg or COUNTS for each in node.keywords} - {"exc_info"}
                    for name in _literals(event, path):
                        yield name, (LEVELS[level], frozenset(fields))


def _literals(event: ast.expr, path: Path) -> list[str]:
    match event:
        case ast.Constant(str(name)):
            return [name]
        case ast.IfExp(_, ast.Constant(str(name)), ast.Constant(str(other))):
            return [name, other]
    raise AssertionError(f"{path}:{event.lineno}: a log event's name is no literal")


def documented() -> Mapping[str, set[Logged]]:
    """Each event in the page's tables."""
    found: dict[str, set[Logged]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and (name := re.fullmatch(r"`([a-z0-9_]+\.[a-z_]+)`", cells[0])):
            assert name[1] not in found, f"{name[1]} is listed twice"
            found[name[1]] = {(cells[1], frozenset(re.findall(r"`(\w+)`", cells[3])))}
    return found


def test_the_page_lists_each_log_event_with_its_level_and_fields() -> None:
    """The page's events, levels and fields are those of the code, no more and no fewer."""
    logged = defaultdict(set)
    for name, how in log_calls():
        logged[name].add(how)
    assert documented() == logged


def test_log_events_are_named_by_one_scheme() -> None:
    """An event is called ``noun.verb_past``, and the field for what failed ``error``."""
    for name, (_, fields) in log_calls():
        assert re.fullmatch(rf"[a-z0-9_]+\.[a-z_]*(ed|{'|'.join(IRREGULAR)})", name), name
        assert not fields & {"problem", "reason", "exception", "failure", "message"}, name
        assert not fields & {"grant_id", "connection_name", "tenant_name"}, name
