"""Asks the workers for one refresh, however many readers want it."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from math import ceil
from typing import Any

import redis

from token_vault.errors import ConfigurationError, TemporarilyUnavailable
from token_vault.read_model import Served
from token_vault.secret import Secret

TASK = "worker.refresh_token"
QUEUE = "interactive"

# Messages expire by the clock of the host that takes them, in seconds: hosts whose clocks are five minutes apart,
# one ahead and one behind, must not drop what is sent between them.
_CLOCK_SKEW_SECONDS = 600.0

# A Redis that takes longer to answer is of no use to somebody who waits, in seconds.
PATIENCE = 2.0
# A read is noted once in this time, in seconds, while no worker has taken the note.
NOTE_ONCE = 60.0
_SOCKET = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}


class Asking:
    """Queues ``worker.refresh_token`` by name; nothing of the workers' side is imported.

    A short-lived mark in Redis, for this version of the token, keeps other readers from queueing the same again.
    It only saves messages: what guards the refresh token is the claim in Postgres.

    Raises:
        ConfigurationError: ``redis_url`` is no address of Redis.
    """

    def __init__(self, redis_url: Secret) -> None:
        self._url = redis_url
        self._marks = _redis_at(redis_url)
        self._lock = threading.Lock()
        self._noting = threading.Lock()
        self._app: Any = None

    def ask(self, served: Served, min_ttl: float | None, wait: float) -> None:
        """Ask for a refresh of this grant, unless somebody has just asked.

        Raises:
            TemporarilyUnavailable: Redis does not answer.
        """
        self._queue(served, min_ttl, wait, mark=f"token-vault:asked:{served.id}:{served.access_version}")

    def _queue(self, served: Served, min_ttl: float | None, wait: float, *, mark: str) -> None:
        from kombu.exceptions import OperationalError

        try:
            if not self._marks.set(mark, "", nx=True, ex=ceil(min(max(wait, 1), 5))):
                return
            app = self._producer()
            # Over a connection of its own: the pools of connections and CELERY_BROKER_URL are the app's that reads.
            with app.connection_for_write(self._url.reveal()) as connection:
                app.send_task(
                    TASK,
                    kwargs={
                        "user_id": served.user_id or None,
                        "connection": served.connection if served.user_id else None,
                        "admin_connection": None if served.user_id else served.connection,
                        "min_ttl": min_ttl,
                        "tenant": served.tenant,
                    },
                    queue=QUEUE,
                    ignore_result=True,
                    # After that nobody waits any more, and the next reader asks anew.
                    expires=max(wait, 30.0) + _CLOCK_SKEW_SECONDS,
                    retry=False,
                    connection=connection,
                )
        except (redis.RedisError, OperationalError, OSError):
            raise _silent() from None

    async def ask_from_loop(self, served: Served, min_ttl: float | None, wait: float) -> None:
        """Ask in a thread, as ``ask`` does; a crowd that finds all threads taken does not stand in line for one."""
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await asyncio.to_thread(self.ask, served, min_ttl, wait)
        except TimeoutError:
            raise _silent() from None

    def note_read(self, served: Served) -> None:
        """Let the workers know that a fresh token is read, without waiting: a note that is lost costs little.

        The note is a refresh asked for that finds the token fresh. One is under way at a time.
        """
        if self._noting.acquire(blocking=False):
            threading.Thread(target=self._note, args=(served,), name="token-vault-note", daemon=True).start()

    def _note(self, served: Served) -> None:
        try:
            # A mark of its own: somebody who wants more life than the token has must still be heard.
            self._queue(
                served, None, NOTE_ONCE, mark=f"token-vault:noted:{served.id}:{served.access_version}"
            )
        except TemporarilyUnavailable:
            time.sleep(NOTE_ONCE)  # meanwhile nobody else tries
        finally:
            self._noting.release()

    def _producer(self) -> Any:
        with self._lock:
            if self._app is None:
                from celery import Celery  # the sending side only, and only when it is needed

                self._app = Celery("token-vault-reader", broker=self._url.reveal(), set_as_current=False)
                self._app.conf.update(
                    task_serializer="json", broker_connection_retry=False, broker_transport_options=_SOCKET
                )
            return self._app


def _silent() -> TemporarilyUnavailable:
    return TemporarilyUnavailable("Redis does not answer: no refresh can be asked for", 5)


def _redis_at(url: Secret) -> redis.Redis:
    with suppress(ValueError):
        return redis.Redis.from_url(url.reveal(), **_SOCKET)
    # Outside of the except: the error may hold the address with its password.
    raise ConfigurationError("the Redis address does not read: redis://:password@host:6379/0")
