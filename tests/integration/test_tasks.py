"""What an app of somebody else's may send to the tasks by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from worker import tasks
from worker.process import Process
from worker.runtime import Runtime


@pytest.fixture
def process(environment: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What all tasks share, on an empty vault."""
    own = Process()
    monkeypatch.setattr(tasks, "_process", own)
    yield
    own.close()


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("refresh_token", {"user_id": 7, "connection": "custom"}),
    ("refresh_token", {"user_id": {"id": "u1"}, "connection": "custom"}),
    ("refresh_token", {"user_id": ["u1"], "connection": "custom"}),
    ("refresh_token", {"user_id": "u1", "connection": 7}),
    ("refresh_token", {"user_id": "u1\0", "connection": "custom"}),
    ("refresh_token", {"user_id": "u\ud800", "connection": "custom"}),
    ("refresh_token", {"admin_connection": ["custom"]}),
    ("refresh_token", {"user_id": "u1", "connection": "custom", "tenant": ["default"]}),
    ("refresh_token", {"user_id": "u1", "connection": "custom", "force": "false"}),
    ("refresh_token", {"user_id": "u1", "connection": "custom", "min_ttl": "60"}),
    ("sync_user", {"user_id": None}),
    ("sync_user", {"user_id": 7}),
    ("sync_user", {"user_id": "u1\0"}),
    ("sync_connection", {"connection": None}),
    ("sync_connection", {"connection": "custom\0"}),
    ("sync_all", {"full": "false"}),
]


@pytest.mark.parametrize(("task", "arguments"), WRONG)
def test_a_mistake_is_told_as_one(process: Runtime, task: str, arguments: dict[str, Any]) -> None:
    """What can be no name, no number and no truth is refused by its argument, and blames nobody else."""
    with pytest.raises(ValueError, match=r"is no name|is a number|is true or false"):
        getattr(tasks, task)(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"user_id": "u1"}, {"user_id": "", "connection": "c"}, {"user_id": "u1", "admin_connection": "c"}],
)
def test_neither_user_nor_admin(process: Runtime, arguments: dict[str, Any]) -> None:
    """Either a user with a connection is named, or a connection alone."""
    with pytest.raises(ValueError, match="give user_id and connection, or admin_connection alone"):
        tasks.refresh_token(**arguments)
