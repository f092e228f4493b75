"""Settings of consumers, and of the audit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from worker.settings.problems import Fault
from worker.settings.section import Section

# Postgres truncates longer names of roles, which could give one role the rights of another.
MAX_ROLE_BYTES = 63
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

Name = Annotated[str, Field(min_length=1, max_length=200)]


class ConsumerSettings(Section):
    """An app that may read tokens, and which ones.

    Attributes:
        client_id: an Auth0 machine application, for reads over HTTP.
        role: a Postgres login role, for reads by ``token_vault``.
        api_key_hash: as ``token-vault consumers key`` prints it, for reads over HTTP.
        connections: names or patterns of connections; ``*`` stands for any characters.
        tenants: their names; None for all.
        users, admins: whether it may read users' tokens, and admin tokens.
        refresh: whether it may have a token replaced that is still valid.
        impersonate: whether it may call providers' APIs through the proxy for users whom it names.
        audit: ``strict`` refuses a read that cannot be recorded.
    """

    client_id: Name | None = None
    role: Name | None = None
    api_key_hash: Annotated[str, Field(pattern=r"\Asha256:[0-9a-f]{64}\z")] | None = Field(
        default=None, repr=False
    )
    connections: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
    tenants: tuple[Name, ...] | None = None
    users: bool = True
    admins: bool = False
    refresh: bool = False
    impersonate: bool = False
    audit: Literal["batched", "strict"] = "batched"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not (self.client_id or self.role or self.api_key_hash):
            raise ValueError("give client_id, role or api_key_hash: nothing else says who it is")
        if self.impersonate and not (self.client_id or self.api_key_hash):
            raise ValueError("impersonate is for calls over HTTP: give client_id or api_key_hash")
        return self

    @field_validator("role")
    @classmethod
    def _check_role(cls, role: str | None) -> str | None:
        if role is not None and len(role.encode()) > MAX_ROLE_BYTES:
            raise ValueError(
                f"role has more than {MAX_ROLE_BYTES} bytes, which is no name of a Postgres role"
            )
        return role


class AuditSettings(Section):
    """How records of reads are kept.

    Attributes:
        keep: seconds that records are kept, at least. They are deleted a month at a time.
        path: of a file to which records are appended, as JSON lines.
    """

    keep: Annotated[float, Field(ge=86_400, le=100 * 365 * 86_400, allow_inf_nan=False)] = 400 * 86_400
    path: Path | None = None


def check_consumers(consumers: Mapping[str, ConsumerSettings]) -> Iterator[Fault]:
    """Find invalid names, and consumers with the same identity."""
    known: dict[tuple[str, str], str] = {}
    for name, consumer in consumers.items():
        if not _NAME.fullmatch(name):
            message = "a consumer's name has letters, digits, dots, hyphens and underscores, 63 at most"
            yield ("consumers", name), message, None
        for identity in ("client_id", "role", "api_key_hash"):
            value = getattr(consumer, identity)
            if value is not None and (other := known.setdefault((identity, value), name)) != name:
                message = f"consumers {other} and {name} have the same {identity}: one of them has to go"
                yield ("consumers", name, identity), message, None
