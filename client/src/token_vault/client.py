"""Fresh tokens for other programs, without a call to Auth0.

A read is one indexed row and one decryption.

A reader holds the access ring only: it can decrypt no refresh token and no client secret. Where the stored token
has too little life left, the reader requests one refresh through Postgres and waits to be woken at its end.
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
from token_vault.read_flow import Flow, Listen, NoteRead, Query, RecordRead, Step, Wait
from token_vault.read_model import REQUEST_REFRESH
from token_vault.read_records import RECORD_READS, ReadRecord, recording, to_json
from token_vault.reader import DEFAULT_WAIT_SECONDS, Reader, admin_query, user_query
from token_vault.token import Token
from token_vault.token_target import TokenTarget

__all__ = ["AsyncTokenVault", "TokenVault"]

# A note of a read is a refresh request that finds the token fresh; no worker takes one that is older.
NOTE_SECONDS = 60.0


class TokenVault(Reader):
    """Reads tokens for threads.

    Safe to share between threads, and with processes that are forked later.

    Args:
        database_url: of the vault.
        access_keys: the access ring, newest first; or one string, as ``VAULT_ACCESS_KEYS`` has it.
        tenant: the tenant's name, where the vault has several.
        audit: ``strict`` hands out no token before the read is recorded; ``off`` is for who records reads itself.

    Raises:
        ConfigurationError: there is no key, or one is not a Fernet key.
    """

    def begin(self) -> None:
        """Open nothing yet; called again in each forked process."""
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
            min_ttl: seconds of life wanted; None for what renewal in time always leaves. A token whose end nobody
                knows is not handed out for a life that is wanted.
            wait: seconds to wait for a refresh on demand; a day at the most.
            needs: scopes without which the token is of no use; they are not looked at where nobody said which
                scopes were granted.
            request_id, reason: what the audit's record of the read says of it; never put a secret there.

        Raises:
            TokenNotFound: nothing is stored for them.
            AmbiguousAccount: they have several accounts on that connection, and none was named.
            ReauthorizationRequired: the user must consent again.
            MissingScopes: it lacks scopes that are needed.
            TokenExpired: it has ended, or ends too soon, and nobody can renew it; or nobody knows when it ends, and
                ``min_ttl`` asks for a life.
            TemporarilyUnavailable: not now; ``retry_after`` says when. Or the audit is strict, and cannot record it.
            ConfigurationError, AccessDenied: the operator fixes the keys, the database or its roles.
            ValueError, TypeError: a name is empty, or is no string.

        A token for a resource or scopes of its own comes from the same refresh token as the grant's own. The
        first one is waited for, and each that has ended: it is renewed when it is asked for.
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

        One renewal follows, however many report it, at the earliest a minute after the last. This reader does not
        hand the token out again meanwhile: the next read waits for another.

        Args:
            token: as it was read.
            request_id: names the renewal in the workers' log.

        Raises:
            ValueError: the token does not come from a reader.
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
                    # The two steps of every read come first.
                    sent: Any = None
                    if isinstance(step, Query):
                        sent = self._pool.rows(step.statement, step.values)
                    elif isinstance(step, RecordRead):
                        self._record(step.record)
                    else:
                        sent = self._take(step, listening)
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

    def _take(self, step: NoteRead | Listen | Wait, listening: ExitStack) -> Any:
        match step:
            case NoteRead(grant_id):
                self._note_read(grant_id)
            case Listen(grant_id, seconds):
                return listening.enter_context(self._listener.waiting(grant_id, patience=seconds))
            case Wait(wakeup, seconds):
                wakeup.wait(seconds)
                wakeup.clear()
        return None

    def _note_read(self, grant_id: int) -> None:
        """Note a read in a thread, one at a time.

        A note that is lost costs little.
        """
        if self._is_to_be_noted(grant_id) and self._notes.acquire(blocking=False):
            threading.Thread(
                target=self._note, args=(grant_id,), name="token-vault note", daemon=True
            ).start()

    def _note(self, grant_id: int) -> None:
        try:
            with suppress(VaultError, RuntimeError):  # the latter when the reader is closed meanwhile
                self._pool.rows(REQUEST_REFRESH, (grant_id, None, NOTE_SECONDS))
        finally:
            self._notes.release()


class AsyncTokenVault(Reader):
    """Reads tokens for asyncio, in any number of event loops.

    Arguments and errors are those of ``TokenVault``.
    """

    def begin(self) -> None:
        """Open nothing yet; called again in each forked process."""
        super().begin()
        self._loops: dict[asyncio.AbstractEventLoop, _OpenInLoop] = {}

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
        await self._here().pool.rows(query.statement, query.values)

    async def close(self) -> None:
        """Close the connections."""
        self._close_checks()
        await asyncio.get_running_loop().run_in_executor(None, self._recorder.close)
        here = self._here()
        for note in list(here.notes):
            note.cancel()
        await asyncio.gather(*here.notes, return_exceptions=True)
        await here.listener.close()
        await here.pool.close()
        for other in list(self._loops.values()):
            other.pool.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _here(self) -> _OpenInLoop:
        """What is open in the running event loop.

        An app may run one after the other, or one in each thread.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            for ended in [other for other in list(self._loops) if other.is_closed()]:
                if gone := self._loops.pop(ended, None):
                    gone.pool.abandon()
            self._loops[loop] = _OpenInLoop(AsyncPool(self._address), AsyncListener(self._direct))
        return self._loops[loop]

    async def _run(self, flow: Flow) -> Token:
        async with AsyncExitStack() as stack:
            step = next(flow)
            try:
                while True:
                    try:
                        sent = await self._take(step, stack)
                    except VaultError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(sent)
            except StopIteration as end:
                token: Token = end.value
                return token

    async def _take(self, step: Step, stack: AsyncExitStack) -> Any:
        here = self._here()
        match step:
            case Query(statement, values):
                return await here.pool.rows(statement, values)
            case RecordRead(record):
                if self._audit == "strict":
                    with recording():
                        await here.pool.rows(RECORD_READS, (to_json([record]),))
                elif self._audit == "batched":
                    self._recorder.record(record)
            case NoteRead(grant_id):
                self._note_read(here, grant_id)
            case Listen(grant_id, seconds):
                return await stack.enter_async_context(here.listener.waiting(grant_id, patience=seconds))
            case Wait(wakeup, seconds):
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await wakeup.wait()
                wakeup.clear()
        return None

    def _note_read(self, here: _OpenInLoop, grant_id: int) -> None:
        if self._is_to_be_noted(grant_id) and not here.notes:
            note = asyncio.create_task(_note(here.pool, grant_id))
            here.notes.add(note)
            note.add_done_callback(here.notes.discard)


@dataclass(frozen=True, slots=True)
class _OpenInLoop:
    """What a reader has open in one event loop."""

    pool: AsyncPool
    listener: AsyncListener
    notes: set[asyncio.Task[None]] = field(default_factory=set)


async def _note(pool: AsyncPool, grant_id: int) -> None:
    with suppress(VaultError, RuntimeError):
        await pool.rows(REQUEST_REFRESH, (grant_id, None, NOTE_SECONDS))
