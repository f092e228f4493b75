"""The outbox: events, and how far each has come on its way to each webhook.

Events of grants and connections are written by triggers, in the transaction of the change that they tell. A delivery
is claimed like a grant, by one committed update with an owner and a deadline, and made at least once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.grant_key import GrantKey
from worker.settings import EventKind
from worker.vault.db.database import Vault
from worker.vault.db.tables import OutboxRow


@dataclass(frozen=True, slots=True)
class WebhookFilter:
    """What one webhook wants: events of these kinds, and of these tenants, None for all."""

    webhook: str
    kinds: tuple[str, ...]
    tenants: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """One change of state.

    Attributes:
        user_id: Auth0's; empty for an admin grant, None where no grant is meant.
        since: when the state began, None where that is the time of the event.
        expires_at: the end of the access token held.
        message: what the operator has to mend, where the vault has words for it.
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


@dataclass(frozen=True, slots=True)
class Delivery:
    """One claimed delivery.

    Attributes:
        attempts: failures in a row before this attempt.
        queued_at: since when it is tried.
    """

    event: OutboxEvent
    webhook: str
    owner: UUID
    attempts: int
    queued_at: datetime


async def tell(
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
    """Write an event in the caller's transaction: for changes that no row of a grant or connection shows.

    What was told of a forgotten user before is deleted, delivered or not: the last event is all that stays.

    Args:
        connection: in the transaction that makes the change, and only where it makes one.
        name: the connection's.
        user_id: Auth0's.
        reason: a code, never personal data.
    """
    if kind is EventKind.FORGOTTEN:
        await forget_user(connection, tenant, user_id)
    await connection.execute(
        insert(OutboxRow).values(
            kind=kind.value, tenant=tenant, connection=name, user_id=user_id, state=state, reason=reason, since=since
        )
    )  # fmt: skip


async def forget_user(connection: AsyncConnection, tenant: str, user_id: str | None) -> None:
    """Delete what was told of a user, but not that the user is forgotten; in the caller's transaction."""
    await connection.execute(
        delete(OutboxRow).where(
            OutboxRow.tenant == tenant,
            OutboxRow.user_id == user_id,
            OutboxRow.kind != EventKind.FORGOTTEN.value,
        )
    )


async def move(connection: AsyncConnection, old: GrantKey, user_id: str) -> None:
    """Let what was told of a grant name the user who has it now: who has to act, and who may be forgotten."""
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


# One range of the index for each connection, but where the connection's own event says it all: of two problems there
# is none.
# A token that ended before its grant came to the vault is no news, and neither is one that ended long ago.
_TELL_EXPIRING = text("""
WITH ending AS (
    SELECT g.id FROM connections c CROSS JOIN LATERAL (
        SELECT id FROM grants
        WHERE grants.tenant = c.tenant AND grants.connection = c.name
            AND state = 'unrenewable' AND expiry_reported_version IS DISTINCT FROM access_version
            AND expires_at <= CAST(:ahead AS timestamptz) AND expires_at > CAST(:since AS timestamptz) AND expires_at > created_at
        ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) g
    WHERE c.tenant = ANY(:tenants) AND coalesce(c.problem IN ('not_shown', 'unsupported_strategy'), true) LIMIT :limit
)
UPDATE grants SET expiry_reported_version = access_version FROM ending WHERE grants.id = ending.id RETURNING grants.id
""")

_MATCH = """
jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(webhook text, kinds jsonb, tenants jsonb)
    ON w.kinds ? e.kind AND (w.tenants IS NULL OR jsonb_typeof(w.tenants) = 'null' OR w.tenants ? e.tenant)
"""

_SPREAD = text(f"""
WITH fresh AS (
    SELECT id FROM outbox WHERE queued_at IS NULL AND tenant = ANY(:tenants)
    ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED
), e AS (
    UPDATE outbox SET queued_at = :now FROM fresh WHERE outbox.id = fresh.id RETURNING outbox.id, kind, tenant
)
INSERT INTO deliveries (event_id, webhook, queued_at, next_at)
SELECT e.id, w.webhook, :now, :now FROM e JOIN {_MATCH}
ON CONFLICT DO NOTHING
""")  # noqa: S608  # a constant

_CLAIM = text("""
WITH due AS (
    SELECT event_id FROM deliveries WHERE webhook = :webhook AND state = 'pending' AND next_at <= :now
    ORDER BY next_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d SET owner = :owner, next_at = :until
FROM due JOIN outbox e ON e.id = due.event_id
WHERE d.event_id = due.event_id AND d.webhook = :webhook
RETURNING d.attempts, d.queued_at, e.id, e.kind, e.at, e.tenant, e.connection, e.user_id, e.provider_user_id,
    e.provider, e.state, e.reason, e.since, e.expires_at, e.message
""")

# A success is one, even where another has taken the claim over meanwhile.
_DELIVERED = text("""
UPDATE deliveries SET state = 'delivered', owner = NULL, delivered_at = :now, last_status = :status, last_error = NULL,
    attempts = attempts + 1
WHERE event_id = :event_id AND webhook = :webhook AND state <> 'delivered'
""")

_REFUSED = text("""
UPDATE deliveries SET state = CASE WHEN :final THEN 'failed' ELSE 'pending' END, owner = NULL, next_at = :next_at,
    last_status = :status, last_error = :error, attempts = attempts + 1
WHERE event_id = :event_id AND webhook = :webhook AND owner = :owner
""")

_POSTPONE = text("""
UPDATE deliveries SET owner = NULL, next_at = :next_at, state = CASE WHEN :final THEN 'failed' ELSE state END
WHERE event_id = :event_id AND webhook = :webhook AND owner = :owner
""")

_BLANK = text("""
UPDATE outbox SET user_id = NULL
WHERE kind = 'user.forgotten' AND user_id IS NOT NULL AND queued_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM deliveries d WHERE d.event_id = outbox.id AND d.state <> 'delivered')
""")


async def tell_expiring(
    vault: Vault, tenants: Sequence[str], *, ahead: datetime, since: datetime, limit: int = 500
) -> int:
    """Tell of access tokens that end until ``ahead`` with nothing to renew them, once each; returns how many.

    Args:
        since: tokens that ended before are not told of.
    """
    values = {"tenants": list(tenants), "ahead": ahead, "since": since, "limit": limit}
    return len(await vault.run(_TELL_EXPIRING, values))


async def spread(
    vault: Vault, tenants: Sequence[str], wanted: Iterable[WebhookFilter], *, now: datetime, limit: int = 1000
) -> None:
    """Put fresh events up for delivery to the webhooks that want them; those of no webhook are done with."""
    values = {"tenants": list(tenants), "wanted": _as_json(wanted), "now": now, "limit": limit}
    await vault.run(_SPREAD, values)


async def claim(vault: Vault, webhook: str, *, now: datetime, until: datetime, limit: int) -> list[Delivery]:
    """Claim deliveries that are due, and commit; the oldest event first.

    Args:
        until: nobody else makes them before.
    """
    owner = uuid4()
    values = {"webhook": webhook, "owner": owner, "now": now, "until": until, "limit": limit}
    async with vault.statement() as connection:
        rows = [dict(row) for row in (await connection.execute(_CLAIM, values)).mappings()]
    claimed = [
        Delivery(
            attempts=row.pop("attempts"), queued_at=row.pop("queued_at"), event=OutboxEvent(**row), webhook=webhook,
            owner=owner,
        )
        for row in rows
    ]  # fmt: skip
    return sorted(claimed, key=lambda delivery: delivery.event.at)


async def delivered(vault: Vault, delivery: Delivery, *, status: int, now: datetime) -> None:
    """Record that the receiver took an event."""
    await vault.run(_DELIVERED, _naming(delivery) | {"status": status, "now": now})


async def refused(
    vault: Vault, delivery: Delivery, *, status: int | None, error: str | None, next_at: datetime, final: bool
) -> None:
    """Record a failure.

    Args:
        status: the answer's; None where none came.
        error: in a word, what happened where no answer came.
        next_at: when to try again.
        final: give up instead.
    """
    values = {"status": status, "error": error, "next_at": next_at, "final": final}
    await vault.run(_REFUSED, _naming(delivery) | values)


async def postpone(vault: Vault, delivery: Delivery, *, next_at: datetime, final: bool) -> None:
    """Give a claim back that was not tried."""
    await vault.run(_POSTPONE, _naming(delivery) | {"next_at": next_at, "final": final})


async def blank_forgotten(vault: Vault) -> None:
    """Take the user's id out of events of forgotten users that every receiver has."""
    await vault.run(_BLANK)


async def forget_old(vault: Vault, *, before: datetime) -> None:
    """Delete events from before a time, delivered or not."""
    await vault.run(text("DELETE FROM outbox WHERE at < :before"), {"before": before})


def _naming(delivery: Delivery) -> dict[str, Any]:
    return {"event_id": delivery.event.id, "webhook": delivery.webhook, "owner": delivery.owner}


def _as_json(wanted: Iterable[WebhookFilter]) -> str:
    return json.dumps(
        [{"webhook": one.webhook, "kinds": one.kinds, "tenants": one.tenants} for one in wanted]
    )


_LIST = text("""
SELECT e.*, coalesce((
    SELECT jsonb_agg(jsonb_build_object('webhook', webhook, 'state', state, 'attempts', attempts, 'next_at', next_at,
        'delivered_at', delivered_at, 'last_status', last_status, 'last_error', last_error) ORDER BY webhook)
    FROM deliveries d WHERE d.event_id = e.id), '[]') AS deliveries
FROM outbox e
WHERE e.tenant = ANY(:tenants) AND (CAST(:kind AS text) IS NULL OR e.kind = :kind)
    AND (CAST(:user_id AS text) IS NULL OR e.user_id = :user_id)
    AND (CAST(:connection AS text) IS NULL OR e.connection = :connection)
    AND (CAST(:since AS timestamptz) IS NULL OR e.at >= :since)
    AND (cardinality(CAST(:states AS text[])) = 0
        OR EXISTS (SELECT FROM deliveries d WHERE d.event_id = e.id AND d.state = ANY(CAST(:states AS text[]))))
ORDER BY e.at DESC, e.id LIMIT :limit
""")


async def events(
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
    """Events, newest first, each with its deliveries.

    Args:
        states: with a delivery in one of these.
    """
    values = {
        "tenants": list(tenants), "kind": kind, "user_id": user_id, "connection": connection, "since": since,
        "states": list(states), "limit": limit,
    }  # fmt: skip
    async with vault.engine.connect() as open_connection:
        return [dict(row) for row in (await open_connection.execute(_LIST, values)).mappings()]


# Nobody can be told of a forgotten user whose id is gone.
_RESEND = text(f"""
INSERT INTO deliveries (event_id, webhook, queued_at, next_at)
SELECT e.id, w.webhook, :now, :now FROM outbox e JOIN {_MATCH}
WHERE e.tenant = ANY(:tenants) AND NOT (e.kind = 'user.forgotten' AND e.user_id IS NULL)
    AND (e.id = ANY(CAST(:ids AS uuid[])) OR (:failed AND EXISTS (
        SELECT FROM deliveries d WHERE d.event_id = e.id AND d.webhook = w.webhook AND d.state = 'failed')))
ON CONFLICT (event_id, webhook) DO UPDATE SET state = 'pending', queued_at = excluded.queued_at,
    next_at = excluded.next_at, attempts = 0, owner = NULL, delivered_at = NULL
RETURNING event_id
""")  # noqa: S608  # a constant


async def resend(
    vault: Vault,
    tenants: Sequence[str],
    wanted: Iterable[WebhookFilter],
    *,
    now: datetime,
    ids: Sequence[UUID] = (),
    failed: bool = False,
) -> list[UUID]:
    """Put events up for delivery again, under the ids they had.

    Args:
        wanted: the webhooks that are configured now; each gets the events that it wants.
        ids: these events, delivered or not.
        failed: also every delivery that was given up.

    Returns:
        The event of each delivery put up.
    """
    values = {
        "tenants": list(tenants), "wanted": _as_json(wanted), "now": now, "ids": list(ids), "failed": failed,
    }  # fmt: skip
    return [event_id for (event_id,) in await vault.run(_RESEND, values)]


async def waiting(vault: Vault) -> list[dict[str, Any]]:
    """What is not delivered, by webhook: ``pending`` and ``failed``, and the last status of those tried in vain."""
    statement = text("""
        SELECT webhook, count(*) FILTER (WHERE state = 'pending') AS pending,
            count(*) FILTER (WHERE state = 'failed') AS failed,
            max(attempts) FILTER (WHERE state = 'pending') AS attempts,
            max(last_status) AS last_status, max(last_error) AS last_error
        FROM deliveries WHERE state <> 'delivered' GROUP BY webhook ORDER BY webhook
    """)
    async with vault.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(statement)).mappings()]
