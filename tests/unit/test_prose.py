"""Names and sentences keep to the glossary."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("client/src", "worker", "emulators", "migrations", "benchmarks")
FILES = sorted(
    path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py") if "versions" not in path.parts
)
CODE = [
    path for path in FILES if path.is_relative_to(ROOT / "worker") or path.is_relative_to(ROOT / "client")
]

NOUNS = {"keyring", "mapping", "missing", "wiring"}
LONGEST_SUMMARY = 10  # words
HOUSE_WORDS = re.compile(
    r"\b(mend(s|ed|ing)?|heal(s|ing)?|by and by|for ever|in vain|crawl(s|ed)?|whose it is|says? no word|"
    r"upkeep|tally|tallies|lanes?)\b",
    re.I,
)
# A number that may be 1 before a noun in the plural; constants, which have capitals, are known not to be.
PLURAL = re.compile(
    r'(?<!of )\{[^{}"\nA-Z]*\} (?:[a-z]+ )?(?:grants|users|connections|deliveries|ciphertexts|errors)\b'
)
PUBLISHED = re.compile(r"connection\.mended|grant\.healed|MENDED|HEALED|\bhealed\b")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each docstring with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Each comment with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_module_is_named_after_doing() -> None:
    """A module is named after a thing."""
    gerunds = [path for path in FILES if path.stem.endswith("ing") and path.stem.split("_")[-1] not in NOUNS]
    assert [name_of(path) for path in gerunds] == []


def test_one_is_not_many() -> None:
    """A message writes a number with its noun by `pluralize`."""
    found = {name_of(path): PLURAL.findall(path.read_text(encoding="utf-8")) for path in CODE}
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_no_two_public_types_share_a_name() -> None:
    """One name is one type."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in CODE:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(name_of(path))
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_docstrings_begin_with_a_short_line(path: Path) -> None:
    """The first line of a docstring has ten words at most, sources in brackets apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    summaries = {line: re.sub(r"\([^)]*\)", "", text.splitlines()[0]) for line, text in docstrings(tree)}
    long = {line: text for line, text in summaries.items() if len(text.split()) > LONGEST_SUMMARY}
    assert long == {}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sentences_use_the_glossarys_words(path: Path) -> None:
    """Docstrings and comments use the field's terms."""
    source = path.read_text(encoding="utf-8")
    found = [*docstrings(ast.parse(source)), *comments(source)]
    odd = {
        line: hit.group()
        for line, text in found
        if (hit := HOUSE_WORDS.search(PUBLISHED.sub("", text))) and path != Path(__file__)
    }
    assert odd == {}


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_log_events_say_who_did_what(path: Path) -> None:
    """A log event is ``noun.verb_past``."""
    events = re.findall(
        r'\blog\.(?:debug|info|warning|error|exception)\(\s*"([^"]*)"', path.read_text(encoding="utf-8")
    )
    assert [event for event in events if not re.fullmatch(r"[a-z_]+\.[a-z_]+", event)] == []
