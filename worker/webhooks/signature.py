"""Signatures of Standard Webhooks: HMAC-SHA256 over ``id.timestamp.body``.

Source: https://github.com/standard-webhooks/standard-webhooks, spec 1.0.0, "Signature scheme" and "Webhook headers".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from token_vault.secret import Secret
from worker.settings import webhook_key


def headers(event_id: str, body: bytes, secrets: Sequence[Secret], *, now: datetime) -> dict[str, str]:
    """Return the headers of one attempt.

    Args:
        event_id: the same for each attempt; without a full stop.
        body: the bytes that are sent.
        secrets: each makes a signature. While one is being replaced, a receiver may know any of them.
        now: the time of the attempt.
    """
    timestamp = str(int(now.timestamp()))
    signed = f"{event_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets),
    }


def _signature(secret: Secret, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(webhook_key(secret), signed, hashlib.sha256)).decode()
