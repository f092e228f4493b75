"""Ends claims, with a new pair or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Executable, select, text

from token_vault.encryption_context import EncryptionContext
from worker.token_pair import TokenPair
from worker.vault.claims.claim import Claim
from worker.vault.crypto.extra import encrypt_extra
from worker.vault.db.sql import load
from worker.vault.db.tables import GrantRow
from worker.vault.vault import Vault
from worker.vault.wakeups import wake

# Tokens for other targets that a grant keeps: apps must not be able to fill the disk with targets.
MAX_RESOURCE_TOKENS = 32

_STORE_PAIR = load(__file__, "store_pair")
_RELEASE = load(__file__, "release")
_RELEASE_UNSPENT = load(__file__, "release_unspent")
_END_EARLY = text("""
UPDATE grants SET claim_until = :now, due_at = CASE WHEN due_at IS NOT NULL THEN CAST(:now AS timestamptz) END
WHERE id = :id AND claim_owner = :owner AND claim_until > :now
""")
_MARK_REUSED = text("""
UPDATE grants SET state = 'in_doubt', reason = 'reused', reason_since = :presented_at, in_doubt_since = :presented_at,
    due_at = :now
WHERE id = :id AND refresh_version > :refresh_version AND obtained_from = 'renewal' AND claim_owner IS NULL
    AND state = 'active'
RETURNING id
""")


async def store_pair(
    vault: Vault,
    claim: Claim,
    pair: TokenPair,
    *,
    obtained_at: datetime,
    due_at: datetime,
    is_failing: bool = False,
) -> bool:
    """Commit a new pair, before anything else is done.

    Args:
        obtained_at: when the request was sent, on the database's clock.
        due_at: when the grant is next due.
        is_failing: report that this grant's renewals bring no access token.

    Returns:
        False if a newer login has replaced all tokens of the pair: then the newer ones stay.
    """
    key = claim.key
    is_default = claim.target.is_default
    access, refresh, extra = encrypt_pair(vault, claim, pair)
    values = {
        "id": claim.id, "user_id": key.user_id, "owner": claim.owner,
        "access_version": claim.access_version, "refresh_version": claim.refresh_version,
        "access_ciphertext": access, "refresh_ciphertext": refresh, "lacks_access": pair.lacks_access,
        "is_failing": is_failing,
        "expires_at": pair.expires_at, "refresh_expires_at": pair.refresh_expires_at,
        "consent_expires_at": pair.consent_expires_at, "counted_consent_end": pair.counted_consent_end,
        "extra_ciphertext": extra,
        "scopes": None if pair.scopes is None else list(pair.scopes),
        "obtained_at": obtained_at, "due_at": due_at, "is_own": is_default, "resource": claim.target.resource,
        "scope": claim.target.scope, "target_version": claim.target_version + 1,
        "max_resource_tokens": MAX_RESOURCE_TOKENS,
    }  # fmt: skip
    owner = select(GrantRow.user_id).where(GrantRow.id == claim.id, GrantRow.user_id != key.user_id)
    async with vault.statement() as connection:
        stored = (await connection.execute(_STORE_PAIR, values)).one_or_none()
        user_id = None if stored else (await connection.execute(owner)).scalar_one_or_none()
    if stored is not None:
        await wake(vault, [claim.id] if stored.was_awaited else [])
        return stored.same_access or not is_default or refresh is not None
    if user_id is None:
        return False
    moved = replace(claim, key=replace(key, user_id=user_id))  # linked to another user during the call
    return await store_pair(vault, moved, pair, obtained_at=obtained_at, due_at=due_at, is_failing=is_failing)


def encrypt_pair(
    vault: Vault, claim: Claim, pair: TokenPair
) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Encrypt a pair for the claimed grant's next versions.

    Returns:
        The access token, the refresh token and the values beside them; None for each that the answer lacked.
    """
    key = claim.key
    context = (
        EncryptionContext.of_access_token(key, claim.access_version + 1, pair.expires_at)
        if claim.target.is_default
        else EncryptionContext.of_resource_token(key, claim.target, claim.target_version + 1, pair.expires_at)
    )
    access = vault.access.encrypt(context, pair.access) if pair.access else None
    refresh_context = EncryptionContext.of_grant(key, "refresh", claim.refresh_version + 1)
    refresh = vault.refresh.encrypt(refresh_context, pair.refresh) if pair.refresh else None
    return access, refresh, encrypt_extra(vault.access, key, pair.extra)


async def release(
    vault: Vault,
    claim: Claim,
    *,
    due_at: datetime | None,
    state: str | None = None,
    reason: str | None = None,
    reason_since: datetime | None = None,
    in_doubt: bool = False,
    doubt_resolved: bool = False,
    attempts: int | None = None,
    last_error: str | None = None,
    is_failing: bool = False,
    refused_client: bytes | None = None,
) -> bool:
    """Release a claim without a pair; commit the reason.

    Args:
        due_at: when the grant is next due; None for never.
        state, reason, reason_since: the grant's new state; unchanged if ``state`` is None.
        in_doubt: this attempt's outcome is unknown.
        doubt_resolved: the grant is no longer in doubt.
        attempts: failures in a row; unchanged if None.
        last_error: a provider's code, never its text.
        is_failing: report that this grant's renewals fail, once for each access token.
        refused_client: the identity of the client with which a dead grant was refused.

    Returns:
        False if the grant has changed meanwhile (a newer login, an erasure): then nothing was written.
    """
    values = {
        "id": claim.id, "owner": claim.owner,
        "access_version": claim.access_version, "refresh_version": claim.refresh_version,
        "state": state, "reason": reason, "reason_since": reason_since, "due_at": due_at,
        "in_doubt_since": claim.claimed_at if in_doubt else None, "doubt_resolved": doubt_resolved,
        "attempts": claim.attempts if attempts is None else attempts, "last_error": last_error,
        "is_failing": is_failing, "refused_client": refused_client,
    }  # fmt: skip
    return bool(await _release_and_wake(vault, _RELEASE, values))


async def release_unspent(vault: Vault, claims: Sequence[Claim], *, due_at: datetime) -> None:
    """Release claims whose request was never sent.

    Nothing is in doubt then.
    """
    if not claims:
        return
    values = {
        "ids": [claim.id for claim in claims], "owner": claims[0].owner, "due_at": due_at,
    }  # fmt: skip
    await _release_and_wake(vault, _RELEASE_UNSPENT, values)


async def end_early(vault: Vault, claim: Claim, *, now: datetime) -> None:
    """Set a claim's deadline to now: its call is over.

    The next owner finds the claim past its deadline, and the grant in doubt.
    """
    await vault.run(_END_EARLY, {"id": claim.id, "owner": claim.owner, "now": now})


async def _release_and_wake(vault: Vault, statement: Executable, values: dict[str, object]) -> Sequence[int]:
    """Release claims; return the ids of their grants."""
    released = await vault.run(statement, values)
    await wake(vault, [grant_id for grant_id, was_awaited in released if was_awaited])
    return [grant_id for grant_id, _ in released]


async def mark_reused(vault: Vault, claim: Claim, *, now: datetime) -> bool:
    """Put a grant in doubt whose token was sent twice.

    That happens when the late answer to the first request is stored just after the second request was sent. The
    provider may have taken the second request for theft, and revoked the pair that is now stored. So that pair is tried
    at once; if it is refused, it was lost in rotation when the second request was sent.

    Returns:
        False if the stored pair was not obtained with the claimed token.
    """
    values = {
        "id": claim.id,
        "refresh_version": claim.refresh_version,
        "presented_at": claim.in_doubt_since,
        "now": now,
    }
    return bool(await vault.run(_MARK_REUSED, values))
