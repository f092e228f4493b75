"""Deliveries: events on their way to webhooks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from worker.vault.db.sql import load
from worker.vault.outbox.events import OutboxEvent
from worker.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class WebhookFilter:
    """The kinds and tenants of events that one webhook wants.

    Attributes:
        tenants: None for all.
    """

    webhook: str
    kinds: tuple[str, ...]
    tenants: tuple[str, ...] | None = None


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


_QUEUE = load(__file__, "queue")


async def queue(
    vault: Vault, tenants: Sequence[str], wanted: Iterable[WebhookFilter], *, now: datetime, limit: int = 1000
) -> None:
    """Queue new events for the webhooks that want them.

    An event that no webhook wants counts as queued.
    """
    values = {"tenants": list(tenants), "wanted": _as_json(wanted), "now": now, "limit": limit}
    await vault.run(_QUEUE, values)


_CLAIM_DUE = load(__file__, "claim")


async def claim_due(
    vault: Vault, webhook: str, *, now: datetime, until: datetime, limit: int
) -> list[Delivery]:
    """Claim due deliveries, and commit; the oldest first.

    Args:
        until: the claims' deadline; no other worker delivers them before.
    """
    owner = uuid4()
    values = {"webhook": webhook, "owner": owner, "now": now, "until": until, "limit": limit}
    async with vault.statement() as connection:
        rows = [dict(row) for row in (await connection.execute(_CLAIM_DUE, values)).mappings()]
    claimed = [
        Delivery(
            attempts=row.pop("attempts"), queued_at=row.pop("queued_at"), event=OutboxEvent(**row), webhook=webhook,
            owner=owner,
        )
        for row in rows
    ]  # fmt: skip
    return sorted(claimed, key=lambda delivery: delivery.event.at)


# A success counts even if another worker has taken over the claim meanwhile.
_MARK_DELIVERED = text("""
UPDATE deliveries SET state = 'delivered', owner = NULL, delivered_at = :now, last_status = :status, last_error = NULL,
    attempts = attempts + 1
WHERE event_id = :event_id AND webhook = :webhook AND state <> 'delivered'
""")


async def mark_delivered(vault: Vault, delivery: Delivery, *, status: int, now: datetime) -> None:
    """Record that the receiver accepted an event."""
    await vault.run(_MARK_DELIVERED, _names(delivery) | {"status": status, "now": now})


_MARK_FAILED = text("""
UPDATE deliveries SET state = CASE WHEN :final THEN 'failed' ELSE 'pending' END, owner = NULL, next_at = :next_at,
    last_status = :status, last_error = :error, attempts = attempts + 1
WHERE event_id = :event_id AND webhook = :webhook AND owner = :owner
""")


async def mark_failed(
    vault: Vault, delivery: Delivery, *, status: int | None, error: str | None, next_at: datetime, final: bool
) -> None:
    """Record a failure.

    Args:
        status: the answer's status code; None if there was no answer.
        error: a code for why there was no answer.
        next_at: when to try again.
        final: give up instead.
    """
    values = {"status": status, "error": error, "next_at": next_at, "final": final}
    await vault.run(_MARK_FAILED, _names(delivery) | values)


_POSTPONE = text("""
UPDATE deliveries SET owner = NULL, next_at = :next_at, state = CASE WHEN :final THEN 'failed' ELSE state END
WHERE event_id = :event_id AND webhook = :webhook AND owner = :owner
""")


async def postpone(vault: Vault, delivery: Delivery, *, next_at: datetime, final: bool) -> None:
    """Release a claim without an attempt."""
    await vault.run(_POSTPONE, _names(delivery) | {"next_at": next_at, "final": final})


_RESEND = load(__file__, "resend")


async def resend(
    vault: Vault,
    tenants: Sequence[str],
    wanted: Iterable[WebhookFilter],
    *,
    now: datetime,
    ids: Sequence[UUID] = (),
    failed: bool = False,
) -> list[UUID]:
    """Queue events again, with their ids.

    Args:
        wanted: the webhooks that are configured now; each gets the events that it wants.
        ids: of these events, delivered or not.
        failed: also every delivery that was given up.

    Returns:
        The event's id for each delivery that was queued.
    """
    values = {
        "tenants": list(tenants), "wanted": _as_json(wanted), "now": now, "ids": list(ids), "failed": failed,
    }  # fmt: skip
    return [event_id for (event_id,) in await vault.run(_RESEND, values)]


async def count_undelivered(vault: Vault) -> list[dict[str, Any]]:
    """Count undelivered events by webhook.

    With the last status and error of those that were tried.
    """
    statement = text("""
        SELECT webhook, count(*) FILTER (WHERE state = 'pending') AS pending,
            count(*) FILTER (WHERE state = 'failed') AS failed,
            max(attempts) FILTER (WHERE state = 'pending') AS attempts,
            max(last_status) AS last_status, max(last_error) AS last_error
        FROM deliveries WHERE state <> 'delivered' GROUP BY webhook ORDER BY webhook
    """)
    async with vault.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(statement)).mappings()]


def _names(delivery: Delivery) -> dict[str, Any]:
    return {"event_id": delivery.event.id, "webhook": delivery.webhook, "owner": delivery.owner}


def _as_json(wanted: Iterable[WebhookFilter]) -> str:
    return json.dumps(
        [{"webhook": one.webhook, "kinds": one.kinds, "tenants": one.tenants} for one in wanted]
    )
