"""Imports refresh tokens from another store, and verifies them.

A token is committed, encrypted, before it is sent; then one renewal shows whether it is valid. The grants of a
connection are imported one by one until a renewal has succeeded, so that a wrong client does not spend all of them.
After a kill, the next import or the workers verify the grants that were stored.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from token_vault.secret import Secret
from worker.providers import CLIENT_REFUSED
from worker.renewal.engine import RenewalEngine
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.transfer.lines import TransferLine
from worker.vault import pauses
from worker.vault.transfers import imported
from worker.vault.transfers.cipher import TransferCipher
from worker.vault.transfers.imported import ImportedGrant, ImportVerdict
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# Concurrent renewals, of all connections together: fewer than the connections to Postgres.
MAX_VERIFICATIONS = 8
# If so many first grants of a connection fail, its other grants are not stored.
MAX_FIRST_FAILURES = 5

Progress = Callable[[int, int], None]


class ImportResult(StrEnum):
    """The result of importing a line."""

    IMPORTED = "imported"
    """Its token was stored, and a renewal has verified it."""
    WOULD_IMPORT = "would_import"
    """It would be imported without ``dry_run``."""
    PRESENT = "present"
    ALIVE = "alive"
    ERASED = "erased"
    REVOKED = "revoked"
    REFUSED = "refused"
    """Its provider says that the token is dead."""
    UNVERIFIED = "unverified"
    """Stored; no renewal has succeeded yet, and the workers go on."""
    STOPPED = "stopped"
    """Not stored: no renewal of the first grants of its connection succeeded."""
    BUSY = "busy"
    ELSEWHERE = "elsewhere"

    @property
    def holds(self) -> bool:
        """Whether the vault has the grant with a valid token."""
        return self in (self.IMPORTED, self.WOULD_IMPORT, self.PRESENT, self.ALIVE)


@dataclass(frozen=True, slots=True)
class ImportedLine:
    """A line, and the result of importing it.

    Attributes:
        reason: a code that says why it is refused, unverified or stopped.
    """

    line: TransferLine
    result: ImportResult
    reason: str | None = None


@dataclass(slots=True)
class Importer:
    """Imports lines into one vault.

    Attributes:
        vault: gets the grants.
        connections: resolves each connection's OAuth client.
        engine: verifies grants by renewing them.
        cipher: decrypts encrypted lines.
        batch_size: how many lines are stored in one transaction.
        progress: called with the numbers of lines done and in total.
    """

    vault: Vault
    connections: ConnectionResolver
    engine: RenewalEngine
    cipher: TransferCipher
    batch_size: int = 100
    progress: Progress = lambda _done, _total: None
    _done: list[ImportedLine] = field(default_factory=list, init=False)
    _total: int = field(default=0, init=False)
    _slots: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_VERIFICATIONS), init=False
    )

    async def find_mistakes(self, lines: Sequence[TransferLine]) -> dict[int, list[str]]:
        """Return the mistakes of lines, by the line's number.

        Those that show without a call: the connection is unknown, has no client or is paused, a key does not decrypt.
        """
        tenants = sorted({line.key.tenant for line in lines})
        known = await self.connections.load(tenants)
        paused = [pause.scope for pause in await pauses.list_pauses(self.vault, tenants)]
        mistakes: defaultdict[int, list[str]] = defaultdict(list)
        first: dict[object, int] = {}
        for line in lines:
            identity = line.key.tenant, line.key.connection, line.key.provider_user_id
            if (before := first.setdefault(identity, line.number)) != line.number:
                mistakes[line.number].append(f"the same grant as in line {before}")
            if said := _why_not(line, known, paused):
                mistakes[line.number].append(said)
            if line.refresh is None and self._decrypt(line) is None:
                mistakes[line.number].append(
                    "the refresh token does not decrypt with these keys, or belongs to another line"
                )
        return dict(mistakes)

    async def run(self, lines: Sequence[TransferLine], *, dry_run: bool = False) -> list[ImportedLine]:
        """Import lines that have no mistakes; return each result.

        Args:
            lines: checked by ``find_mistakes``.
            dry_run: whether to store and send nothing.
        """
        self._total = len(lines)
        groups: defaultdict[tuple[str, str], list[TransferLine]] = defaultdict(list)
        for line in lines:
            groups[line.key.tenant, line.key.connection].append(line)
        known = await self.connections.load(sorted({tenant for tenant, _ in groups}))
        async with asyncio.TaskGroup() as group:
            for key, of_connection in groups.items():
                group.create_task(self._import_connection(known[key], of_connection, dry_run=dry_run))
        return sorted(self._done, key=lambda each: each.line.number)

    async def _import_connection(
        self, connection: ResolvedConnection, lines: list[TransferLine], *, dry_run: bool
    ) -> None:
        if dry_run:
            for start in range(0, len(lines), self.batch_size):
                await self._store(lines[start : start + self.batch_size], dry_run=True)
            return
        rest, reason = await self._import_first(connection, lines)
        if reason is not None:
            self._stop(connection, rest, reason)
            return
        for start in range(0, len(rest), self.batch_size):
            stored = await self._store(rest[start : start + self.batch_size])
            verified = await asyncio.gather(*(self._verify(connection, *each) for each in stored))
            if verified and not any(each.result is ImportResult.IMPORTED for each in verified):
                self._stop(connection, rest[start + self.batch_size :], verified[-1].reason)
                return

    def _stop(self, connection: ResolvedConnection, rest: Sequence[TransferLine], reason: str | None) -> None:
        """Do not import a connection's other lines."""
        if rest:
            log.warning("import.stopped", tenant=connection.tenant, connection=connection.name, error=reason)
        self._finish(*(ImportedLine(line, ImportResult.STOPPED, reason) for line in rest))

    async def _import_first(
        self, connection: ResolvedConnection, lines: list[TransferLine]
    ) -> tuple[list[TransferLine], str | None]:
        """Import one line after the other until one is verified.

        Returns:
            The other lines, and the reason if they must not be imported.
        """
        failures = 0
        for position, line in enumerate(lines, start=1):
            for stored, row_id in await self._store([line]):
                verified = await self._verify(connection, stored, row_id)
                if verified.result is ImportResult.IMPORTED:
                    return lines[position:], None
                failures += 1
                if verified.reason in CLIENT_REFUSED or failures == MAX_FIRST_FAILURES:
                    return lines[position:], verified.reason or verified.result.value
        return [], None

    async def _store(
        self, lines: Sequence[TransferLine], *, dry_run: bool = False
    ) -> list[tuple[TransferLine, int]]:
        """Store a batch; return lines to verify, with row ids."""
        grants = [
            ImportedGrant(line.key, refresh, line.access, line.expires_at, line.scopes, line.consented_at)
            for line in lines
            if (refresh := self._decrypt(line)) is not None
        ]
        found = await imported.store(self.vault, grants, now=await self.vault.now(), dry_run=dry_run)
        pending = []
        for line, (verdict, row_id) in zip(lines, found, strict=True):
            if verdict.is_stored or verdict is ImportVerdict.PENDING:
                if dry_run:
                    self._finish(ImportedLine(line, ImportResult.WOULD_IMPORT))
                elif row_id is not None:
                    pending.append((line, row_id))
            else:
                self._finish(ImportedLine(line, ImportResult(verdict.value)))
        return pending

    async def _verify(self, connection: ResolvedConnection, line: TransferLine, row_id: int) -> ImportedLine:
        """Renew a stored grant once."""
        async with self._slots:
            outcome = await self.engine.renew_one(row_id, connection=connection)
        reason = None
        result = ImportResult.IMPORTED
        if outcome is not Outcome.RENEWED:
            reason = await imported.read_last_error(self.vault, row_id) or outcome.value
            dead = outcome in (Outcome.DEAD, Outcome.LOST)
            result = ImportResult.REFUSED if dead else ImportResult.UNVERIFIED
            if dead and (refresh := self._decrypt(line)) is not None:
                await imported.forget_observed(self.vault, row_id, refresh)
        verified = ImportedLine(line, result, reason)
        self._finish(verified)
        return verified

    def _decrypt(self, line: TransferLine) -> Secret | None:
        if line.refresh_encrypted is None:
            return line.refresh
        return self.cipher.decrypt(line.key, line.refresh_encrypted)

    def _finish(self, *lines: ImportedLine) -> None:
        self._done += lines
        self.progress(len(self._done), self._total)


def _why_not(
    line: TransferLine,
    known: Mapping[tuple[str, str], ResolvedConnection],
    paused: Sequence[pauses.PauseScope],
) -> str | None:
    """Return why a line's connection cannot renew it, if so."""
    key = line.key
    connection = known.get((key.tenant, key.connection))
    if connection is None:
        return f"Auth0 has no connection called {key.connection}, or no sync has shown it"
    if connection.problem is not None:
        return f"connection {key.connection}: {connection.problem.message}"
    if any(scope.tenant in ("", key.tenant) and scope.connection in ("", key.connection) for scope in paused):
        return f"connection {key.connection} is paused here: `token-vault resume` ends that"
    return None
