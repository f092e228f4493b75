"""Named points at which a process dies or stops, and their journal.

The production code has no hooks: the functions that are the steps of a renewal are wrapped here, in that process alone.
A point is armed by a file of its name in the control folder; whoever reaches it first takes the file away.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.faults.journal import Journal

POINTS = (
    "claimed", "opened", "sent", "answered", "committing", "committed", "releasing", "released", "counting", "counted",
    "spooling", "spooled", "replaying", "replayed", "taking", "taken",
)  # fmt: skip

_real_time = time.time  # before a process's clock is skewed
_call: ContextVar[str] = ContextVar("call", default="")  # the token request that this task has sent


class Points:
    """The points of one process."""

    def __init__(self, control: Path, journal: Journal) -> None:
        self._control = control
        self._journal = journal

    def reached(self, point: str) -> None:
        """Do what the point is armed with, if it is."""
        taken = self._control / f".{point}.{os.getpid()}"
        try:
            (self._control / point).rename(taken)
        except FileNotFoundError:
            return
        number = int(taken.read_text())
        self._journal.write(
            "paused" if number == signal.SIGSTOP else "killed", target=os.getpid(), point=point
        )
        if number == signal.SIGSTOP:
            (self._control / f"stopped.{os.getpid()}").touch()
        os.kill(os.getpid(), number)

    def _step(self, step: str) -> None:
        """Note how far this task's token request has come."""
        if call := _call.get():
            self._journal.write(step, call=call)

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
        from worker.renewal.group_commit import GroupCommit
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
        self.around(claims, "store_pairs", before="committing")
        self._attach_commit(claims, GroupCommit)
        self._attach_spool(Spool)
        note_syncs(self._journal)

    def _attach_call(self, attempt: Any, claims: Any) -> None:
        decrypt, sending, attempting = claims.decrypt_refresh_token, attempt.send, attempt.Renewer.attempt

        def decrypt_refresh_token(vault: Any, claim: Any) -> Any:
            token = decrypt(vault, claim)
            self.reached("opened")
            return token

        async def send(http: Any, request: Any, *rest: Any) -> Any:
            _call.set(uuid4().hex)
            self._step("sending")
            noted = {**request.headers, "X-Note": _call.get()}
            call = asyncio.ensure_future(sending(http, replace(request, headers=noted), *rest))
            await asyncio.wait({call}, timeout=0.002)  # by now it is on its way
            self.reached("sent")
            answer = await call
            self._step("answered")
            self.reached("answered")
            return answer

        async def attempted(*args: Any) -> Any:
            _call.set("")
            try:
                return await attempting(*args)
            finally:
                self._step("ended")

        claims.decrypt_refresh_token, attempt.send = decrypt_refresh_token, send
        attempt.Renewer.attempt = attempted

    def _attach_commit(self, claims: Any, group_commit: Any) -> None:
        storing, storing_together = claims.store_pair, group_commit.store

        def noted(claim: Any, pair: Any) -> None:
            self._step("committed")
            if pair.access is not None:
                self.committed(claim.key.user_id, claim.key.connection, pair.access.reveal())
            self.reached("committed")

        async def store_pair(vault: Any, claim: Any, pair: Any, **rest: Any) -> Any:
            stored = await storing(vault, claim, pair, **rest)
            noted(claim, pair)
            return stored

        async def store(group: Any, obtained: Any) -> Any:
            stored = await storing_together(group, obtained)
            noted(obtained.claim, obtained.pair)  # in the task of this answer, whose steps these are
            return stored

        claims.store_pair, group_commit.store = store_pair, store

    def _attach_spool(self, spool: Any) -> None:
        publish, save, read = spool._publish, spool.save, spool.read

        def _publish(*args: Any) -> Any:
            self.reached("spooling")
            return publish(*args)

        def saved(*args: Any, **rest: Any) -> Any:
            path = save(*args, **rest)
            self._step("spooled")
            self.reached("spooled")
            return path

        def reading(*args: Any) -> Any:
            answer = read(*args)
            self.reached("replaying")
            return answer

        spool._publish, spool.save, spool.read = _publish, saved, reading


def note_syncs(journal: Journal) -> None:
    """Note what of the spool this process has synced, which a power cut would leave."""
    syncing = os.fsync

    def fsync(fd: Any) -> None:
        syncing(fd)
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.name == "spool":
            journal.write("names synced", names=[each.name for each in path.iterdir()])
        elif path.parent.name == "spool":
            journal.write("content synced", name=answer_name(path))

    os.fsync = fsync


def answer_name(path: Path) -> str:
    """Name the answer of a spool's file, finished or not."""
    return path.name.removeprefix(".").removesuffix(".new")


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
