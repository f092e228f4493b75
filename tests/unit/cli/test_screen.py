"""What `up` draws on a small terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from worker.cli.up.screen import draw

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def connection(name: str, **more: Any) -> dict[str, Any]:
    return {
        "tenant": "acme", "name": name, "provider": "google", "grants": {"active": 7}, "next_expiry": NOW + timedelta(minutes=5),
        "problem": None, "problem_message": None, "without_access_token": 0, "circuit_code": None, "circuit_opened_at": None,
        "circuit_until": None,
    } | more  # fmt: skip


def drawn(connections: list[dict[str, Any]], *, height: int = 24) -> list[str]:
    """The lines that a terminal of 80 columns gets."""
    status = {
        "pauses": [], "grants": {"active": 200, "ended": 3}, "late": {"grants": 3, "behind": timedelta(seconds=90)}, "held_back": {},
        "last_sync": [], "renewals": {"per_minute": 4, "last_hour": {"renewed": 9}}, "connections": connections,
    }  # fmt: skip
    written = io.StringIO()
    console = Console(file=written, width=80, height=height)
    console.print(draw(console, status, [], "a token: token-vault get", NOW))
    return written.getvalue().splitlines()


@pytest.mark.parametrize("height", [14, 24, 50])
def test_what_is_in_trouble_comes_first_and_the_rest_is_counted(height: int) -> None:
    """Whatever the terminal's height, its lines are enough, and no connection is passed over in silence."""
    fine = [connection(f"fine-{number}") for number in range(60)]
    broken = connection("refused", circuit_code="invalid_client", circuit_opened_at=NOW, circuit_until=NOW)
    lines = drawn([*fine, connection("ended", grants={"ended": 3}), broken], height=height)
    assert len(lines) <= height
    assert "renewal is behind: 3 grants are late, by up to 90 s" in lines
    head = next(number for number, line in enumerate(lines) if line.startswith("connection "))
    assert [line.split()[0] for line in lines[head + 1 :] if line[0] not in " …"][:3] == [
        "ended",
        "refused",
        "fine-0",
    ]
    shown = sum(line.startswith(("fine-", "ended", "refused")) for line in lines)
    assert lines[-1] == f"… and {62 - shown} more"


def test_trouble_that_does_not_fit_is_counted_too() -> None:
    """Where even the connections in trouble are too many, the last line says how many of the rest are."""
    lines = drawn([connection(f"broken-{number}", problem="no_client_secret") for number in range(40)])
    shown = sum(line.startswith("broken-") for line in lines)
    assert lines[-1] == f"… and {40 - shown} more, {40 - shown} of them in trouble"


def test_what_fits_is_shown_whole() -> None:
    """A few connections are all there, and nothing is said of more."""
    lines = drawn([connection("a"), connection("b")])
    assert [line.split()[0] for line in lines[-2:]] == ["a", "b"]
