"""Which tests run a mutant's code, as a run without mutants has shown."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.mutants.catalogue import ROOT, Mutant


@dataclass(frozen=True)
class Baseline:
    """What the tests did without a mutant.

    Attributes:
        seconds: by test.
        failed: tests that fail without a mutant, and prove nothing.
        lines: the tests by file and line that they ran.
    """

    seconds: Mapping[str, float]
    failed: Sequence[str]
    lines: Mapping[str, Mapping[str, Sequence[str]]]

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the changed lines, quick ones first; all where no line is known."""
        ran = {
            test
            for file, lines in _places(mutant)
            for line in lines
            for test in self.lines.get(file, {}).get(str(line), ())
        }
        return sorted(ran or self.seconds, key=self.seconds.__getitem__)


def _places(mutant: Mutant) -> Iterator[tuple[str, range]]:
    """Yield files with the lines that are a mutant's: of SQL, those that run the statement."""
    if mutant.file.endswith(".sql"):
        yield from _uses_of_sql(mutant.file)
        return
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    first = text.count("\n", 0, mutant.position) + 1
    last = first + mutant.old.count("\n")
    yield mutant.file, _widened(text, first, last)


def _widened(text: str, first: int, last: int) -> range:
    """Widen lines to their whole statement, whose parts are not all counted by line."""
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    around = [node for node in statements if node.lineno <= first and last <= (node.end_lineno or 0)]
    inner = max(around, key=lambda node: node.lineno)
    body = getattr(inner, "body", None)
    if body is None:
        return range(inner.lineno, (inner.end_lineno or inner.lineno) + 1)
    return range(inner.lineno, max(last + 1, body[0].lineno))


@cache
def _uses_of_sql(file: str) -> Sequence[tuple[str, range]]:
    """Return where statements that a file of SQL is part of are used."""
    path = ROOT / file
    includers = [other for other in _sql_files() if f"\\ir {path.name}" in other.read_text(encoding="utf-8")]
    names = {path, *includers}
    found = []
    for each in names:
        for module in each.parent.glob("*.py"):
            text = module.read_text(encoding="utf-8")
            if f'load(__file__, "{each.stem}")' in text:
                found += [(str(module.relative_to(ROOT)), lines) for lines in _lines_with(text, each.stem)]
    return found


@cache
def _sql_files() -> Sequence[Path]:
    return [*(ROOT / "worker").rglob("*.sql")]


def _lines_with(text: str, stem: str) -> Iterator[range]:
    """Yield the statements that use the constant which a file of SQL was loaded into."""
    tree = ast.parse(text)
    constants = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and f"load(__file__, '{stem}')" in ast.unparse(node.value)
        for target in ast.walk(node)
        if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in constants and isinstance(node.ctx, ast.Load):
            yield _widened(text, node.lineno, node.end_lineno or node.lineno)
