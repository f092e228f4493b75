"""Child processes of ``up``.

They are kept running, their logs are bounded, and they stop in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from worker.cli.up import die_with_parent

# Before a child that ended is started again: doubled each time.
FIRST_RESTART_SECONDS, MAX_RESTART_SECONDS = 1.0, 30.0
STEADY_SECONDS = 60.0  # a child that ran for this long did start
MAX_LOG_BYTES = 5_000_000  # one older file of this size is kept beside it
_CHUNK_BYTES = 65536
_MAX_LINE_BYTES = 20_000


class ChildLog:
    """A child's log file, and the troubles in it.

    Its owner alone may read it.

    Attributes:
        errors, warnings: how many lines of that level there were.
        trouble: the last of them.
        last: the last line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._size = 0
        self._rest = b""
        self.errors = self.warnings = 0
        self.trouble = self.last = ""

    def write(self, chunk: bytes) -> None:
        """Append what a child wrote.

        Where the disk is full, the child goes on all the same.
        """
        with suppress(OSError):
            if self._file < 0 or self._size > MAX_LOG_BYTES:
                self._rotate()
            self._size += os.write(self._file, chunk)
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[-_MAX_LINE_BYTES:]
        for line in lines:
            self._read(line.decode(errors="replace").strip())

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _rotate(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = 0

    def _read(self, line: str) -> None:
        if not line:
            return
        self.last = line
        try:
            record = json.loads(line)
            level = record["level"]
        except (ValueError, KeyError, TypeError):
            return
        self.errors += level in ("error", "critical")
        self.warnings += level == "warning"
        if level in ("error", "critical", "warning"):
            self.trouble = _describe_record(record)


def _describe_record(record: Mapping[str, object]) -> str:
    """Write a log record as one short line."""
    hidden = ("event", "level", "logger", "timestamp", "exception")
    details = " ".join(f"{name}={value}" for name, value in record.items() if name not in hidden)
    return f"{record.get('event', '')} {details}".strip()[:300]


class Child:
    """One program that is started again when it ends.

    Args:
        name: as the operator knows it.
        command: the program's path and its arguments, none of them secret.
        environment: all of it.
        log: where its standard error goes.
        report: called with a sentence when it ends unasked.
        folder: where it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        report: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.log = ChildLog(log)
        self.restarts = 0
        self._command = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]
        self._environment = dict(environment)
        self._folder = folder
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run_until_stopped(), name=name)

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.returncode is None

    async def stop(self, stop_seconds: float, kill: asyncio.Event) -> None:
        """Stop it; kill it where it takes too long.

        Args:
            stop_seconds: seconds.
            kill: set when nobody wants to wait any longer.
        """
        self._stopping.set()
        self._signal(signal.SIGTERM)
        killed = asyncio.create_task(kill.wait())
        await asyncio.wait({self._task, killed}, timeout=stop_seconds, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        self._signal(signal.SIGKILL)
        await self._task

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run_until_stopped(self) -> None:
        pause = FIRST_RESTART_SECONDS
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                ended = _describe_exit(await self._run())
            except OSError as error:
                ended = f"cannot be started: {error.strerror}"
            if self._stopping.is_set():
                break
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_RESTART_SECONDS
            said = f": {self.log.last[:300]}" if self.log.last else ""
            self._report(f"{self.name} ended ({ended}); it starts again in {pause:g} s{said}")
            self.restarts += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, MAX_RESTART_SECONDS)
        self.log.close()

    async def _run(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,  # Ctrl-C reaches `up` alone, which stops its children in order
        )
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        assert process.stderr is not None  # noqa: S101  # asked for above
        while chunk := await process.stderr.read(_CHUNK_BYTES):
            self.log.write(chunk)
        return await process.wait()


def _describe_exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
