"""Pauses of renewal: of a connection, a tenant, or everything.

A pause is in force while its row exists: it survives restarts, and the statement that claims grants checks it. After
its end, the workers' next tick removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.errors import TemporarilyUnavailable
from worker.settings import EventKind
from worker.vault.connections import circuits
from worker.vault.db.sql import load
from worker.vault.outbox import emit
from worker.vault.vault import Database, Vault

PAUSED = "paused"
"""The state and the reason of a paused grant."""

# ``retry_after`` of a pause without an end.
RETRY_SECONDS = 60.0

_START, _END, _END_OVER = load(__file__, "start"), load(__file__, "end"), load(__file__, "end_over")
_IN_FORCE, _RELEASED = load(__file__, "in_force"), load(__file__, "released")
_COUNT_ENDING = load(__file__, "count_ending")
_IS_OVER = text("SELECT FROM pauses WHERE until <= :now LIMIT 1")
_LIST = text("""
SELECT tenant, connection, since, until, reason, paused_by FROM pauses
WHERE tenant = '' OR tenant = ANY(:tenants) ORDER BY tenant, connection
""")
# A statement that claims holds this lock from before it checks for pauses until its commit. The database is compared too,
# as the table has the same number in copies of the database.
_WRITERS = text("""
SELECT virtualtransaction FROM pg_locks
WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND relation = to_regclass('grants') AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()
""")
_COUNT_CLAIMS = text("""
SELECT count(*) FROM grants WHERE claim_until > clock_timestamp()
    AND (:tenant = '' OR tenant = :tenant) AND (:connection = '' OR connection = :connection)
""")
_RECORD = text("""
SELECT record_reads(jsonb_build_array(jsonb_build_object('source', 'command',
    'tenant', CAST(:tenant AS text), 'connection', CAST(:connection AS text), 'user_id', '',
    'outcome', CAST(:outcome AS text), 'reason', CAST(:reason AS text))))
""")


@dataclass(frozen=True, slots=True)
class PauseScope:
    """What a pause stops.

    Attributes:
        tenant: its name; empty for all tenants.
        connection: its name; empty for all of the tenant's.
    """

    tenant: str = ""
    connection: str = ""

    def __str__(self) -> str:
        if not self.tenant:
            return "everything"
        return (
            f"connection {self.connection} of {self.tenant}" if self.connection else f"tenant {self.tenant}"
        )


EVERYTHING = PauseScope()


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause in force.

    Attributes:
        tenant, connection: its scope; empty for all.
        until: when it ends by itself; None if only ``resume`` ends it.
        reason: the operator's words.
        paused_by: who paused.
    """

    tenant: str
    connection: str
    since: datetime
    until: datetime | None
    reason: str
    paused_by: str

    @property
    def scope(self) -> PauseScope:
        """What it stops."""
        return PauseScope(self.tenant, self.connection)

    def retry_after(self, now: datetime) -> float:
        """Return the seconds after which to ask again."""
        return RETRY_SECONDS if self.until is None else max(1.0, (self.until - now).total_seconds())


@dataclass(frozen=True, slots=True)
class EndingTokens:
    """Tokens that end by a time unless they are renewed."""

    by: datetime
    access_tokens: int
    refresh_tokens: int


async def start(
    vault: Vault, scope: PauseScope, *, reason: str, by: str, until: datetime | None, now: datetime
) -> None:
    """Pause a scope, or change its pause.

    After it has returned, no statement that begins claims anything; ``count_under_way`` says when earlier ones have ended.
    """
    values = {
        "tenant": scope.tenant, "connection": scope.connection, "reason": reason, "by": by, "until": until, "now": now,
    }  # fmt: skip
    async with vault.engine.begin() as connection:
        await connection.execute(_START, values)
        await _record(connection, scope, "Paused", f"{by}: {reason}")
        await _emit(connection, EventKind.PAUSED, scope, since=now)


async def end(vault: Vault, scope: PauseScope, *, by: str, now: datetime) -> list[Pause]:
    """End all pauses within a scope; return them.

    The grants that have become due are spread out, as after an outage.
    """
    values = {"tenant": scope.tenant, "connection": scope.connection}
    async with vault.engine.begin() as connection:
        ended = [Pause(*row) for row in await connection.execute(_END, values)]
        await _release(connection, ended, by, now)
    return ended


async def end_over(vault: Vault, *, now: datetime) -> list[Pause]:
    """End the pauses whose time is over; return them."""
    if not await vault.run(_IS_OVER, {"now": now}):
        return []
    async with vault.engine.begin() as connection:
        ended = [Pause(*row) for row in await connection.execute(_END_OVER, {"now": now})]
        await _release(connection, ended, "its end", now)
    return ended


async def _release(connection: AsyncConnection, ended: Sequence[Pause], by: str, now: datetime) -> None:
    """Spread out the grants that became due; report the end."""
    for pause in ended:
        values = {"tenant": pause.tenant, "connection": pause.connection}
        for tenant, name in (await connection.execute(_RELEASED, values)).all():
            await circuits.stagger(connection, tenant, name, now)
        await _record(connection, pause.scope, "Resumed", by)
        await _emit(connection, EventKind.RESUMED, pause.scope, since=now)


async def _record(connection: AsyncConnection, scope: PauseScope, outcome: str, reason: str) -> None:
    """Record for the audit who paused or resumed."""
    values = {"tenant": scope.tenant or None, "connection": scope.connection}
    await connection.execute(_RECORD, values | {"outcome": outcome, "reason": reason})


async def _emit(connection: AsyncConnection, kind: EventKind, scope: PauseScope, *, since: datetime) -> None:
    """Write one event for each tenant concerned."""
    statement = text("SELECT DISTINCT tenant FROM connections WHERE :tenant IN ('', tenant) ORDER BY tenant")
    for (tenant,) in (await connection.execute(statement, {"tenant": scope.tenant})).all():
        await emit(
            connection, kind, tenant=tenant, name=scope.connection or None, reason=PAUSED, since=since,
            state=PAUSED if kind is EventKind.PAUSED else "active",
        )  # fmt: skip


async def find(database: Database, tenant: str, connection: str) -> Pause | None:
    """Return the pause that stops a connection, if any."""
    rows = await database.run(_IN_FORCE, {"tenant": tenant, "connection": connection})
    return Pause(*rows[0]) if rows else None


async def list_pauses(database: Database, tenants: Sequence[str]) -> list[Pause]:
    """Return the pauses that concern these tenants."""
    return [Pause(*row) for row in await database.run(_LIST, {"tenants": list(tenants)})]


async def check_tenant(vault: Vault, tenant: str) -> None:
    """Check that a tenant may be synced.

    Raises:
        TemporarilyUnavailable: it is paused.
    """
    pause = await find(vault, tenant, "")
    if pause is not None:
        raise TemporarilyUnavailable(
            f"{pause.scope} is paused by the operator ({pause.reason}): `token-vault resume` ends that",
            pause.retry_after(await vault.now()),
        )


async def count_ending(
    vault: Vault, scope: PauseScope, *, until: datetime | None, now: datetime
) -> list[EndingTokens]:
    """Count the tokens that end during a pause.

    If it has no end: those that end within an hour, a day and a week.
    """
    spans = (timedelta(hours=1), timedelta(days=1), timedelta(days=7))
    values: dict[str, Any] = {"tenant": scope.tenant, "connection": scope.connection, "now": now}
    values["times"] = [until] if until else [now + span for span in spans]
    return [EndingTokens(*row) for row in await vault.run(_COUNT_ENDING, values)]


async def list_writers(vault: Vault) -> set[str]:
    """Return the transactions that may still commit a claim."""
    return {str(row[0]) for row in await vault.run(_WRITERS)}


async def count_under_way(vault: Vault, scope: PauseScope, writers: set[str]) -> int:
    """Count the renewals of a scope that are under way.

    Args:
        writers: what ``list_writers`` returned after the pause had begun; transactions that have ended are removed.
    """
    writers &= await list_writers(vault) if writers else set()
    ((claims,),) = await vault.run(_COUNT_CLAIMS, {"tenant": scope.tenant, "connection": scope.connection})
    return int(claims) + len(writers)
