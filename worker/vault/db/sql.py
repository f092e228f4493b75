"""Loads the SQL files that lie beside modules."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import TextClause, text

# psql's syntax for including a file, by its path relative to the including file.
_INCLUDE = re.compile(r"^[ \t]*\\ir[ \t]+(\S+)[ \t]*\n", re.MULTILINE)


def load(module_file: str, name: str) -> TextClause:
    r"""Load ``name.sql`` from beside a module.

    A line ``\ir other.sql`` is replaced by that file's text.

    Args:
        module_file: the module's ``__file__``.
        name: of the file, without its extension.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return text(_read(Path(module_file).with_name(f"{name}.sql")))


def _read(path: Path) -> str:
    return _INCLUDE.sub(lambda line: _read(path.parent / line[1]), path.read_text(encoding="utf-8"))
