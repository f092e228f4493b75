"""Delivers due events, to each receiver independently."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import httpx
import structlog

from worker import traces
from worker.providers.answer import retry_after
from worker.reconnect import ReconnectApplication
from worker.settings import EventKind, EventSettings, WebhookSettings
from worker.vault import outbox, schedule
from worker.vault.grants.consent_link import consent_link
from worker.vault.outbox import Delivery, OutboxEvent, WebhookFilter
from worker.vault.vault import Vault
from worker.webhooks import payload, signature
from worker.webhooks.http import POST_SECONDS, PostResult, post

log = structlog.get_logger(__name__)

# Concurrent calls to one receiver, per process, so that it is not flooded after an outage.
MAX_CONCURRENT_POSTS = 8
# After so long a tick claims no further deliveries. It ends with its last call.
TICK_SECONDS = 10.0
# Enough for the first call, which is made alone, the others, and recording how they ended.
DELIVERY_CLAIM_TIME = timedelta(seconds=4 * POST_SECONDS)
# A longer `Retry-After` is shortened to this.
MAX_RETRY_AFTER = timedelta(hours=1)
# A token that ended while no tick ran is still reported for so long.
MAX_EXPIRY_AGE = timedelta(days=1)


class Dispatcher:
    """Delivers the events of one vault to the configured webhooks.

    Args:
        vault: has the events.
        webhooks: by name.
        events: how events are delivered.
        http: the client that ``webhooks.http`` makes.
        application_of: returns the application by which a tenant's users consent again.
        now: returns the time; by default the database's.
        jitter: returns a random number from 0 to 1.
    """

    def __init__(
        self,
        vault: Vault,
        webhooks: Mapping[str, WebhookSettings],
        events: EventSettings,
        http: httpx.AsyncClient,
        *,
        application_of: Callable[[str], ReconnectApplication | None] = lambda _: None,
        now: Callable[[], datetime] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._vault = vault
        self._webhooks = webhooks
        self._events = events
        self._http = http
        self._application_of = application_of
        self._now = now
        self._jitter = jitter
        # Receivers that an earlier tick of this process is still posting to: this tick does not wait for them.
        self._busy: set[str] = set()
        # The pauses that receivers have asked for; each process knows only those that it was asked for itself.
        self._paused_until: dict[str, datetime] = {}

    async def deliver_due(self, tenants: Sequence[str], *, budget: float = TICK_SECONDS) -> Counter[str]:
        """Write events of tokens that end soon; deliver due events.

        Args:
            tenants: whose events.
            budget: seconds after which no further deliveries are claimed.

        Returns:
            How many deliveries were ``delivered``, ``refused``, or given up as ``failed``.

        Raises:
            CopiedVault: the vault is a copy; the original delivers the events.
        """
        await self._vault.check_location()
        now = await self._time()
        ahead = now + timedelta(seconds=self._events.expiring)
        await outbox.report_expiring(self._vault, tenants, ahead=ahead, since=now - MAX_EXPIRY_AGE)
        await outbox.report_consent_ending(self._vault, tenants, now=now)
        await outbox.queue(self._vault, tenants, webhook_filters(self._webhooks), now=now)
        counts: Counter[str] = Counter()
        stop_at = time.monotonic() + budget
        free = [name for name in self._webhooks if name not in self._busy]
        ended = await asyncio.gather(
            *(self._deliver_to(name, stop_at, counts) for name in free), return_exceptions=True
        )
        await outbox.redact_forgotten(self._vault)
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure
        return counts

    async def _time(self) -> datetime:
        return self._now() if self._now else await self._vault.now()

    async def _deliver_to(self, name: str, stop_at: float, counts: Counter[str]) -> None:
        """Deliver to one receiver until nothing is due.

        Or until it is unavailable, or the time is over.
        """
        self._busy.add(name)
        try:
            is_up = False
            while time.monotonic() < stop_at:
                now = await self._time()
                if now < self._paused_until.get(name, now):
                    return
                claimed = await outbox.claim_due(
                    self._vault, name, now=now, until=now + DELIVERY_CLAIM_TIME, limit=MAX_CONCURRENT_POSTS
                )
                if not claimed:
                    return
                # The first call is made alone, so that an unavailable receiver costs one call per tick.
                first = [] if is_up else claimed[:1]
                results = [await self._deliver(delivery, counts) for delivery in first]
                rest = claimed[len(first) :]
                if any(result.is_unavailable for result in results):
                    await self._postpone(rest, results[0])
                    return
                results += await asyncio.gather(*(self._deliver(delivery, counts) for delivery in rest))
                if any(result.is_unavailable for result in results):
                    return
                is_up = any(result.is_delivered for result in results)
        finally:
            self._busy.discard(name)

    async def _deliver(self, delivery: Delivery, counts: Counter[str]) -> PostResult:
        now, webhook, event = await self._time(), self._webhooks[delivery.webhook], delivery.event
        body = payload.body(event, await self._consent_link(event))
        signed = signature.headers(payload.public_id(event.id), body, webhook.secret, now=now)
        host = urlsplit(webhook.url).hostname or ""
        # The span is not continued at the receiver: no traceparent is sent.
        with traces.span("POST webhook", "client", method="POST", host=host) as span:
            span.set(tenant=event.tenant, webhook=delivery.webhook, event=payload.public_id(event.id))
            result = await post(self._http, webhook.url, body, signed)
            if result.status is None:
                span.set(error=result.error or "none")
            else:
                span.set_status(result.status, error_from=300)  # redirects are not followed
        now = await self._time()
        if result.is_delivered:
            await outbox.mark_delivered(self._vault, delivery, status=result.status or 0, now=now)
            counts["delivered"] += 1
            return result
        # 410 Gone: the receiver does not want this event any more.
        final = result.status == 410 or self._is_too_old(delivery, now)
        next_at = self._retry_at(delivery, result, now)
        await outbox.mark_failed(
            self._vault, delivery, status=result.status, error=result.error, next_at=next_at, final=final
        )
        if result.is_unavailable:
            self._paused_until[delivery.webhook] = now + _requested_pause(result, now)
        counts["failed" if final else "refused"] += 1
        log.warning(
            "delivery.failed" if final else "delivery.refused", webhook=delivery.webhook,
            event_id=payload.public_id(event.id), status=result.status, error=result.error,
        )  # fmt: skip
        return result

    async def _consent_link(self, event: OutboxEvent) -> str | None:
        """Return the link for a new consent, if needed."""
        if not payload.needs_consent(event):
            return None
        application = self._application_of(event.tenant)
        if application is None:
            template = self._events.reauthorize_url
            return payload.fill_link(template, event) if template else None
        return await consent_link(
            self._vault,
            application,
            tenant=event.tenant,
            connection=event.connection or "",
            user_id=event.user_id or "",
            needs=(event.message or "").split() if event.kind == EventKind.SCOPES_LOST else (),
            now=await self._time(),
        )

    async def _postpone(self, untried: Sequence[Delivery], result: PostResult) -> None:
        now = await self._time()
        for delivery in untried:
            await outbox.postpone(
                self._vault, delivery,
                next_at=self._retry_at(delivery, result, now), final=self._is_too_old(delivery, now),
            )  # fmt: skip

    def _is_too_old(self, delivery: Delivery, now: datetime) -> bool:
        return now - delivery.queued_at >= timedelta(seconds=self._events.give_up)

    def _retry_at(self, delivery: Delivery, result: PostResult, now: datetime) -> datetime:
        wait = _requested_pause(result, now).total_seconds()
        return schedule.after_failure(delivery.attempts + 1, now, self._jitter(), wait)


def _requested_pause(result: PostResult, now: datetime) -> timedelta:
    """Return the pause that a receiver asks for, limited."""
    return min(timedelta(seconds=retry_after(result.headers, now) or 0), MAX_RETRY_AFTER)


def webhook_filters(webhooks: Mapping[str, WebhookSettings]) -> list[WebhookFilter]:
    """Return which events each webhook gets, by full names.

    The settings may name only the beginning of a kind.
    """
    return [
        WebhookFilter(
            name,
            tuple(kind.value for kind in EventKind if not webhook.events or kind.is_in(webhook.events)),
            webhook.tenants,
        )
        for name, webhook in webhooks.items()
    ]
