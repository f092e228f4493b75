"""Makes mutants of a file by rule: of Python by its syntax tree, of SQL by its words.

Much of what the vault decides is decided in SQL, which no mutation tool for Python changes.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import ROOT, Mutant

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=", ast.NotEq: "==", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.BitOr: "&",
}  # fmt: skip
_SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}

_SQL_WORDS: Sequence[tuple[str, str]] = (
    (r"\bAND\b", "OR"),
    (r"\bOR\b", "AND"),
    (r"<=", "<"),
    (r">=", ">"),
    (r"(?<= )<(?= )", "<="),
    (r"(?<= )>(?= )", ">="),
    (r"<>", "="),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r"\bIS NULL\b", "IS NOT NULL"),
    (r"\bIS DISTINCT FROM\b", "IS NOT DISTINCT FROM"),
    (r"\bIS NOT DISTINCT FROM\b", "IS DISTINCT FROM"),
    (r"\bNOT (?!NULL|DISTINCT)", ""),
    (r"\bleast\b", "greatest"),
    (r"\bgreatest\b", "least"),
    (r"(?<= )\+(?= )", "-"),
    (r"(?<= )-(?= \d)", "+"),
    (r"\bDESC\b", "ASC"),
    (r"\bfalse\b", "true"),
    (r"\btrue\b", "false"),
    (r" FOR UPDATE( OF \w+)?( SKIP LOCKED)?", ""),
    (r" SKIP LOCKED", ""),
    (r"(?<=WHERE )(?=\w+(\.\w+)? = )|(?<=AND )(?=\w+(\.\w+)? = )", "NOT "),
)


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    new: str


def generate(file: str, tests: Sequence[str], root: Path = ROOT) -> Iterator[Mutant]:
    """Make all mutants of a file.

    A mutant's name is where it is and what it does; it stays the same while other lines change.
    """
    text = (root / file).read_text(encoding="utf-8")
    edits = _python_edits(text) if file.endswith(".py") else _sql_edits(text)
    seen: Counter[str] = Counter()
    for where, edit in edits:
        old = text[edit.start : edit.end]
        what = f"{' '.join(old.split())[:60]} → {' '.join(edit.new.split())[:60]}"
        label = f"{Path(file).name}:{where}: {what}"
        seen[label] += 1
        name = label if seen[label] == 1 else f"{label} ({seen[label]})"
        yield Mutant(name, file, old, edit.new, tuple(tests), what, edit.start)


def _sql_edits(text: str) -> Iterator[tuple[str, _Edit]]:
    # Of the same length, so that positions stay: comments and literals are no code.
    code = re.sub(r"--[^\n]*|'[^']*'", lambda found: " " * len(found.group()), text)
    for pattern, new in _SQL_WORDS:
        for found in re.finditer(pattern, code):
            line = code.count("\n", 0, found.start()) + 1
            context = " ".join(text.splitlines()[line - 1].split())[:40]
            yield context, _Edit(found.start(), found.end(), new)


def _python_edits(text: str) -> Iterator[tuple[str, _Edit]]:
    tree = ast.parse(text)
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    lines = text.splitlines()

    def at(line: int, column: int) -> int:
        """Return where a node's line and column, counted in bytes, are in the text."""
        return offsets[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def source(node: ast.expr | ast.stmt) -> str:
        span = edit(node, "")
        return text[span.start : span.end]

    def edit(node: ast.expr | ast.stmt, new: str) -> _Edit:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return _Edit(at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset), new)

    for where, node in _code_nodes(tree, ""):
        if not where and isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            continue  # a type's alternatives: without them nothing can be imported
        for changed, new in _changes(node, source):
            yield where or "module", edit(changed, new)


def _code_nodes(node: ast.AST, where: str) -> Iterator[tuple[str, ast.expr | ast.stmt]]:
    """Walk what runs: no annotations, docstrings, decorators, log lines or messages."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_prose(child):
                continue
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = (f"{where}.{child.name}" if where else child.name) if named else where  # type: ignore[attr-defined]
            if isinstance(child, ast.expr | ast.stmt):
                yield inner, child
            yield from _code_nodes(child, inner)


def _is_prose(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if not isinstance(node, ast.Expr):
        return False
    if isinstance(node.value, ast.Constant):
        return True
    call = node.value
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "log"
    )


def _changes(node: ast.expr | ast.stmt, source: object) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield what a node may be replaced by."""
    assert callable(source)
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARISONS:
            yield node, f"{source(left)} {_COMPARISONS[type(operator)]} {source(right)}"
        case ast.BoolOp(op=joined, values=values):
            other = " or " if isinstance(joined, ast.And) else " and "
            yield node, "(" + other.join(f"({source(value)})" for value in values) + ")"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, f"bool({source(operand)})"
        case ast.BinOp(left=left, op=arithmetic, right=right) if type(arithmetic) in _ARITHMETIC:
            yield node, f"({source(left)} {_ARITHMETIC[type(arithmetic)]} {source(right)})"
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=int(number)) | ast.Constant(value=float(number)):
            yield node, repr(number + 1)
        case ast.Call(func=ast.Name(id=called)) if called in _SWAPPED_CALLS:
            yield node.func, _SWAPPED_CALLS[called]
        case ast.IfExp(test=test) | ast.If(test=test) | ast.While(test=test) if isinstance(
            test, ast.Name | ast.Attribute | ast.Call | ast.Await
        ):
            yield test, f"(not {source(test)})"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield node, "return None"
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, "pass"
        case ast.Continue():
            yield node, "break"
        case ast.Break():
            yield node, "continue"
        case _:
            return
