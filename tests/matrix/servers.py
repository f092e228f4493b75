"""Finds the Postgres, Redis and Python versions that can be run here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.embedded.postgres import postgres_binary
from worker.embedded.redis import Redis

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# A program's name: what it is, and the variable that has the tests run on it.
_PROGRAMS = {
    "postgres": ("Postgres", "TESTS_POSTGRES"),
    "redis-server": ("Redis", "TESTS_REDIS"),
    "valkey-server": ("Valkey", "TESTS_REDIS"),
}
_VERSION = re.compile(r"(?:PostgreSQL\)|v=)\s*(\d[\d.]*)")


@dataclass(frozen=True)
class Cell:
    """One version of one part; the others are the embedded ones.

    Attributes:
        name: of the part, and its version.
        kind: Postgres, Redis, Valkey or Python.
        variables: of the environment, which choose the server.
        python: the interpreter.
    """

    name: str
    kind: str
    variables: Mapping[str, str]
    python: Path


def find_cells(folder: Path) -> Iterator[Cell]:
    """Give the servers below the folder, on the PATH and embedded, then the Pythons whose environment is made."""
    yield from _servers(folder)
    for version in PYTHONS:
        interpreter = folder / f"python-{version}/bin/python"
        if interpreter.exists():
            yield Cell(f"Python {_said(interpreter).split()[1]}", "Python", {}, interpreter)


def _servers(folder: Path) -> Iterator[Cell]:
    found: dict[tuple[str, tuple[int, ...]], Cell] = {}
    embedded = postgres_binary("postgres"), Redis(folder).program()
    search = [Path(each) for each in os.environ.get("PATH", "").split(os.pathsep)]
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    for name, (kind, variable) in _PROGRAMS.items():
        beside = [place / name for place in (*search, *debian)]
        for program in (
            *(each for each in embedded if each.name == name),
            *folder.rglob(f"bin/{name}"),
            *beside,
        ):
            version = _VERSION.search(_said(program)) if program.is_file() else None
            if version is not None:
                cell = Cell(
                    f"{kind} {version[1]}", kind, {variable: str(program.absolute())}, Path(sys.executable)
                )
                found.setdefault((kind, tuple(map(int, version[1].split(".")))), cell)
    for _, cell in sorted(found.items()):
        yield cell


def _said(program: Path) -> str:
    if not os.access(program, os.X_OK):
        return ""
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
