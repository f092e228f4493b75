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

# To Postgres, of one worker: its tasks and renewals share them.
MAX_DATABASE_CONNECTIONS = 20

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Process:
    """One event loop and one runtime for this process's tasks.

    Both are created for the first task. The loop runs in a thread of its own, so that connections to Postgres and to the
    providers stay open between tasks, whatever pool Celery runs the tasks in.
    """

    def __init__(self) -> None:
        begin_in_each_process(self)

    def begin(self) -> None:
        """Reset all state.

        Called again in each forked process, for example of Celery's prefork pool.
        """
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opened: AsyncExitStack | None = None
        self._runtime: Runtime | None = None

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the process's loop; wait for it.

        If Postgres was restarted, and the pool's connections are lost, the work runs once more on new ones: all work of
        this project is safe to run twice.

        Raises:
            VaultError: also for failures of the database, as ``explain`` translates them.
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
        """Return the open runtime; open it if necessary.

        If that fails, the next task tries again.
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

        After an error the earlier keys stay in use.

        Raises:
            ConfigurationError: the keys cannot be read, or are not the vault's.
            TemporarilyUnavailable: Postgres does not answer.
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
