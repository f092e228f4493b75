"""Real processes that die or stop at named points.

One process imports everything and forks each of the others, so that a killed worker is back in a moment. When it ends,
they end.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self

from tests.faults.journal import Journal
from tests.faults.plants import PLANTS
from tests.faults.points import Points, compress

_real_time = time.time
_PR_SET_PDEATHSIG = 1  # linux/prctl.h; see prctl(2)


def _celery(arguments: dict[str, Any]) -> None:
    from worker.app import app

    control = Path(os.environ["FAULTS_CONTROL"])
    for name in os.environ["FAULTS_PLANTS"].split():
        PLANTS[name](control)
    Points(control, Journal(control.with_name("journal"), str(os.getpid()))).attach()
    if skew := arguments.get("skew", 0.0):
        _skewed(skew)
    app.start(argv=arguments["argv"])


def _skewed(by: float) -> None:
    """Skew this process's clock by these seconds, Celery's dates too."""
    from celery.app import base
    from celery.worker import request

    class Off(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(_real_time() + by, tz)

    time.time = lambda: _real_time() + by
    base.datetime = request.datetime = Off


def _reader(arguments: dict[str, Any]) -> None:
    """Read grants at random, and note which tokens had expired."""
    from emulators.client import Emulation
    from token_vault import TokenVault

    emulation, chance = Emulation.at(arguments["emulation"]), random.Random(arguments["seed"])
    people: list[list[str]] = json.loads(Path(arguments["people"]).read_text())
    with TokenVault.from_env() as vault, Path(arguments["reads"]).open("a") as reads:
        while True:
            (user_id, connection), began, before = chance.choice(people), _real_time(), emulation.now()
            min_ttl = chance.choice([None, None, None, arguments["life"] * 0.45])
            try:
                token = vault.user_token(user_id, connection, min_ttl=min_ttl, wait=1)
            except Exception as error:  # whatever it is, it is no expired token
                line: dict[str, Any] = {"refused": type(error).__name__}
            else:
                held = emulation.holder(token.value)
                ended = held is None or (held["expires_at"] is not None and held["expires_at"] <= before)
                line = {"served": user_id, "expired": ended, "held": held if ended else None}
            line |= {"began": began, "ended": _real_time()}
            reads.write(json.dumps(line) + "\n")
            reads.flush()
            time.sleep(arguments["pause"])


def _crowd(arguments: dict[str, Any]) -> None:
    """Have 64 refreshers want one grant at once."""
    import asyncio

    people = json.loads(Path(arguments["people"]).read_text())
    with Path(arguments["done"]).open("a", buffering=1) as done:
        asyncio.run(_rounds(arguments | {"people": people, "played": lambda user: done.write(f"{user}\n")}))


async def _rounds(arguments: dict[str, Any]) -> None:
    import asyncio

    from sqlalchemy import text

    from token_vault import AsyncTokenVault
    from worker import settings
    from worker.runtime import database_url, open_runtime
    from worker.vault.vault import open_vault

    people, played = arguments["people"], arguments["played"]
    room, min_ttl = asyncio.Semaphore(arguments["beside"]), arguments["life"] * 0.45
    due = text("UPDATE grants SET due_at = now() WHERE user_id = :user_id AND claim_owner IS NULL")
    untouched = text("""
        SELECT 1 FROM grants
        WHERE user_id = :user_id AND refresh_version = 1 AND in_doubt_since IS NULL AND state = 'active'
    """)
    known = settings.load()
    async with (
        open_runtime(known, connections=16) as runtime,
        AsyncTokenVault.from_env() as reader,
        # Beside the crowd's connections: what a round has to know must not wait behind those who play it.
        open_vault(database_url(known), known.access_keys, known.refresh_keys, connections=2) as own,
    ):

        async def rush(user_id: str, connection: str) -> None:
            await own.run(due, {"user_id": user_id})
            on_demand = [
                runtime.on_demand.refresh(
                    tenants=runtime.tenants, user_id=user_id, connection=connection, min_ttl=min_ttl
                )
                for _ in range(30)
            ]
            readers = [reader.user_token(user_id, connection, min_ttl=min_ttl, wait=2) for _ in range(30)]
            batches = [runtime.engine.renew_due(runtime.tenants) for _ in range(4)]
            crowd: list[Any] = [*on_demand, *readers, *batches]
            random.shuffle(crowd)
            await asyncio.gather(*crowd, return_exceptions=True)

        async def one_round(user_id: str, connection: str) -> None:
            async with room:
                await rush(user_id, connection)
                # Where calls that came too late have opened the connection's circuit, all are told to come again.
                while await own.run(untouched, {"user_id": user_id}):
                    await asyncio.sleep(0.2)
                    await rush(user_id, connection)
            played(user_id)

        await asyncio.gather(*(one_round(*who) for who in people))


_ROLES: dict[str, Callable[[dict[str, Any]], None]] = {
    "celery": _celery,
    "reader": _reader,
    "crowd": _crowd,
}


def main() -> None:
    """Fork a process per JSON line; print its id."""

    import token_vault.client  # noqa: F401

    compress(float(os.environ["FAULTS_SCALE"]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for them
    for line in sys.stdin:
        arguments = json.loads(line)
        sys.stdout.flush()
        if pid := os.fork():
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setsid()
        log = os.open(arguments["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            _ROLES[arguments["role"]](arguments)
        except BaseException:
            traceback.print_exc()  # into its log
        finally:
            os._exit(1)


if __name__ == "__main__":
    main()
