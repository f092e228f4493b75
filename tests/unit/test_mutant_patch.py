"""A changed file takes effect in a process that has imported it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutants.patch import LiveCode, NotPatchable, Patched

LIMITS = """\
from dataclasses import dataclass, field

MOST = 3

def is_few(count, least=0, *, strictly=True):
    return least <= count < MOST if strictly else least <= count <= MOST

@dataclass(frozen=True, slots=True)
class Named:
    name: str
    size: int = 1
    is_old: bool = field(default=False, kw_only=True)

WIDER = MOST + 1
NARROW = 1

def tenfold(count):
    return count * 10

TEN = tenfold(NARROW)

class Box:
    size = 1

    @property
    def is_empty(self):
        return self.size == 0

    @property
    def name(self):
        return [letter for letter in "box" if letter]

    def grow(self, by=1):
        def more(than, *, least=1):
            return than + max(by, least)
        return more(self.size)

def counted(function):
    def around(count):
        return function(count) + 1
    return around

@counted
def twice(count):
    return 2 * count

smaller = lambda count: count - 1
"""
USER = """\
from limits_to_patch import MOST, NARROW, TEN, WIDER, Box, Named, is_few, smaller, twice

MORE = MOST + 1

def tens():
    return TEN

def most():
    return MOST

def narrow():
    return NARROW
"""

Patch = Callable[[str, str], Patched]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that has imported names of another."""
    (tmp_path / "limits_to_patch.py").write_text(LIMITS)
    (tmp_path / "user_to_patch.py").write_text(USER)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("user_to_patch")
    for name in ("limits_to_patch", "user_to_patch"):
        del sys.modules[name]


@pytest.fixture
def patch(tmp_path: Path, user: ModuleType) -> Patch:
    """Replace a text of the imported file."""
    code = LiveCode(tmp_path)

    def replace(old: str, new: str) -> Patched:
        assert old in LIMITS
        file = tmp_path / "limits_to_patch.py"
        file.write_text(LIMITS.replace(old, new))
        return code.patch(file)

    return replace


def test_a_function_is_replaced_where_it_was_imported(user: ModuleType, patch: Patch) -> None:
    """Functions, properties, lambdas and what is behind a decorator run the new code."""
    assert patch("count < MOST if", "count <= MOST if") == "functions"
    assert user.is_few(3)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [("least=0", "least=1", (False, False)), ("strictly=True", "strictly=False", (True, True))],
)
def test_a_function_gets_other_defaults(
    user: ModuleType, patch: Patch, old: str, new: str, found: tuple[bool, bool]
) -> None:
    """The default of an argument is changed where the function is in use already."""
    assert (user.is_few(0), user.is_few(3)) == (True, False)
    assert patch(old, new) == "functions"
    assert (user.is_few(0), user.is_few(3)) == found


def test_a_longer_file_is_matched_by_name(user: ModuleType, patch: Patch) -> None:
    """A change that moves the lines of other functions changes one alone."""
    patch("        return self.size == 0", "        size = self.size\n\n        return size == 1")
    assert user.Box().is_empty
    assert user.Box().name == ["b", "o", "x"]
    assert user.twice(2) == 5


def test_a_method_without_its_result_is_no_other_signature(user: ModuleType, patch: Patch) -> None:
    """A class whose methods have other parts than before is changed there, and nowhere else."""
    patch("        return self.size == 0", "        return None")
    assert user.Box().is_empty is None
    assert user.Box().grow() == 2


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [("2 * count", "3 * count", 7), ("function(count) + 1", "function(count) - 1", 3)],
)
def test_a_decorated_function_is_replaced(
    user: ModuleType, patch: Patch, old: str, new: str, found: int
) -> None:
    """A decorator's inner function and the function within it are both found."""
    patch(old, new)
    assert user.twice(2) == found


def test_a_lambda_is_replaced(user: ModuleType, patch: Patch) -> None:
    """A function without a name of its own is found by its place."""
    patch("count - 1", "count + 1")
    assert user.smaller(1) == 2


def test_a_value_is_replaced_where_it_was_imported(user: ModuleType, patch: Patch) -> None:
    """A constant changes in its module and in those that have imported it."""
    assert patch("NARROW = 1", "NARROW = 5") == "functions"
    assert user.narrow() == 5


def test_a_value_that_was_used_at_import_may_be_elsewhere(user: ModuleType, patch: Patch) -> None:
    """Another value that was made of a constant is not made again, and the patch says so."""
    assert patch("MOST = 3", "MOST = 5") == "values"
    assert (user.most(), user.is_few(4), user.WIDER) == (5, True, 6)
    assert user.MORE == 4


def test_a_value_is_computed_again_by_a_changed_function(user: ModuleType, patch: Patch) -> None:
    """What a module computes at its import is computed by the new code."""
    assert patch("return count * 10", "return count * 20") == "functions"
    assert user.tens() == 20


def test_a_dataclass_gets_another_default(user: ModuleType, patch: Patch) -> None:
    """The default of a field is changed where the class is in use already."""
    assert patch("size: int = 1", "size: int = 2") == "functions"
    assert user.Named("n").size == 2


def test_what_a_class_was_made_of_is_not_replaced(patch: Patch) -> None:
    """A change that takes an import to see is refused."""
    with pytest.raises(NotPatchable, match="Box differs outside of functions"):
        patch("    size = 1", "    size = 2")
