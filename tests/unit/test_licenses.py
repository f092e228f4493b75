"""The page of licences is that of the lock file."""

from __future__ import annotations

import re

import pytest

from tests import licenses


def test_each_locked_package_is_listed() -> None:
    """A package that comes or goes changes the page: run `python -m tests.licenses`."""
    assert sorted(licenses.listed()) == licenses.locked()


@pytest.mark.parametrize("name", licenses.locked())
def test_a_licence_lets_this_program_use_it(name: str) -> None:
    """The licence is the one that the package names, and none that would spread to this program."""
    listed = licenses.listed()[name]
    assert licenses.license_of(name) in (listed, None)
    assert not re.search(r"(?<!L)GPL|Affero|see its files", listed)
