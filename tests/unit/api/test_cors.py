"""Which browsers a route is open to."""

from __future__ import annotations

from worker.api.cors import allow_origins


def test_without_origins_a_route_is_open_to_no_browser() -> None:
    """An operator who names none has no front end."""
    assert allow_origins((), ("GET",)) == []
    (opened,) = allow_origins(("https://app.example",), ("GET",))
    assert opened.kwargs["allow_origins"] == ["https://app.example"]
