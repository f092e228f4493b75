"""The readers: fresh tokens for apps, without calling Auth0.

A read is one indexed row and one decryption.

A reader has the access ring only, so it cannot decrypt refresh tokens or client secrets. When the stored token ends
too soon, the reader requests one refresh through Postgres and waits for the wakeup that ends it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from token_vault.errors import VaultError
from token_vault.listener import AsyncListener, Listener
from token_vault.pool import AsyncPool, Pool
from token_vault.read_model import REQUEST_REFRESH
from token_vault.read_records import RECORD_READS, ReadRecord, recording, to_json
from token_vault.read_steps import Flow, Listen, NoteRead, Query, RecordRead, Step, Wait
from token_vault.reader import DEFAULT_WAIT_SECONDS, Reader
from token_vault.token import Token
from token_vault.token_query import admin_query, user_query
from token_vault.token_target import TokenTarget

__all__ = ["AsyncTokenVault", "TokenVault"]

# A read is noted by a refresh request that finds the token fresh. Workers ignore requests older than this.
NOTE_SECONDS = 60.0


class TokenVault(Reader):
    """Reads tokens for threads.

    Safe to share between threads, and with processes that are forked later.

    Args:
        database_url: of the vault.
        access_keys: the access ring, newest first; or one string, as ``VAULT_ACCESS_KEYS`` has it.
        tenant: the tenant's name, where the vault has several.
        audit: ``strict`` hands out no token before the read is recorded; ``off`` is for programs that record reads
            themselves.

    Raises:
        ConfigurationError: there is no key, or one is not a Fernet key.
    """

    def begin(self) -> None:
        """Reset all state; called again in each forked process."""
        super().begin()
        self._pool = Pool(self._address)
        self._listener = Listener(self._direct)
        self._notes = threading.BoundedSemaphore(1)

    def user_token(
        self,
        user_id: str,
        connection: str,
        *,
        account: str | None = None,
        resource: str | None = None,
        scopes: Sequence[str] | None = None,
        min_ttl: float | None = None,
        wait: float = DEFAULT_WAIT_SECONDS,
        needs: Sequence[str] = (),
        request_id: str | None = None,
        reason: str | None = None,
    ) -> Token:
        """Return a user's fresh token.

        Args:
            user_id: Auth0's user id.
            connection: the connection's name.
            account: the user's id at the provider; needed where several of that connection are linked.
            resource: what the token is for, as the provider calls it; None for what the user signed in for.
            scopes: what it may do, within what the user consented to; None for all of it.
            min_ttl: seconds of life that the token must have left; None for the life that timely renewal always
                leaves. A token of unknown end is not handed out for a ``min_ttl`` above zero.
            wait: seconds to wait for a refresh on demand; a day at most.
            needs: scopes that the app cannot do without; not checked where the granted scopes are unknown.
            request_id, reason: written into the audit's record of this read; never put a secret there.

        Raises:
            TokenNotFound: nothing is stored for them.
            AmbiguousAccount: they have several accounts on that connection, and none was named.
            ReauthorizationRequired: the user must consent again.
            MissingScopes: it lacks scopes that are needed.
            TokenExpired: it has ended, or ends too soon, and cannot be renewed; or its end is unknown, and
                ``min_ttl`` is above zero.
            TemporarilyUnavailable: not now; ``retry_after`` says when. Or the audit is strict, and cannot record it.
            ConfigurationError, AccessDenied: the operator fixes the keys, the database or its roles.
            ValueError, TypeError: a name is empty, or is not a string.

        A token for another resource or other scopes comes from the same refresh token as the grant's own. It is
        renewed only when it is asked for, so the first read, and the first one after its end, waits for it.
        """
        if self._fast is not None and resource is scopes is None and self._is_counted(request_id, reason):
            token = self._fast.take((user_id, connection, account), min_ttl, needs)
            if token is not None:
                return token
        return self._run(
            self._flow.token(
                user_query(
                    user_id,
                    connection,
                    account,
                    min_ttl,
                    wait,
                    needs,
                    TokenTarget.of(resource, scopes),
                    request_id,
                    reason,
                )
            )
        )

    def admin_token(
        self,
        connection: str,
        *,
        resource: str | None = None,
        scopes: Sequence[str] | None = None,
        min_ttl: float | None = None,
        wait: float = DEFAULT_WAIT_SECONDS,
        needs: Sequence[str] = (),
        request_id: str | None = None,
        reason: str | None = None,
    ) -> Token:
        """Return an enterprise connection's fresh admin token; raises as ``user_token``."""
        return self._run(
            self._flow.token(
                admin_query(
                    connection, min_ttl, wait, needs, TokenTarget.of(resource, scopes), request_id, reason
                )
            )
        )

    def rejected(self, token: Token, *, request_id: str | None = None) -> None:
        """Report that an API refused a token.

        However many report it, one renewal follows, at least a minute after the last one. Meanwhile this reader does
        not hand the token out again: the next read waits for a new one.

        Args:
            token: as it was read.
            request_id: names the renewal in the workers' log.

        Raises:
            ValueError: the token was not read from a vault.
            TemporarilyUnavailable, ConfigurationError, AccessDenied: as ``user_token``.
        """
        query = self._flow.record_rejected(token, request_id)
        self._pool.rows(query.statement, query.values)

    def close(self) -> None:
        """Close the connections."""
        self._close_checks()
        self._recorder.close()
        self._listener.close()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow) -> Token:
        listening = ExitStack()
        try:
            step = next(flow)
            while True:
                try:
                    # These two steps are part of every read, so they are compared first.
                    sent: Any = None
                    if isinstance(step, Query):
                        sent = self._pool.rows(step.statement, step.values)
                    elif isinstance(step, RecordRead):
                        self._record(step.record)
                    else:
                        sent = self._perform(step, listening)
                except VaultError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(sent)
        except StopIteration as end:
            token: Token = end.value
            return token
        finally:
            listening.close()

    def _record(self, record: ReadRecord) -> None:
        if self._audit == "batched":
            self._recorder.record(record)
        elif self._audit == "strict":
            with recording():
                self._pool.rows(RECORD_READS, (to_json([record]),))

    def _perform(self, step: NoteRead | Listen | Wait, listening: ExitStack) -> Any:
        match step:
            case NoteRead(grant_id):
                self._note_read(grant_id)
            case Listen(grant_id, seconds):
                return listening.enter_context(self._listener.waiting(grant_id, connect_seconds=seconds))
            case Wait(wakeup, seconds):
                wakeup.wait(seconds)
                wakeup.clear()
        return None

    def _note_read(self, grant_id: int) -> None:
        """Note a read from a thread, one at a time.

        Without it the grant may become dormant a little early, which costs one refresh on demand.
        """
        if self._is_to_be_noted(grant_id) and self._notes.acquire(blocking=False):
            threading.Thread(
                target=self._note, args=(grant_id,), name="token-vault note", daemon=True
            ).start()

    def _note(self, grant_id: int) -> None:
        try:
            with suppress(VaultError, RuntimeError):  # RuntimeError: the reader was closed meanwhile
                self._pool.rows(REQUEST_REFRESH, (grant_id, None, NOTE_SECONDS))
        finally:
            self._notes.release()


class AsyncTokenVault(Reader):
    """Reads tokens for asyncio, in any number of event loops.

    Arguments and errors are those of ``TokenVault``.
    """

    def begin(self) -> None:
        """Reset all state; called again in each forked process."""
        super().begin()
        self._loops: dict[asyncio.AbstractEventLoop, _LoopResources] = {}

    async def user_token(
        self,
        user_id: str,
        connection: str,
        *,
        account: str | None = None,
        resource: str | None = None,
        scopes: Sequence[str] | None = None,
        min_ttl: float | None = None,
        wait: float = DEFAULT_WAIT_SECONDS,
        needs: Sequence[str] = (),
        request_id: str | None = None,
        reason: str | None = None,
    ) -> Token:
        """Return a user's fresh token; arguments and errors as ``TokenVault.user_token``."""
        if self._fast is not None and resource is scopes is None and self._is_counted(request_id, reason):
            token = self._fast.take((user_id, connection, account), min_ttl, needs)
            if token is not None:
                return token
        return await self._run(
            self._flow.token(
                user_query(
                    user_id,
                    connection,
                    account,
                    min_ttl,
                    wait,
                    needs,
                    TokenTarget.of(resource, scopes),
                    request_id,
                    reason,
                )
            )
        )

    async def admin_token(
        self,
        connection: str,
        *,
        resource: str | None = None,
        scopes: Sequence[str] | None = None,
        min_ttl: float | None = None,
        wait: float = DEFAULT_WAIT_SECONDS,
        needs: Sequence[str] = (),
        request_id: str | None = None,
        reason: str | None = None,
    ) -> Token:
        """Return the fresh admin token of an enterprise connection."""
        return await self._run(
            self._flow.token(
                admin_query(
                    connection, min_ttl, wait, needs, TokenTarget.of(resource, scopes), request_id, reason
                )
            )
        )

    async def rejected(self, token: Token, *, request_id: str | None = None) -> None:
        """Report that an API refused a token; see ``TokenVault.rejected``."""
        query = self._flow.record_rejected(token, request_id)
        await self._loop_resources().pool.rows(query.statement, query.values)

    async def close(self) -> None:
        """Close the connections."""
        self._close_checks()
        await asyncio.get_running_loop().run_in_executor(None, self._recorder.close)
        current = self._loop_resources()
        for note in list(current.notes):
            note.cancel()
        await asyncio.gather(*current.notes, return_exceptions=True)
        await current.listener.close()
        await current.pool.close()
        for other in list(self._loops.values()):
            other.pool.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _loop_resources(self) -> _LoopResources:
        """Return the connections of the running event loop.

        An app may run several loops, one after the other or one in each thread.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            for closed in [other for other in list(self._loops) if other.is_closed()]:
                if unused := self._loops.pop(closed, None):
                    unused.pool.abandon()
            self._loops[loop] = _LoopResources(AsyncPool(self._address), AsyncListener(self._direct))
        return self._loops[loop]

    async def _run(self, flow: Flow) -> Token:
        async with AsyncExitStack() as stack:
            step = next(flow)
            try:
                while True:
                    try:
                        sent = await self._perform(step, stack)
                    except VaultError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(sent)
            except StopIteration as end:
                token: Token = end.value
                return token

    async def _perform(self, step: Step, stack: AsyncExitStack) -> Any:
        resources = self._loop_resources()
        match step:
            case Query(statement, values):
                return await resources.pool.rows(statement, values)
            case RecordRead(record):
                if self._audit == "strict":
                    with recording():
                        await resources.pool.rows(RECORD_READS, (to_json([record]),))
                elif self._audit == "batched":
                    self._recorder.record(record)
            case NoteRead(grant_id):
                self._note_read(resources, grant_id)
            case Listen(grant_id, seconds):
                waiting = resources.listener.waiting(grant_id, connect_seconds=seconds)
                return await stack.enter_async_context(waiting)
            case Wait(wakeup, seconds):
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await wakeup.wait()
                wakeup.clear()
        return None

    def _note_read(self, resources: _LoopResources, grant_id: int) -> None:
        if self._is_to_be_noted(grant_id) and not resources.notes:
            note = asyncio.create_task(_note(resources.pool, grant_id))
            resources.notes.add(note)
            note.add_done_callback(resources.notes.discard)


@dataclass(frozen=True, slots=True)
class _LoopResources:
    """A reader's connections and pending notes in one event loop."""

    pool: AsyncPool
    listener: AsyncListener
    notes: set[asyncio.Task[None]] = field(default_factory=set)


async def _note(pool: AsyncPool, grant_id: int) -> None:
    with suppress(VaultError, RuntimeError):
        await pool.rows(REQUEST_REFRESH, (grant_id, None, NOTE_SECONDS))
