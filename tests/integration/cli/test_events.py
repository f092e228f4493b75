"""``token-vault events``, and how doctor, status and beat's task see events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu.pools
import pytest

from emulators.client import Emulation
from tests.support.command_log import log_as_commands
from tests.support.webhook_receiver import SECRET, Receiver, receiving
from worker import tasks
from worker.cli import main
from worker.process import Process
from worker.runtime import open_runtime
from worker.settings import EventKind, load
from worker.vault import outbox
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def receiver(environment: Path, tenant: Emulation) -> Iterator[Receiver]:
    """A receiver that the settings name."""
    with receiving() as made:
        environment.write_text(
            f'{tenant.config_toml()}\n[webhooks.support]\nurl = "{made.url}"\nsecret = "{SECRET}"\n',
            encoding="utf-8",
        )
        yield made


@pytest.fixture
def run(receiver: Receiver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    log_as_commands(monkeypatch)
    kombu.pools.reset()  # type: ignore[no-untyped-call]  # connections to Redis that another test has ended

    def ran(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()  # what workers logged meanwhile
        code = main(arguments)
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        return code, captured.out + captured.err

    return ran


def deliver() -> None:
    async def work() -> None:
        async with open_runtime(load()) as runtime:
            await runtime.dispatcher.deliver_due(runtime.tenants)

    asyncio.run(work())


def tell(*told: dict[str, Any]) -> None:
    async def work() -> None:
        async with open_runtime(load()) as runtime, runtime.vault.engine.begin() as connection:
            for columns in told:
                await outbox.emit(connection, **({"tenant": "default"} | columns))

    asyncio.run(work())


@pytest.fixture
def three(receiver: Receiver) -> None:
    """Three events, one after the other."""
    tell(
        {
            "kind": EventKind.REAUTHORIZATION_REQUIRED,
            "name": "g",
            "user_id": "g|1",
            "reason": "invalid_grant",
        },
        {"kind": EventKind.BROKEN, "name": "b", "state": "blocked", "reason": "invalid_client"},
        {"kind": EventKind.HEALED, "name": "g", "user_id": "g|1"},
    )


def listed(run: Run, *options: str) -> list[str]:
    code, out = run("events", "--json", *options)
    assert code == 0, out
    return [event["kind"] for event in json.loads(out)["events"]]


def test_events_are_listed_newest_first(run: Run, three: None) -> None:
    """All of them, or those of a kind, a user, a connection or a time."""
    assert listed(run) == ["grant.healed", "connection.broken", "grant.reauthorization_required"]
    assert listed(run, "--kind", "connection.broken") == ["connection.broken"]
    assert listed(run, "--user", "g|1") == ["grant.healed", "grant.reauthorization_required"]
    assert listed(run, "--connection", "b") == ["connection.broken"]
    assert listed(run, "--limit", "1") == ["grant.healed"]
    assert len(listed(run, "--since", "1h")) == 3
    assert listed(run, "--since", "2999-01-01") == []
    code, out = run("events")
    assert code == 0
    assert "invalid_grant" in out
    assert "evt_" in out
    assert run("events", "--kind", "grant.dead")[0] == 2
    assert run("events", "--since", "yesterday")[0] == 2


def test_a_span_longer_than_all_time_is_refused_in_words(run: Run) -> None:
    """What was typed is wrong, and not the program."""
    code, out = run("events", "--since", "999999999d")
    assert (code, "unforeseen" in out) == (2, False), out


def test_what_failed_is_listed_and_sent_again(run: Run, three: None, receiver: Receiver) -> None:
    """A receiver that gave up gets the same events, under the same ids, when the operator says so."""
    receiver.status = 410
    assert listed(run, "--undelivered") == []
    deliver()
    assert len(listed(run, "--failed")) == len(listed(run, "--undelivered")) == 3
    assert json.loads(run("status", "--json")[1])["events"] == {"undelivered": 0, "failed": 3}
    assert "failed 3" in run("status")[1]
    assert "does not take events (status 410" in run("doctor")[1]
    receiver.status = 200
    assert run("events", "resend", "--failed") == (0, "3 deliveries are put up again\n")
    deliver()
    assert listed(run, "--undelivered") == []
    assert len(receiver.ids) == 6
    assert len(set(receiver.ids)) == 3


def test_single_events_are_sent_again(run: Run, three: None, receiver: Receiver) -> None:
    """A delivered event may be sent again by its id; one that nobody knows is named."""
    deliver()
    first = receiver.ids[0]
    assert run("events", "resend", first) == (0, "1 delivery is put up again\n")
    deliver()
    assert receiver.ids.count(first) == 2
    code, out = run("events", "resend", first, "evt_" + "0" * 32)
    assert code == 1
    assert "evt_" + "0" * 32 in out
    assert run("events", "resend", "nonsense")[0] == 2
    assert run("events", "resend")[0] == 2
    assert run("events", "resend", first, "--failed")[0] == 2


def test_a_forgotten_user_cannot_be_told_again(run: Run, receiver: Receiver) -> None:
    """Once its id is blank, the event is listed without it and not sent any more."""
    tell({"kind": EventKind.FORGOTTEN, "user_id": "g|1"})
    deliver()
    assert "g|1" not in run("events", "--json")[1]
    assert run("events", "resend", receiver.ids[0])[0] == 1
    assert len(receiver.ids) == 1


def test_without_a_webhook_nothing_is_sent_again(
    run: Run, three: None, environment: Path, tenant: Emulation
) -> None:
    """The operator is told what to set; events are listed all the same."""
    environment.write_text(tenant.config_toml(), encoding="utf-8")
    assert len(listed(run)) == 3
    code, out = run("events", "resend", "--failed")
    assert code == 2
    assert "[webhooks.NAME]" in out


def test_doctor_knows_webhooks(run: Run, receiver: Receiver) -> None:
    """One that is set and takes what comes is well."""
    assert "webhook support" in run("doctor")[1]


async def test_beats_task_delivers(
    receiver: Receiver, vault: Vault, monkeypatch: pytest.MonkeyPatch, redis_url: object
) -> None:
    """The task takes no argument and gives no result: it looks."""
    process = Process()
    monkeypatch.setattr(tasks, "process", process)
    async with vault.engine.begin() as connection:
        await outbox.emit(connection, EventKind.BROKEN, tenant="default", name="c")
    try:
        assert await asyncio.to_thread(tasks.deliver_events.run) is None
    finally:
        loop, thread = process._loop, process._thread
        process.close()
        if loop is not None and thread is not None:
            await asyncio.to_thread(thread.join, 10)
            loop.close()
    assert receiver.kinds == ["connection.broken"]


def test_beat_looks_for_events(receiver: Receiver) -> None:
    """Beat's tick names the task, on the least urgent queue, carries nothing, and is dropped when it is late."""
    from worker.app import make_app
    from worker.task_messages import CLOCK_SKEW_SECONDS

    app = make_app(load())
    tick = app.conf.beat_schedule["events"]
    assert tick == {
        "task": tasks.deliver_events.name,
        "schedule": 5,
        "options": {"expires": 5 + CLOCK_SKEW_SECONDS},
    }
    assert app.conf.task_routes[tick["task"]] == {"queue": "sync"}
