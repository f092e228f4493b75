"""Real processes that die or stop at named points.

One process imports everything and forks each of the others, so that a killed worker is back in a moment. The
production code has no hooks: the functions that are the steps of a renewal are wrapped here, in that process alone.
A point is armed by a file of its name in the control folder; whoever reaches it first takes the file away.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self

POINTS = (
    "claimed", "opened", "sent", "answered", "committed", "releasing", "released", "counting", "counted",
    "spooling", "spooled", "replaying", "replayed", "taking", "taken",
)  # fmt: skip

_note: ContextVar[str] = ContextVar("note", default="")
_real_time = time.time


class Points:
    """The points of one process."""

    def __init__(self, control: Path) -> None:
        self._control = control

    def reached(self, point: str) -> None:
        """Do what the point is armed with, if it is."""
        taken = self._control / f".{point}.{os.getpid()}"
        try:
            (self._control / point).rename(taken)
        except FileNotFoundError:
            return
        number = int(taken.read_text())
        if number == signal.SIGSTOP:
            (self._control / f"stopped.{os.getpid()}").touch()
        os.kill(os.getpid(), number)

    def committed(self, user_id: str, connection: str, access: str) -> None:
        """Note when a pair was committed, if that is measured."""
        if (self._control / "measuring").exists():
            from emulators.client import digest

            line = {"user": user_id, "connection": connection, "access": digest(access), "at": _real_time()}
            with (self._control / f"commits.{os.getpid()}").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def around(self, room: Any, name: str, before: str | None = None, after: str | None = None) -> None:
        """Wrap a coroutine function with a point before and after."""
        inner = getattr(room, name)

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.reached(before)
            result = await inner(*args, **kwargs)
            if after and (result or inner.__name__ == "_count"):
                self.reached(after)
            return result

        setattr(room, name, wrapped)

    def attach(self) -> None:
        """Wrap the steps."""
        from worker.renewal import attempt, commit, engine
        from worker.vault import claims
        from worker.vault.claims.spool import Spool
        from worker.vault.ingest import ingest
        from worker.vault.status import renewal_counts

        self.around(claims, "claim_due", after="claimed")
        self.around(claims, "claim_one", after="claimed")
        self.around(claims, "release", before="releasing", after="released")
        self.around(renewal_counts, "count_renewals", before="counting")
        self.around(engine.RenewalEngine, "_count", after="counted")
        self.around(commit.AnswerCommitter, "_replay", after="replayed")
        self.around(ingest, "ingest", before="taking", after="taken")
        self._attach_call(attempt, claims)
        self._attach_commit(claims)
        self._attach_spool(Spool)

    def _attach_call(self, attempt: Any, claims: Any) -> None:
        decrypt, sending = claims.decrypt_refresh_token, attempt.send

        def decrypt_refresh_token(vault: Any, claim: Any) -> Any:
            token = decrypt(vault, claim)
            # A dead grant's token is presented by force alone, when the loss has been told.
            dead = claim.state == "reauthorization_required"
            _note.set("forced" if dead else "in doubt" if claim.in_doubt_since else "")
            self.reached("opened")
            return token

        async def send(http: Any, request: Any, *rest: Any) -> Any:
            import asyncio

            noted = {**request.headers, "X-Note": _note.get()}
            call = asyncio.ensure_future(sending(http, replace(request, headers=noted), *rest))
            await asyncio.wait({call}, timeout=0.002)  # by now it is on its way
            self.reached("sent")
            answer = await call
            self.reached("answered")
            return answer

        claims.decrypt_refresh_token, attempt.send = decrypt_refresh_token, send

    def _attach_commit(self, claims: Any) -> None:
        storing = claims.store_pair

        async def store_pair(vault: Any, claim: Any, pair: Any, **rest: Any) -> Any:
            stored = await storing(vault, claim, pair, **rest)
            self.committed(claim.key.user_id, claim.key.connection, pair.access.reveal())
            self.reached("committed")
            return stored

        claims.store_pair = store_pair

    def _attach_spool(self, spool: Any) -> None:
        publish, save, read = spool._publish, spool.save, spool.read

        def _publish(*args: Any) -> Any:
            self.reached("spooling")
            return publish(*args)

        def saved(*args: Any, **rest: Any) -> Any:
            path = save(*args, **rest)
            self.reached("spooled")
            return path

        def reading(*args: Any) -> Any:
            answer = read(*args)
            self.reached("replaying")
            return answer

        spool._publish, spool.save, spool.read = _publish, saved, reading


def compress(scale: float) -> None:
    """Shorten all times of calls and claims by one factor.

    Only their order is tested.
    """
    from worker.renewal import attempt, commit, engine, on_demand, outcome
    from worker.renewal import http as sending
    from worker.vault import schedule

    for room, names in (
        (sending, ("CALL_SECONDS", "DRAIN_SECONDS", "CONNECT_SECONDS")),
        (attempt, ("CALL_SECONDS",)), (engine, ("CLAIM_TIME",)),
        (on_demand, ("CLAIM_TIME", "MAX_WAIT_SECONDS")), (commit, ("COMMIT_RETRY_SECONDS", "MAX_PAUSE_SECONDS")),
        (outcome, ("IN_DOUBT_RETRY_MARGIN",)), (schedule, ("MAX_MARGIN", "FIRST_BACKOFF", "MAX_BACKOFF")),
    ):  # fmt: skip
        for name in names:
            setattr(room, name, getattr(room, name) / scale)
    begin = engine.RenewalEngine.renew_due

    async def renew_due(self: Any, tenants: Any, **rest: Any) -> Any:
        return await begin(self, tenants, **({"budget": 50.0 / scale} | rest))

    engine.RenewalEngine.renew_due = renew_due  # type: ignore[method-assign]


def _celery(arguments: dict[str, Any]) -> None:
    from worker.app import app

    Points(Path(os.environ["FAULTS_CONTROL"])).attach()
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
            (user_id, connection), before = chance.choice(people), emulation.now()
            min_ttl = chance.choice([None, None, None, arguments["life"] * 0.45])
            try:
                token = vault.user_token(user_id, connection, min_ttl=min_ttl, wait=1)
            except Exception as error:  # whatever it is, it is no expired token
                line: dict[str, Any] = {"refused": type(error).__name__}
            else:
                held = emulation.holder(token.value)
                ended = held is None or (held["expires_at"] is not None and held["expires_at"] <= before)
                line = {"served": user_id, "expired": ended, "held": held if ended else None}
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
