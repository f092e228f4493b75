"""Revokes a grant at its provider before erasure (RFC 7009)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import uuid4

import structlog

from token_vault.errors import CannotDecrypt
from token_vault.secret import Secret
from worker.providers import Client, Provider
from worker.renewal.engine import CLAIM_TIME
from worker.renewal.http import Answer, HttpClient, send
from worker.vault import claims
from worker.vault.claims import Claim
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)


class RevocationOutcome(StrEnum):
    """How a revocation ended."""

    DONE = "revoked"
    FAILED = "not_revoked"
    BUSY = "busy"
    """The refresh token is in use: its renewal would bring a new pair, which would not be revoked."""


async def revoke(
    vault: Vault, http: HttpClient, grant_id: int, client: Client, provider: Provider, *, now: datetime
) -> RevocationOutcome:
    """Claim and revoke a grant; the erasure ends the claim."""
    claim = await claims.claim_one(
        vault, grant_id, owner=uuid4(), now=now, until=now + CLAIM_TIME, by_operator=True
    )
    if claim is None:
        return RevocationOutcome.BUSY
    is_revoked = await _revoke(vault, http, claim, client, provider)
    if not is_revoked:
        log.warning("revocation.failed", grant=grant_id, connection=claim.key.connection)
    return RevocationOutcome.DONE if is_revoked else RevocationOutcome.FAILED


async def _revoke(vault: Vault, http: HttpClient, claim: Claim, client: Client, provider: Provider) -> bool:
    try:
        token, kind = _token(vault, claim)
        if token is None or client.revocation_url is None:
            return False
        request = provider.revocation(
            client, client.revocation_url, token=token, kind=kind, now=claim.claimed_at
        )
    except CannotDecrypt as error:
        log.error("revocation.skipped", grant=claim.id, error=str(error))  # noqa: TRY400  # the message says it all
        return False
    answer = await send(http, request)
    return isinstance(answer, Answer) and 200 <= answer.status < 300


def _token(vault: Vault, claim: Claim) -> tuple[Secret | None, str]:
    """Return the token to revoke, and its kind.

    The refresh token if there is one, as providers revoke the whole grant with it.
    """
    refresh = claims.decrypt_refresh_token(vault, claim)
    return (
        (refresh, "refresh_token") if refresh else (claims.decrypt_access_token(vault, claim), "access_token")
    )
