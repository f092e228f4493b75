"""The body of an event, for a receiver.

It has ids, states, times, and a sentence that says who has to do what; never a secret. Pure.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from worker.settings import EventKind
from worker.vault.outbox import OutboxEvent

PREFIX = "evt_"

# Events after which somebody has to sign in or consent again.
_NEEDS_CONSENT = (
    EventKind.REAUTHORIZATION_REQUIRED,
    EventKind.LOST_IN_ROTATION,
    EventKind.EXPIRING,
    EventKind.CONSENT_ENDING,
    EventKind.SCOPES_LOST,
)


def public_id(event_id: Any) -> str:
    """Return an event's id as receivers get it.

    It has no full stop, which separates the parts of the signed text.
    """
    return f"{PREFIX}{event_id.hex}"


def body(event: OutboxEvent, link: str | None) -> bytes:
    """Return the JSON body of a delivery.

    Args:
        link: by which the user consents again; None for none.
    """
    return json.dumps(document(event, link), separators=(",", ":"), ensure_ascii=False).encode()


def document(event: OutboxEvent, link: str | None) -> dict[str, Any]:
    """Return an event as receivers get it."""
    admin = event.user_id == ""
    return {
        "id": public_id(event.id),
        "type": event.kind,
        "timestamp": _time(event.at),
        "data": {
            "tenant": event.tenant,
            "connection": event.connection,
            "user_id": event.user_id or None,
            "provider_user_id": event.provider_user_id or None,
            "admin": admin,
            "provider": event.provider,
            "state": event.state,
            "reason": event.reason,
            "since": _time(event.since or event.at),
            "expires_at": _time(event.expires_at),
            "presumed": event.is_presumed,
            "action": action(event),
            "reauthorize_url": link if needs_consent(event) else None,
        },
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def needs_consent(event: OutboxEvent) -> bool:
    """Whether a user has to consent again."""
    return bool(event.user_id) and event.kind in _NEEDS_CONSENT


def fill_link(template: str, event: OutboxEvent) -> str:
    """Fill an event's ids into the operator's link template."""
    values = {"tenant": event.tenant, "connection": event.connection, "user_id": event.user_id}
    return template.format(**{name: quote(value or "", safe="") for name, value in values.items()})


def action(event: OutboxEvent) -> str:
    """Return a sentence that says who has to do what."""
    consent = f"the user has to sign in again over connection {event.connection}"
    if event.user_id == "":
        consent = f"an administrator has to consent again for connection {event.connection} at Auth0"
    match event.kind:
        case EventKind.REAUTHORIZATION_REQUIRED | EventKind.LOST_IN_ROTATION:
            sentence = _why_dead(event) + f"{consent}."
        case EventKind.EXPIRING:
            sentence = f"The access token ends at {_time(event.expires_at)}, and nothing can renew it: {consent}, with offline access."
        case EventKind.FAILING:
            sentence = (
                f"No user has to: the renewals of this grant have failed since {_time(event.since)} ({event.reason}), and "
                "are tried on. Where it lasts, the operator asks the provider why."
            )
        case EventKind.CONSENT_ENDING:
            counted = f" at the latest, counted from {event.message}" if event.message else ""
            sentence = f"The consent ends at {_time(event.expires_at)}{counted}, and no renewal puts that off: before then {consent}."
        case EventKind.SCOPES_LOST:
            sentence = (
                f"The grant no longer has the scopes {event.message}: where they are needed, {consent}."
            )
        case EventKind.BROKEN if event.state == "blocked":
            sentence = (
                f"The provider refuses the client of connection {event.connection} ({event.reason}): the operator has "
                "to correct its client id and secret at Auth0; its users need do nothing."
            )
        case EventKind.BROKEN if event.state == "away":
            sentence = (
                f"Nothing: the provider of connection {event.connection} does not answer ({event.reason}). Tokens are "
                "served until they end, and renewed when it is back."
            )
        case EventKind.BROKEN:
            sentence = (
                f"The operator has to fix connection {event.connection}: {event.message or event.reason}."
            )
        case EventKind.PAUSED:
            what = f"connection {event.connection}" if event.connection else f"tenant {event.tenant}"
            sentence = (
                f"The operator has paused {what}: tokens are served until they end, and renewed again after "
                "`token-vault resume`."
            )
        case EventKind.FORGOTTEN:
            sentence = "The vault has erased this user: forget the user's id as well."
        case _:
            sentence = "Nothing: tokens are renewed again."
    return sentence


def _why_dead(event: OutboxEvent) -> str:
    """Return a sentence's beginning: why a user must act."""
    if event.kind == EventKind.REAUTHORIZATION_REQUIRED and not event.is_presumed:
        return f"The provider refuses this grant ({event.reason}): "
    if not event.is_presumed:
        return "The refresh token was lost in a rotation whose answer never came: "
    seen = f"The provider has refused this grant {event.message} in words that are no known verdict ({event.reason})"
    if event.kind == EventKind.LOST_IN_ROTATION:
        seen = f"The answer to a renewal never came, and {event.message} none brought a token"
    return f"{seen}, while others were renewed. It is presumed dead, and tried again: until it is healed, "
