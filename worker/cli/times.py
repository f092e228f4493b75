"""Times as options take them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_SPAN_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_past(value: str) -> datetime:
    """Parse a time, or a span back from now: ``7d``."""
    return _parse(value, -1)


def parse_future(value: str) -> datetime:
    """Parse a time, or a span from now on: ``2h``."""
    return _parse(value, 1)


def _parse(value: str, direction: int) -> datetime:
    """Parse it; UTC where a time names no zone.

    Raises:
        typer.BadParameter: it is neither; typer names the option.
    """
    try:
        if span := re.fullmatch(r"(\d{1,9})([smhd])", value):
            return datetime.now(UTC) + direction * timedelta(**{_SPAN_UNITS[span[2]]: int(span[1])})
        found = datetime.fromisoformat(value)
    except (ValueError, OverflowError):  # OverflowError: a span reaches beyond all calendars
        raise typer.BadParameter(
            "give a time like 2026-01-31T12:00Z, or a span like 30m, 24h or 7d"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
