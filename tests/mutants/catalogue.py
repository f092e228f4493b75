"""The catalogue of planted bugs: one TOML file for each room, one table for each bug.

Each table has ``file``; ``old`` and ``new``, exact text that the file has once; ``kills``, the tests that must fail;
and ``about``, one sentence.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CATALOGUE = Path(__file__).with_name("catalogue")


@dataclass(frozen=True)
class Mutant:
    """One changed file, and the tests that are to notice it.

    Attributes:
        name: its name in reports.
        file: the changed file, from the repository's root on.
        old, new: the text that is replaced, and by what.
        tests: as pytest takes them, files or ``file::test``.
        about: what is broken, in one sentence.
        position: where ``old`` begins, where it stands in the file more than once.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    about: str
    position: int | None = None

    def mutated(self, root: Path = ROOT) -> str:
        """Return the changed file's text.

        Raises:
            ValueError: the text to replace is not there, or not once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if self.position is None and (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: `old` is {count} times in {self.file}, expected once")
        at = text.index(self.old) if self.position is None else self.position
        return text[:at] + self.new + text[at + len(self.old) :]


def load(folder: Path = CATALOGUE) -> Iterator[Mutant]:
    """Read the catalogue; names are unique within it.

    Raises:
        ValueError: two bugs have one name.
    """
    names: set[str] = set()
    for page in sorted(folder.glob("*.toml")):
        for name, entry in tomllib.loads(page.read_text(encoding="utf-8")).items():
            if name in names:
                raise ValueError(f"{page.name}: {name} is in the catalogue twice")
            names.add(name)
            yield Mutant(
                name, entry["file"], entry["old"], entry["new"], tuple(entry["kills"]), entry["about"]
            )
