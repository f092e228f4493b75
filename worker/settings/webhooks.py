"""Settings of events and webhooks."""

from __future__ import annotations

import base64
import binascii
import string
from collections.abc import Sequence
from enum import StrEnum
from typing import Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from token_vault.secret import Secret
from worker.settings.checks import require_https
from worker.settings.section import SecretsField, Section


class EventKind(StrEnum):
    """The names of events. Receivers depend on them."""

    REAUTHORIZATION_REQUIRED = "grant.reauthorization_required"
    LOST_IN_ROTATION = "grant.lost_in_rotation"
    HEALED = "grant.healed"
    EXPIRING = "grant.expiring"
    FAILING = "grant.failing"
    CONSENT_ENDING = "grant.consent_ending"
    SCOPES_LOST = "grant.scopes_lost"
    BROKEN = "connection.broken"
    MENDED = "connection.mended"
    PAUSED = "connection.paused"
    RESUMED = "connection.resumed"
    FORGOTTEN = "user.forgotten"

    def is_in(self, names: Sequence[str]) -> bool:
        """Whether one of the patterns matches.

        A pattern is a whole name, or its beginning, such as ``grant`` or ``grant.*``.
        """
        return any(self == name or self.startswith(f"{name.rstrip('.*')}.") for name in names)


def webhook_key(secret: Secret) -> bytes:
    """Return the signing key of a Standard Webhooks secret.

    Such a secret is ``whsec_`` and the base64 of 24 to 64 bytes.

    Raises:
        ValueError: it is no such secret.
    """
    key = _decode(secret)
    if key is None:
        raise ValueError("a webhook's secret is whsec_ and the base64 of 24 to 64 random bytes")
    return key


def _decode(secret: Secret) -> bytes | None:
    if not secret.reveal().startswith("whsec_"):
        return None
    try:
        key = base64.b64decode(secret.reveal().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if 24 <= len(key) <= 64 else None


def _has_an_address(parts: SplitResult) -> bool:
    try:
        return parts.port != 0 and bool((parts.hostname or "").encode("idna"))
    except ValueError:
        return False


def unknown_event(name: str) -> str:
    """Return the message for an unknown event's name."""
    return f"no event is called {name}: {', '.join(EventKind)}"


class WebhookSettings(Section):
    """A receiver of events.

    Attributes:
        url: events are posted to it.
        secret: signs them; several while one is being replaced.
        events: their kinds, or beginnings of them (``grant``, ``connection``); empty for all.
        tenants: whose events; None for all.
    """

    url: str
    secret: SecretsField = Field(repr=False)
    events: tuple[str, ...] = ()
    tenants: tuple[str, ...] | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = require_https("url", url)
        if parts.username is not None:
            raise ValueError("url must hold no user or password: the signature says who sends")
        if not _has_an_address(parts):
            raise ValueError("url has no host and port that there could be")
        return url

    @field_validator("secret")
    @classmethod
    def _check_secrets(cls, secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
        for secret in secrets:
            webhook_key(secret)
        return secrets

    @field_validator("events")
    @classmethod
    def _check_events(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in events if not any(kind.is_in([name]) for kind in EventKind)]:
            raise ValueError("; ".join(map(unknown_event, unknown)))
        return events


class EventSettings(Section):
    """How events are delivered. All times are in seconds.

    Attributes:
        reauthorize_url: a link by which a user consents again, with ``{tenant}``, ``{connection}``, ``{user_id}``.
        expiring: how long before its end a token that cannot be renewed is reported.
        give_up: how long a delivery is tried.
        keep: how long events are kept, delivered or not.
    """

    reauthorize_url: str | None = None
    expiring: float = Field(default=600, ge=0, allow_inf_nan=False)
    give_up: float = Field(default=3 * 86400, gt=0, allow_inf_nan=False)
    keep: float = Field(default=30 * 86400, gt=0, allow_inf_nan=False)

    @field_validator("reauthorize_url")
    @classmethod
    def _check_reauthorize_url(cls, template: str | None) -> str | None:
        if template is not None:
            _check_template(template)
        return template

    @model_validator(mode="after")
    def _keep_until_given_up(self) -> Self:
        if self.keep < self.give_up:
            raise ValueError("keep has to be as long as give_up, at the least")
        return self


def _check_template(template: str) -> None:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        parsed = [("", "", "", None)]
    for _, name, spec, conversion in parsed:
        if name is not None and (name not in ("tenant", "connection", "user_id") or spec or conversion):
            raise ValueError(
                "reauthorize_url takes {tenant}, {connection} and {user_id}, and no other braces"
            )
    if urlsplit(template).scheme not in ("https", "http"):
        raise ValueError("reauthorize_url has to be a whole URL")
