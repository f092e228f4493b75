"""SQL files stand beside the modules that run them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.vault.db import sql

ROOM = Path(sql.__file__).parents[1]
FILES = sorted(ROOM.rglob("*.sql"))


def test_a_file_is_loaded_with_what_it_includes(tmp_path: Path) -> None:
    r"""``\ir`` stands for another file's text, by its path from the one that names it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "whole.sql").write_text(
        "SELECT\n    \\ir ../columns.sql\nFROM grants WHERE id = :id\n"
    )
    (tmp_path / "columns.sql").write_text("    id, state\n")
    statement = sql.load(str(tmp_path / "here" / "module.py"), "whole")
    assert str(statement) == "SELECT\n    id, state\nFROM grants WHERE id = :id\n"
    assert set(statement.compile().params) == {"id"}


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A name without a file is found when the module is imported."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.sql"):
        sql.load(str(tmp_path / "module.py"), "nothing")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOM)))
def test_each_file_is_used(file: Path) -> None:
    """A file is loaded by a module beside it, or included by another file."""
    loaded = [f'load(__file__, "{file.stem}")' in module.read_text() for module in file.parent.glob("*.py")]
    included = [re.search(rf"\\ir (\S+/)?{file.name}$", other.read_text(), re.MULTILINE) for other in FILES]
    assert any(loaded) or any(included)
