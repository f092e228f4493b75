"""What ``up`` shows: a live table, or lines.

It goes on where nobody sees its output any more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.cli import output
from worker.cli.status import connections_table, describe_lateness, describe_pauses, describe_run
from worker.cli.up.processes import Child
from worker.plural import pluralize

STATUS_LINE_SECONDS = 10.0  # between lines where nothing changes

Status = Mapping[str, Any]


class Screen(Protocol):
    """Where ``up`` reports events and shows the vault's status."""

    def __enter__(self) -> Self:
        """Begin showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End showing."""

    def report(self, text: str) -> None:
        """Say one thing that happened."""

    def hint(self, text: str) -> None:
        """Say what the operator may try in another terminal."""

    def show(self, status: Status, children: Sequence[Child]) -> None:
        """Show the vault and the processes, about once a second."""


def choose_screen(*, as_json: bool) -> Screen:
    """Return the screen that fits standard output."""
    return LiveScreen() if sys.stdout.isatty() and not as_json else LineScreen(as_json=as_json)


class LiveScreen:
    """A table redrawn every second; reports scroll by above it."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._hint = ""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with output.tolerate_closed_output():
            self._live.stop()

    def report(self, text: str) -> None:
        """Print a line above the table."""
        at = datetime.now().astimezone().strftime("%H:%M:%S")
        with output.tolerate_closed_output():
            self._console.print(Text.assemble((f"{at}  ", "dim"), output.printable(text)))

    def hint(self, text: str) -> None:
        """Keep a line at the top of the table."""
        self._hint = text

    def show(self, status: Status, children: Sequence[Child]) -> None:
        """Draw the table."""
        with output.tolerate_closed_output():
            drawn = draw(self._console, status, children, self._hint, datetime.now(UTC))
            self._live.update(drawn, refresh=True)


def draw(console: Console, status: Status, children: Sequence[Child], hint: str, now: datetime) -> Group:
    """Return what fits the terminal: connections in trouble first.

    How many more there are is said below them.
    """
    above = [
        "", Text(output.printable(hint), style="bold"),
        *(Text(output.printable(said)) for said in (*summary(status, now), *processes(children))), "",
    ]  # fmt: skip
    found = sorted(status["connections"], key=lambda row: not _is_troubled(row))  # else in their own order
    shown = min(len(found), console.height)
    while True:
        parts = [*above, output.rich_table(*connections_table(found[:shown], now))]
        if left := found[shown:]:
            parts.append(Text(_describe_rest(left), style="dim"))
        if shown <= 1 or len(console.render_lines(Group(*parts))) <= console.height:
            return Group(*parts)
        shown -= 1


def _is_troubled(row: Mapping[str, Any]) -> bool:
    return bool(
        row["circuit_code"] or row["problem"] or row["without_access_token"] or row["grants"].get("ended")
    )


def _describe_rest(left: Sequence[Mapping[str, Any]]) -> str:
    troubled = sum(map(_is_troubled, left))
    return f"… and {len(left)} more" + (f", {troubled} of them in trouble" if troubled else "")


class LineScreen:
    """Lines on standard output.

    Reports at once, and the status every few seconds.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._shown_at = -STATUS_LINE_SECONDS
        self._known_troubles: dict[str, str] = {}
        self._reported: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End showing: there is nothing to end."""

    def report(self, text: str) -> None:
        """Print a line."""
        self._print({"event": text}, text)

    def hint(self, text: str) -> None:
        """Print a line."""
        self.report(text)

    def show(self, status: Status, children: Sequence[Child]) -> None:
        """Print what changed, and the whole every few seconds."""
        now = datetime.now(UTC)
        for name, trouble in _troubles(status).items():
            if self._known_troubles.get(name, "") != trouble:
                self.report(f"{name}: {trouble or 'recovered'}")
            self._known_troubles[name] = trouble
        if time.monotonic() - self._shown_at < STATUS_LINE_SECONDS:
            return
        self._shown_at = time.monotonic()
        states = [_state(child) for child in children]
        news = [line for line in troubles(children) if line not in self._reported]
        self._reported = troubles(children)
        self._print({"status": status, "processes": states}, "; ".join((*summary(status, now), *news)))

    def _print(self, document: dict[str, Any], text: str) -> None:
        if self._json:
            said = output.json_line({"at": datetime.now(UTC)} | document)
        else:
            at = datetime.now().astimezone().strftime("%H:%M:%S")
            said = f"{at}  {output.printable(text)}"
        with output.tolerate_closed_output():
            sys.stdout.write(said + "\n")
            sys.stdout.flush()


def summary(status: Status, now: datetime) -> list[str]:
    """Write how the vault is, in a few lines."""
    syncs = [f"last sync of {run['tenant']} {describe_run(run, now)}" for run in status["last_sync"]]
    renewals = status["renewals"]
    last_hour = output.format_value(renewals["last_hour"]) or "none"
    return [
        *describe_pauses(status),
        *([describe_lateness(status)] if status["late"]["grants"] or status["held_back"] else []),
        f"grants: {output.format_value(status['grants']) or 'none yet'}",
        f"renewed in the last full minute: {renewals['per_minute']}; renewals in the last hour: {last_hour}",
        *(syncs or ["no sync yet"]),
    ]


def processes(children: Sequence[Child]) -> list[str]:
    """Describe the child processes and their last troubles."""
    return ["processes: " + ", ".join(_describe_child(child) for child in children), *troubles(children)]


def troubles(children: Sequence[Child]) -> list[str]:
    """Describe the last trouble of each child process."""
    return [f"last of {child.name}: {child.log.trouble}" for child in children if child.log.trouble]


def _describe_child(child: Child) -> str:
    counts = {"restart": child.restarts, "error": child.log.errors, "warning": child.log.warnings}
    told = ", ".join(pluralize(count, name) for name, count in counts.items() if count)
    return f"{child.name} {'runs' if child.running else 'is down'}" + (f" ({told})" if told else "")


def _state(child: Child) -> dict[str, Any]:
    return {
        "name": child.name, "running": child.running, "restarts": child.restarts, "errors": child.log.errors,
        "warnings": child.log.warnings, "last_trouble": child.log.trouble,
    }  # fmt: skip


def _troubles(status: Status) -> dict[str, str]:
    """Return each connection's trouble; empty where there is none."""
    several = len({row["tenant"] for row in status["connections"]}) > 1
    return {
        f"connection {row['name']}" + (f" of {row['tenant']}" if several else ""): row["circuit_code"]
        or row["problem"]
        or ""
        for row in status["connections"]
    }
