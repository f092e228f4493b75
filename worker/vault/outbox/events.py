"""Events: changes to report to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.grant_key import GrantKey
from worker.settings import EventKind
from worker.vault.db.sql import load
from worker.vault.db.tables import OutboxRow
from worker.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """One change of state.

    Attributes:
        user_id: Auth0's; empty for an admin grant, None if the event is about no grant.
        since: when the state began; None if at the time of the event.
        expires_at: the end of the access token, or of the consent if the event is about that.
        message: what the operator has to fix, if known; which scopes were lost; or, for a grant that is presumed dead,
            which refusals it got, and how often.
    """

    id: UUID
    kind: str
    at: datetime
    tenant: str
    connection: str | None
    user_id: str | None
    provider_user_id: str | None
    provider: str | None
    state: str | None
    reason: str | None
    since: datetime | None
    expires_at: datetime | None
    message: str | None

    @property
    def is_presumed(self) -> bool:
        """Whether a death is presumed, without a verdict."""
        deaths = (EventKind.REAUTHORIZATION_REQUIRED, EventKind.LOST_IN_ROTATION)
        return self.message is not None and self.kind in deaths


async def emit(
    connection: AsyncConnection,
    kind: EventKind,
    *,
    tenant: str,
    name: str | None = None,
    user_id: str | None = None,
    state: str | None = None,
    reason: str | None = None,
    since: datetime | None = None,
) -> None:
    """Write an event in the caller's transaction.

    For changes that are not in a row of a grant or connection: triggers write the others. Earlier events of a forgotten
    user are deleted, delivered or not.

    Args:
        connection: to Postgres, in the transaction of the change.
        name: the connection's.
        user_id: Auth0's.
        reason: a code, never personal data.
    """
    if kind is EventKind.FORGOTTEN:
        await delete_users_events(connection, tenant, user_id)
    await connection.execute(
        insert(OutboxRow).values(
            kind=kind.value, tenant=tenant, connection=name, user_id=user_id, state=state, reason=reason, since=since
        )
    )  # fmt: skip


async def delete_users_events(connection: AsyncConnection, tenant: str, user_id: str | None) -> None:
    """Delete a user's events, but not `user.forgotten`.

    Runs in the caller's transaction.
    """
    await connection.execute(
        delete(OutboxRow).where(
            OutboxRow.tenant == tenant,
            OutboxRow.user_id == user_id,
            OutboxRow.kind != EventKind.FORGOTTEN.value,
        )
    )


async def reassign(connection: AsyncConnection, old: GrantKey, user_id: str) -> None:
    """Change the user in the events of a relinked grant.

    The new user is the one who has to act, and may be forgotten.
    """
    await connection.execute(
        update(OutboxRow)
        .where(
            OutboxRow.tenant == old.tenant,
            OutboxRow.user_id == old.user_id,
            OutboxRow.connection == old.connection,
            OutboxRow.provider_user_id == old.provider_user_id,
        )
        .values(user_id=user_id)
    )


_REPORT_EXPIRING = load(__file__, "report_expiring")


async def report_expiring(
    vault: Vault, tenants: Sequence[str], *, ahead: datetime, since: datetime, limit: int = 500
) -> int:
    """Write one event for each unrenewable token that ends soon.

    Args:
        ahead: tokens that end later are left out.
        since: tokens that ended earlier are left out.

    Returns:
        The number of events.
    """
    values = {"tenants": list(tenants), "ahead": ahead, "since": since, "limit": limit}
    return len(await vault.run(_REPORT_EXPIRING, values))


_REPORT_CONSENT_ENDING = load(__file__, "report_consent_ending")


async def report_consent_ending(
    vault: Vault, tenants: Sequence[str], *, now: datetime, limit: int = 500
) -> int:
    """Report once each: consents ending in 30, 7, 1 days.

    A trigger writes the events.

    Returns:
        The number of events.
    """
    values = {"tenants": list(tenants), "now": now, "limit": limit}
    return len(await vault.run(_REPORT_CONSENT_ENDING, values))


_LIST = load(__file__, "list_events")


async def list_events(
    vault: Vault,
    tenants: Sequence[str],
    *,
    kind: str | None = None,
    user_id: str | None = None,
    connection: str | None = None,
    since: datetime | None = None,
    states: Sequence[str] = (),
    limit: int = 50,
) -> list[dict[str, Any]]:
    """List events with their deliveries, newest first.

    Args:
        states: only events with a delivery in one of these states.
    """
    values = {
        "tenants": list(tenants), "kind": kind, "user_id": user_id, "connection": connection, "since": since,
        "states": list(states), "limit": limit,
    }  # fmt: skip
    async with vault.engine.connect() as open_connection:
        return [dict(row) for row in (await open_connection.execute(_LIST, values)).mappings()]


_REDACT_FORGOTTEN = text("""
UPDATE outbox SET user_id = NULL
WHERE kind = 'user.forgotten' AND user_id IS NOT NULL AND queued_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM deliveries d WHERE d.event_id = outbox.id AND d.state <> 'delivered')
""")


async def redact_forgotten(vault: Vault) -> None:
    """Remove the user ids of forgotten users that were delivered."""
    await vault.run(_REDACT_FORGOTTEN)


async def delete_old(vault: Vault, *, before: datetime) -> None:
    """Delete events from before a time, delivered or not."""
    await vault.run(text("DELETE FROM outbox WHERE at < :before"), {"before": before})
