"""What an app of somebody else's may send to the tasks by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import Retry
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker import tasks
from worker.process import Process
from worker.settings import load


@pytest.fixture
def process(environment: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """What all tasks share, on an empty vault."""
    own = Process()
    monkeypatch.setattr(tasks, "process", own)
    yield own
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
    ("refresh_token", {"user_id": "u1", "connection": "custom", "account": 7}),
    ("refresh_token", {"user_id": "u1", "connection": "custom", "force": "false"}),
    ("refresh_token", {"user_id": "u1", "connection": "custom", "min_ttl": "60"}),
    ("refresh_token", {"user_id": "u" * 5_000_000, "connection": "custom"}),
    ("sync_user", {"user_id": "u" * 1025}),
    ("sync_user", {"user_id": None}),
    ("sync_user", {"user_id": 7}),
    ("sync_user", {"user_id": "u1\0"}),
    ("sync_connection", {"connection": None}),
    ("sync_connection", {"connection": "custom\0"}),
    ("sync_all", {"full": "false"}),
]


def test_whoever_writes_to_redis_runs_no_code(environment: object) -> None:
    """Messages are data, and none commands a worker; one that a worker was killed over comes again."""
    from worker.app import make_app

    conf = make_app(load()).conf
    assert (conf.accept_content, conf.task_serializer, conf.result_serializer) == (["json"], "json", "json")
    assert conf.worker_enable_remote_control is False
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, True)


@pytest.mark.parametrize(("task", "arguments"), WRONG)
def test_a_mistake_is_told_as_one(process: Process, task: str, arguments: dict[str, Any]) -> None:
    """What can be no name, no number and no truth is refused by its argument, and blames nobody else."""
    with pytest.raises(ValueError, match=r"is no name|is a number|is true or false"):
        getattr(tasks, task)(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"user_id": "u1"}, {"user_id": "", "connection": "c"}, {"user_id": "u1", "admin_connection": "c"}],
)
def test_neither_user_nor_admin(process: Process, arguments: dict[str, Any]) -> None:
    """Either a user with a connection is named, or a connection alone."""
    with pytest.raises(ValueError, match="give user_id and connection, or admin_connection alone"):
        tasks.refresh_token(**arguments)


def test_all_connections_are_in_use(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no connection to Postgres gets free in time, a task fails as one that may be tried again, and a sync is."""
    runtime = process.runtime()
    monkeypatch.setattr(runtime.vault.engine.pool, "_timeout", 0.2)

    async def taken() -> list[AsyncConnection]:
        return [await runtime.vault.engine.connect() for _ in range(20)]

    async def release(held: list[AsyncConnection]) -> None:
        for connection in held:
            await connection.close()

    held = process.run(taken)
    try:
        with pytest.raises(TemporarilyUnavailable, match="connections to Postgres are in use"):
            tasks.refresh_token(user_id="u1", connection="custom")
        with pytest.raises(Retry):
            tasks.sync_user(user_id="u1")
        tasks.renew_due()  # the next tick looks again
    finally:
        process.run(lambda: release(held))


def test_workers_take_from_the_redis_they_are_told(
    environment: object, redis_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of Celery's that another application left in the environment lead workers and beat nowhere else."""
    from worker.app import make_app

    for name in ("BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND"):
        monkeypatch.setenv(f"CELERY_{name}", "redis://elsewhere.example/0")
    conf = make_app(load()).conf
    urls = {conf.broker_url, conf.broker_read_url, conf.broker_write_url, conf.result_backend}
    assert urls == {redis_url.reveal()}
