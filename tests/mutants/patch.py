"""Puts the changed text of one file into the modules of a running process.

A function gets the new text's code. A module's own statement runs again where it assigns names, and whoever has
imported these gets the new value. What else a file does while it is imported cannot be changed afterwards.
"""

from __future__ import annotations

import ast
import gc
import inspect
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal

_MISSING = object()
_ASSIGNMENT = ast.Assign | ast.AnnAssign
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef

# File, line, name and instructions: lambdas may share a line.
_Position = tuple[str, int, str, bytes]


# Functions and statements of SQL are replaced wherever they are used; a value may have been copied before.
Patched = Literal["functions", "values"]


class NotPatchable(Exception):
    """This change needs an import of its own."""


class LiveCode:
    """The modules of a process, as they were imported from a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._functions: defaultdict[_Position, list[FunctionType]] = defaultdict(list)
        gc.unfreeze()  # what is frozen is not listed
        for each in gc.get_objects():
            if type(each) is FunctionType and each.__code__.co_filename.startswith(str(root)):
                self._functions[_position(each.__code__)].append(each)
        self._modules = {
            path: module
            for module in list(sys.modules.values())
            if (path := _file_of(module)) is not None and path.suffix == ".py" and path.is_relative_to(root)
        }
        self._sources = {path: path.read_text(encoding="utf-8") for path in self._modules}

    def patch(self, file: Path) -> Patched:
        """Put in what the file has become; return what was replaced.

        Raises:
            NotPatchable: only a new process can show it.
        """
        if file.suffix == ".sql":
            self._load_statements()
            return "functions"
        if file in self._modules:
            return self._patch_module(file)
        raise NotPatchable(f"{file.name} is not imported")

    def _patch_module(self, file: Path) -> Patched:
        old, new = ast.parse(self._sources[file]), ast.parse(file.read_text(encoding="utf-8"))
        module = self._modules[file]
        for before, after in zip(old.body, new.body, strict=True):
            if ast.dump(before) == ast.dump(after):
                continue
            if isinstance(after, _ASSIGNMENT):
                return self._assign_dependents(file, new, self._assign(module, after))
            if self._change_defaults(file, before, after):
                return "functions"
            if isinstance(before, ast.ClassDef) and isinstance(after, ast.ClassDef):
                for was, becomes in zip(before.body, after.body, strict=True):
                    if isinstance(becomes, ast.AnnAssign) and ast.dump(was) != ast.dump(becomes):
                        return _change_default(getattr(module, after.name), becomes)
        codes = dict(_pairs(_compiled(old, file), _compiled(new, file)))
        if not any(self._functions[code] for code in codes):
            raise NotPatchable("no function that is in use has changed")
        for before_code, after_code in codes.items():
            for function in self._functions[before_code]:
                try:
                    function.__code__ = after_code
                except ValueError as error:  # it uses other names of the function around it
                    raise NotPatchable(str(error)) from None
        changed = {qualified for _, _, qualified, _ in codes if "." not in qualified}
        return self._assign_dependents(file, new, changed)

    def _assign_dependents(self, file: Path, tree: ast.Module, names: set[str]) -> Patched:
        """Run again what a module assigns from changed names, and say whether others may have copied them."""
        for statement in tree.body:
            if isinstance(statement, _ASSIGNMENT) and statement.value and names & {*_names(statement.value)}:
                names |= self._assign(self._modules[file], statement)
        return "values" if any(self._is_used_at_import(name, file) for name in names) else "functions"

    def _change_defaults(self, file: Path, before: ast.stmt, after: ast.stmt) -> bool:
        """Give a function other defaults, if it is these that differ."""
        functions_before, functions_after = ([*_functions(each)] for each in (before, after))
        for was, becomes in zip(functions_before, functions_after, strict=True):
            old, new = was.args, becomes.args
            if ast.dump(old) == ast.dump(new):
                continue
            for position, functions in self._functions.items():
                if position[0] == str(file) and position[2].rpartition(".")[2] == was.name:
                    for function in functions:
                        _replace_defaults(function, old, new)
            return True
        return False

    def _assign(self, module: ModuleType, statement: ast.Assign | ast.AnnAssign) -> set[str]:
        """Run an assignment again; replace the former values of its names wherever they were imported."""
        space = dict(vars(module))
        exec(compile(ast.Module([statement], []), str(module.__file__), "exec"), space)
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = {name for target in targets for name in _names(target)}
        for name in names:
            former = getattr(module, name, _MISSING)
            for each in self._modules.values():
                if vars(each).get(name, _MISSING) is former:
                    setattr(each, name, space[name])
        return names

    def _is_used_at_import(self, name: str, file: Path) -> bool:
        """Whether a value may have been copied: into a default, a decorator, a class or another module's value."""
        return any(
            name in (getattr(node, "id", ""), getattr(node, "attr", "")) and isinstance(node.ctx, ast.Load)
            for path, source in self._sources.items()
            if name in source
            for statement in ast.parse(source).body
            if not (path == file and isinstance(statement, _ASSIGNMENT))
            for node in _at_import(statement)
            if isinstance(node, ast.Name | ast.Attribute)
        )

    def _load_statements(self) -> None:
        """Load all statements of SQL again."""
        for path, source in self._sources.items():
            if "load(__file__" in source:
                for statement in ast.parse(source).body:
                    if isinstance(statement, ast.Assign) and "load(__file__" in ast.unparse(statement):
                        self._assign(self._modules[path], statement)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs while a module is imported: all but the bodies of functions."""
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from _at_import(child)


def _names(node: ast.expr) -> Iterator[str]:
    return (each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def _functions(node: ast.stmt) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (each for each in ast.walk(node) if isinstance(each, _FUNCTION))


def _replace_defaults(function: FunctionType, old: ast.arguments, new: ast.arguments) -> None:
    """Replace the defaults that differ; they are plain constants."""
    values = [*(function.__defaults__ or ())]
    for index, (was, becomes) in enumerate(zip(old.defaults, new.defaults, strict=True)):
        if ast.dump(was) != ast.dump(becomes):
            values[index] = ast.literal_eval(becomes)
    function.__defaults__ = tuple(values) or None
    for argument, was_keyword, keyword in zip(new.kwonlyargs, old.kw_defaults, new.kw_defaults, strict=True):
        if was_keyword and keyword and ast.dump(was_keyword) != ast.dump(keyword):
            (function.__kwdefaults__ or {})[argument.arg] = ast.literal_eval(keyword)


def _change_default(owner: type, field: ast.AnnAssign) -> Patched:
    """Give a dataclass' field another default.

    Raises:
        NotPatchable: this is no dataclass, or no plain default.
    """
    if (
        not is_dataclass(owner)
        or not isinstance(field.value, ast.Constant)
        or not isinstance(field.target, ast.Name)
    ):
        raise NotPatchable(f"{owner.__name__} differs outside of functions")
    init: Any = owner.__init__
    parameters = inspect.signature(init).parameters.values()
    plain = [
        each.name
        for each in parameters
        if each.default is not each.empty and each.kind is not each.KEYWORD_ONLY
    ]
    if field.target.id in plain:
        values = dict(zip(plain, init.__defaults__, strict=True)) | {field.target.id: field.value.value}
        init.__defaults__ = tuple(values.values())
    else:
        init.__kwdefaults__[field.target.id] = field.value.value
    return "functions"


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _position(code: CodeType) -> _Position:
    return code.co_filename, code.co_firstlineno, code.co_qualname, code.co_code


def _compiled(tree: ast.Module, file: Path) -> CodeType:
    return compile(tree, str(file), "exec")


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[_Position, CodeType]]:
    """Yield where the changed functions are, with what has become of them.

    Raises:
        NotPatchable: what runs at import has changed.
    """
    if _own_part(old) != _own_part(new):
        raise NotPatchable(f"{old.co_name} differs outside of functions")
    inner = _inner(new)
    for name, code in _inner(old).items():
        if code.co_flags & inspect.CO_NEWLOCALS:
            yield from _function_pairs(code, inner[name])
        else:
            yield from _pairs(code, inner[name])


def _function_pairs(old: CodeType, new: CodeType) -> Iterator[tuple[_Position, CodeType]]:
    """Yield a changed function, and the changed ones within it, of which some may be in use already."""
    if old != new:
        yield _position(old), new
        inner = _inner(new)
        for name, code in _inner(old).items():
            if name in inner:
                yield from _function_pairs(code, inner[name])


def _inner(code: CodeType) -> Mapping[tuple[str, int], CodeType]:
    seen: Counter[str] = Counter()
    found = {}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found[each.co_name, seen[each.co_name]] = each
            seen[each.co_name] += 1
    return found


def _own_part(code: CodeType) -> tuple[object, ...]:
    constants = [repr(each) for each in code.co_consts if not isinstance(each, CodeType)]
    return code.co_code, code.co_names, constants, list(_inner(code))
