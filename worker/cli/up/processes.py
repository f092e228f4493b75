"""Child processes of ``up``: kept running, their logs kept bounded, stopped in order."""

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

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a child that ended is started again
STEADY = 60.0  # a child that ran for this many seconds is no failing start
LOG_SIZE = 5_000_000  # bytes; one older file of this size is kept beside it
_CHUNK = 65536
_LONGEST_LINE = 20_000


class Log:
    """A child's log file, readable by its owner alone, and what it said of trouble.

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
        """Append what a child wrote; where the disk takes no more, the child goes on all the same."""
        with suppress(OSError):
            if self._file < 0 or self._size > LOG_SIZE:
                self._begin()
            self._size += os.write(self._file, chunk)
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[-_LONGEST_LINE:]
        for line in lines:
            self._read(line.decode(errors="replace").strip())

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self) -> None:
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
            self.trouble = _in_words(record)


def _in_words(record: Mapping[str, object]) -> str:
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
        tell: called with a sentence when it ends unasked.
        folder: where it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        tell: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.log = Log(log)
        self.restarts = 0
        self._command = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]
        self._environment = dict(environment)
        self._folder = folder
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._keep(), name=name)

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.returncode is None

    async def stop(self, patience: float, hurry: asyncio.Event) -> None:
        """Ask it to end, and wait; what does not end in time, or when ``hurry`` is set, is killed.

        Args:
            patience: seconds.
            hurry: set when nobody wants to wait any longer.
        """
        self._stopping.set()
        self._signal(signal.SIGTERM)
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({self._task, hurried}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        self._signal(signal.SIGKILL)
        await self._task

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                how = _how(await self._run())
            except OSError as error:
                how = f"cannot be started: {error.strerror}"
            if self._stopping.is_set():
                break
            if time.monotonic() - began > STEADY:
                pause = FIRST_PAUSE
            said = f": {self.log.last[:300]}" if self.log.last else ""
            self._tell(f"{self.name} ended ({how}); it starts again in {pause:g} s{said}")
            self.restarts += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, LONGEST_PAUSE)
        self.log.close()

    async def _run(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,  # a Ctrl-C is for `up`, which then stops its children in order
        )
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        assert process.stderr is not None  # noqa: S101  # asked for above
        while chunk := await process.stderr.read(_CHUNK):
            self.log.write(chunk)
        return await process.wait()


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
