"""What all tasks of one process share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from token_vault.fork_safety import begin_in_each_process
from worker import settings as configuration
from worker.runtime import Runtime, open_runtime
from worker.vault.db.errors import explain

# To Postgres, of one worker: its tasks and attempts take turns.
MAX_DATABASE_CONNECTIONS = 20

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Process:
    """One event loop and one runtime for this process's tasks.

    Both are made when the first task comes.

    A loop of its own keeps connections to Postgres and to the providers open between tasks, whatever pool
    Celery runs them in.
    """

    def __init__(self) -> None:
        begin_in_each_process(self)

    def begin(self) -> None:
        """Begin with nothing open.

        Called once more in each forked process, as Celery's prefork pool makes them.
        """
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opened: AsyncExitStack | None = None
        self._runtime: Runtime | None = None

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the process's loop; wait for it.

        Where Postgres was restarted under the pool's connections it is run once more over new ones: all
        of this project's work is safe to run twice.

        Raises:
            VaultError: the database's failures among them, in the vault's own words.
        """
        try:
            return self._run(work())
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise explain(error) from None
        try:
            return self._run(work())
        except DBAPIError as error:
            raise explain(error) from None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="vault", daemon=True)
                self._thread.start()
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except PoolTimeout as error:
            raise explain(error) from None

    def call_soon(self, call: Callable[[], None]) -> bool:
        """Call something on the process's loop, without waiting for it.

        Returns:
            Whether there is a loop.
        """
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(call)
        return loop is not None

    def runtime(self) -> Runtime:
        """Return the open runtime.

        Where opening it fails, the next task tries again.
        """
        with self._opening:
            return self._runtime or self.run(self._open)

    async def _open(self) -> Runtime:
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(
                open_runtime(configuration.load(), connections=MAX_DATABASE_CONNECTIONS)
            )
            self._opened, self._runtime = stack.pop_all(), runtime
        return runtime

    def reload_keys(self) -> None:
        """Use the keys that the settings name now.

        Raises:
            ConfigurationError: they cannot be read, or do not open the vault; the earlier ones stay in use.
            TemporarilyUnavailable: Postgres does not answer; likewise.
        """
        vault, settings = self.runtime().vault, configuration.load()
        self.run(lambda: vault.replace_keys(settings.access_keys, settings.refresh_keys))
        log.info("keys.reloaded", access=vault.access.fingerprints, refresh=vault.refresh.fingerprints)

    def close(self) -> None:
        """Close the runtime and stop the loop."""
        loop, opened, self._opened, self._runtime = self._loop, self._opened, None, None
        if loop is None:
            return
        if opened is not None:
            asyncio.run_coroutine_threadsafe(opened.aclose(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        self._loop = None
        if self._thread is not None:
            self._thread.join(timeout=10)
            if not self._thread.is_alive():
                loop.close()
