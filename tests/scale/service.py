"""A worker, beat and durable Redis, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from emulators.client import Emulation
from tests.support.processes import Process, Site
from tests.support.wait import until
from worker.embedded import locks
from worker.embedded.redis import Redis

# Nothing is renewed here: what is synced could not be held against what Auth0 shows any more.
SCHEDULE = """renew = 86400
[tenants.default]
share = 0
[deletion]
settle = 0
"""
# Seconds before what was killed is started again, as `token-vault up` waits.
PAUSE = 1.0

WORKER, BEAT, REDIS, EMPTIED = "worker", "beat", "Redis", "Redis, emptied"


@dataclass
class Kill:
    """One kill.

    Attributes:
        kind: of what.
        at: when, by the tenant's clock.
        restart: seconds until it was ready again, with the pause.
        again: pages that were served from then to the next kill, and had been served before.
        gap: the longest time between two pages in that time, in seconds.
    """

    kind: str
    at: float
    restart: float
    again: int = 0
    gap: float = 0.0


class Service:
    """The processes of one site.

    Args:
        site: where they run.
        home: the embedded servers' folder.
        tenant: has the clock.
        stack: ends what is started.
    """

    def __init__(self, site: Site, home: Path, tenant: Emulation, stack: ExitStack) -> None:
        self._site, self._tenant, self._stack = site, tenant, stack
        self._redis = home.resolve() / "redis"
        self._started = 0
        self._running: dict[str, Process] = {}

    def start(self) -> None:
        """Start the worker, then the beat."""
        self._start(WORKER)
        self._start(BEAT)

    def restore(self) -> None:
        """Start again what has ended by itself."""
        for kind, process in self._running.items():
            if not process.running:
                self._start(kind)

    def kill(self, kind: str) -> Kill:
        """Kill, pause, start again, and wait until ready."""
        at = self._tenant.now()
        if kind in self._running:
            self._running[kind].kill()
        else:
            os.kill(int((self._redis / "server.pid").read_text()), signal.SIGKILL)
            until(lambda: not locks.is_held(self._redis / "alive.lock"), what="Redis is gone")
        time.sleep(PAUSE)
        self._start(kind)
        return Kill(kind, at, self._tenant.now() - at)

    def stop(self) -> None:
        """Ask the processes to end, and wait."""
        for process in self._running.values():
            process.terminate(seconds=90)

    def _start(self, kind: str) -> None:
        self._started += 1
        name = f"{kind}-{self._started}"  # each with a log of its own
        if kind == WORKER:
            self._running[kind] = self._site.worker(name, "interactive,renew,sync")
        elif kind == BEAT:
            self._running[kind] = self._site.beat(name)
            self._running[kind].says("is starting")
        else:
            if kind == EMPTIED:
                shutil.rmtree(self._redis / "data")
            self._stack.enter_context(Redis(self._redis.parent).running())
