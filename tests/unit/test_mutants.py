"""The catalogue of planted bugs fits the code and its tests."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache

import pytest

from tests.mutants.baseline_page import PAGE, reasons
from tests.mutants.catalogue import CATALOGUE, ROOT, Mutant, load
from tests.mutants.operators import generate
from tests.mutants.select import MODULES
from tests.mutants.verdicts import judge
from tests.mutants.workbench import TestRun

MUTANTS = list(load())
MUTANT = Mutant("bug", "f.py", "a", "b", ("t.py::test_a", "t.py::test_b"), "A bug.")


@cache
def find_tests(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_its_file(mutant: Mutant) -> None:
    """What a mutant replaces is in its file once, its tests exist, and Python can still be parsed."""
    text = mutant.mutated()
    if mutant.file.endswith(".py"):
        ast.parse(text)
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name in find_tests(file), test
    assert mutant.about.endswith(".")


def test_the_page_lists_each_file_and_why_a_mutant_lives() -> None:
    """Each file that has mutants made by rule has a line with 95% at least, and each survivor its reason."""
    modules = tomllib.loads(MODULES.read_text(encoding="utf-8")).values()
    files = {file for entry in modules for file in entry["files"] if any(generate(file, ()))}
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (\d+) \| (\d+)% \| \d+ \|$", page, re.MULTILINE)
    assert {file for file, *_ in rows} == files
    for file, made, run, killed in rows:
        assert made == run, file
        assert int(killed) >= 95, file
    assert page.count("\n| `` ") == len(reasons())
    assert "not looked into" not in page


def test_rooms_have_catalogues() -> None:
    """The catalogue is not empty, and each page of it is read."""
    assert len(MUTANTS) >= len(list(CATALOGUE.glob("*.toml"))) > 0


@pytest.mark.parametrize(
    ("exit_code", "failed", "outcome"),
    [
        (1, {"t.py::test_a", "t.py::test_b"}, "killed"),
        (1, {"t.py::test_a"}, "survived"),
        (0, set(), "survived"),
        (2, set(), "broken"),  # pytest could not collect
        (3, set(), "broken"),  # it failed itself
        (3, {"t.py::test_a", "t.py::test_b"}, "killed"),  # … after it had told what the tests did
        (4, set(), "broken"),  # it could not even start
        (5, set(), "broken"),  # it found no tests
        (None, set(), "killed"),  # it hung
    ],
)
def test_each_named_test_has_to_fail(exit_code: int | None, failed: set[str], outcome: str) -> None:
    """A mutant is killed if each of its tests has failed, and broken if they did not run."""
    run = TestRun(exit_code, {}, frozenset(failed), "")
    assert judge(MUTANT, run, each=True).outcome == outcome


def test_a_text_that_is_not_there_once_is_refused() -> None:
    """A mutant that would change nothing, or something else, is no mutant."""
    for old, count in (("nowhere" + " in it", "0"), ("import", "[1-9][0-9]*")):
        mutant = Mutant("bug", "tests/unit/test_mutants.py", old, "", (), "A bug.")
        with pytest.raises(ValueError, match=f"bug: `old` is {count} times"):
            mutant.mutated()


def named_in(row: str) -> set[str]:
    """The tests that a line of a table links to."""
    return {
        f"{file}::{name}" for name, file in re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", row)
    }


@pytest.mark.parametrize("page", ["docs/promises.md", "docs/threat-model.md"])
def test_each_line_was_seen_to_fail(page: str) -> None:
    """Each line names a test that notices a planted bug."""
    noticing = {test for mutant in MUTANTS for test in mutant.tests}
    rows = [row for row in (ROOT / page).read_text(encoding="utf-8").splitlines() if named_in(row)]
    assert len(rows) > 25
    assert [row for row in rows if not named_in(row) & noticing] == []


def test_promises_name_their_bugs() -> None:
    """The last column of each table of promises names bugs that its tests notice."""
    rows = (ROOT / "docs/promises.md").read_text(encoding="utf-8").splitlines()
    for row in filter(named_in, rows):
        noticed = {mutant.name for mutant in MUTANTS if named_in(row) & set(mutant.tests)}
        named = set(re.findall(r"`([a-z0-9-]+)`", row.rpartition(" | ")[2]))
        assert named, row
        assert named <= noticed, row
