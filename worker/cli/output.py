"""What commands print.

JSON for machines, tables for people, one line for an error.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from token_vault.errors import VaultError
from worker.cli.exit_codes import ExitCode

_BROKEN = ("fail", "ended", "expired", "blocked", "reauthorization_required")
_WORTH_A_LOOK = ("warn", "in_doubt", "unrenewable", "paused")


def print_line(text: str) -> None:
    """Print a line to standard output."""
    _echo(printable(text))


def print_notice(text: str) -> None:
    """Print a line to standard error, under the program's name."""
    _echo(f"token-vault: {printable(text)}", err=True)


def print_raw(text: str) -> None:
    """Print a line of a machine's format as it is."""
    _echo(text)


def print_json(value: object) -> None:
    """Print one JSON document; times in ISO 8601, UTC."""
    _echo(json.dumps(value, default=_plain, indent=2, ensure_ascii=False))


def _echo(text: str, *, err: bool = False) -> None:
    """Print to a reader who may be gone, like ``head``.

    What the command does, and its exit code, do not depend on who listens.

    Raises:
        VaultError: it is lost, as on a full disk.
    """
    try:
        typer.echo(text, err=err)
    except OSError as error:
        drop_output(err=err)  # it stays closed, or full
        if error.errno not in (errno.EPIPE, errno.EIO) and not err:
            raise VaultError(
                f"standard output cannot be written ({error.strerror}): what was printed is lost or cut off"
            ) from None


def drop_output(*, err: bool = False) -> None:
    """Drop what is buffered, and what is yet to come."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())


def json_line(value: object) -> str:
    """Write a JSON document in one line."""
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, frozenset | set | tuple):
        return sorted(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not shown")


def print_statements(statements: Sequence[str]) -> None:
    """Print SQL for somebody with more rights."""
    if statements:
        print_notice("what follows is left to be run, by a role that may:")
    for statement in statements:
        _echo(printable(statement.rstrip(";")) + ";", err=True)


def report_error(error: VaultError, *, as_json: bool) -> ExitCode:
    """Print what went wrong; return its exit code."""
    for problem in getattr(error, "problems", (error,)):
        print_notice(str(problem))
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": str(error)} | vars(error)})
    return ExitCode.of(error)


@contextmanager
def tolerate_closed_output() -> Iterator[None]:
    """Ignore a closed or full standard output within the block.

    The reader of a pipe may end, a terminal may close, a disk may be full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):  # it stays closed: drop what is buffered
            drop_output()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, widths: Sequence[int] = ()
) -> Sequence[int]:
    """Print a table: styled on a terminal, else plain columns.

    Plain columns are never cut.

    Args:
        columns: their names.
        rows: as many values each.
        widths: of the page before, of which this is the next one; returned by the call that printed it.
    """
    written = [[format_value(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich_table(columns, written))
        return widths or [0] * len(columns)
    heads = [columns] if any(columns) and not widths else []
    widths = widths or [max(map(len, column)) for column in zip(columns, *written, strict=True)]
    for row in (*heads, *written):
        _echo("  ".join(map(str.ljust, row, widths)).rstrip())
    return widths


def with_tenant_column(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    found: Sequence[Mapping[str, Any]],
    tenants: Collection[str],
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Add a tenant column where there are several tenants.

    Their connections and users may have the same names.
    """
    if len(tenants) < 2:
        return columns, rows
    return ["tenant", *columns], [[of["tenant"], *row] for of, row in zip(found, rows, strict=True)]


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """Return a rich table; its cells are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=any(columns), header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, style=_style(name, cell)) for name, cell in zip(columns, row, strict=True)))
    return made


def _style(column: str, cell: str) -> str:
    """Return the colour of a state; rich knows ``NO_COLOR``."""
    if cell in _BROKEN or (column == "trouble" and cell):
        return "bold red"
    return "yellow" if cell in _WORTH_A_LOOK else ""


def format_value(value: object) -> str:
    """Write a value for people."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case Mapping():
            return ", ".join(f"{name} {count}" for name, count in value.items())
        case list() | tuple():
            return " ".join(map(format_value, value))
        case _:
            return printable(str(value))


def printable(said: str) -> str:
    """Replace unprintable characters.

    Ids and names come from outside, and could steer a terminal.
    """
    return "".join(character if character.isprintable() else "�" for character in said)


def relative_time(moment: datetime | None, now: datetime) -> str:
    """Format a time relative to now: ``in 12 s``."""
    if moment is None:
        return ""
    seconds = (moment - now).total_seconds()
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (0, "s"))
        if abs(seconds) >= 2 * size
    )
    amount = f"{abs(seconds) / (size or 1):.0f} {unit}"
    return f"in {amount}" if seconds >= 0 else f"{amount} ago"


@contextmanager
def progress_bar(doing: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar where standard error is a terminal.

    Yields a function to call with the numbers done and in total.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("ends in"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def relative_path(where: Path) -> str:
    """Format a path relative to the working directory.

    A path that does not lie below it stays absolute.
    """
    return str(where.relative_to(Path.cwd())) if where.is_relative_to(Path.cwd()) else str(where)


def command_line(*arguments: str) -> str:
    """Format a command as another terminal takes it."""
    program = Path(sys.argv[0])
    found = shutil.which("token-vault")
    if found is not None and Path(found).resolve() == program.resolve():
        name = "token-vault"
    elif program.name == "token-vault":
        name = relative_path(program)
    else:
        name = ".venv/bin/token-vault" if Path(".venv/bin/token-vault").exists() else "token-vault"
    home = os.environ.get("TOKEN_VAULT_HOME")
    prefix = f"TOKEN_VAULT_HOME={shlex.quote(home)} " if home else ""
    return prefix + shlex.join([name, *arguments])
