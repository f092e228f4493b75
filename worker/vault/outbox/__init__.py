"""The outbox: events, and their deliveries to webhooks.

Triggers write the events of grants and connections, in the transaction of the change. A delivery is claimed like a
grant, by one committed update with an owner and a deadline, and made at least once.
"""

from worker.vault.outbox.deliveries import (
    Delivery,
    WebhookFilter,
    claim_due,
    count_undelivered,
    mark_delivered,
    mark_failed,
    postpone,
    queue,
    resend,
)
from worker.vault.outbox.events import (
    OutboxEvent,
    delete_old,
    delete_users_events,
    emit,
    list_events,
    reassign,
    redact_forgotten,
    report_consent_ending,
    report_expiring,
)

__all__ = [
    "Delivery",
    "OutboxEvent",
    "WebhookFilter",
    "claim_due",
    "count_undelivered",
    "delete_old",
    "delete_users_events",
    "emit",
    "list_events",
    "mark_delivered",
    "mark_failed",
    "postpone",
    "queue",
    "reassign",
    "redact_forgotten",
    "report_consent_ending",
    "report_expiring",
    "resend",
]
