"""The claim on a grant: who may spend its refresh token now, and how the outcome is stored.

A claim is one committed row update, made before the request is sent: with an owner, and a deadline beyond the
longest possible call. It is also the journal. A claim found past its deadline means that its owner died or lost
the database after the request may have reached the provider: the grant is then in doubt since that claim began.

Outcomes are stored under compare-and-swap on the version of the very token that was spent, not on the claim's
owner: an answer that comes late is still stored when nobody has replaced that token, and stores nothing when a
newer login has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.read_model import CHANNEL
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault.db.database import Vault
from worker.vault.db.tables import GrantRow

# A dead grant costs its provider no more than a call in this time, however often an app insists.
FORCED_AGAIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Claim:
    """One grant, claimed: its tokens still sealed, with the versions that storing is compared against.

    Attributes:
        until: nobody else touches the grant before; a request must end well before it.
        in_doubt_since: when an earlier attempt with this refresh token began whose outcome is unknown.
        attempts: failures in a row before this attempt.
    """

    id: int
    key: GrantKey
    owner: UUID
    claimed_at: datetime
    until: datetime
    state: str
    access_ciphertext: bytes | None
    access_version: int
    refresh_ciphertext: bytes | None
    refresh_version: int
    expires_at: datetime | None
    in_doubt_since: datetime | None
    attempts: int
    obtained_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    last_read_at: datetime | None = None

    @property
    def life(self) -> timedelta | None:
        """How long the access token that is being replaced lives, where that is known."""
        return self.expires_at - self.obtained_at if self.expires_at and self.obtained_at else None


# The lateral join walks each healthy connection's range of the due index, so a tick costs what is due; the quotas
# keep one connection's backlog or slow provider from crowding out the others. An open circuit whose pause is over lends its connection one
# probe; moving its pause on in the same statement keeps other workers from probing too. SKIP LOCKED lets workers
# claim side by side: a row that another is just claiming is not waited for.
_CLAIM_DUE = text("""
WITH asked AS (
    SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:quotas AS integer[]))
        AS asked(tenant, name, quota)
), probing AS (
    UPDATE connections c SET circuit_until = :until FROM asked
    WHERE c.tenant = asked.tenant AND c.name = asked.name AND c.circuit_until <= :now
    RETURNING c.tenant, c.name
), open_connections AS (
    SELECT tenant, name, 1 AS quota FROM probing
    UNION ALL
    SELECT tenant, name, quota FROM asked JOIN connections USING (tenant, name) WHERE circuit_until IS NULL
), due AS (
    SELECT g.id FROM open_connections o CROSS JOIN LATERAL (
        SELECT id FROM grants
        WHERE grants.tenant = o.tenant AND grants.connection = o.name AND due_at <= :due_by
        ORDER BY due_at LIMIT o.quota FOR UPDATE SKIP LOCKED
    ) g
    LIMIT :limit
)
UPDATE grants SET
    claim_owner = :owner, claimed_at = :now, claim_until = :until, due_at = :until,
    in_doubt_since = CASE WHEN claim_owner IS NULL THEN in_doubt_since ELSE coalesce(in_doubt_since, claimed_at) END
FROM due WHERE grants.id = due.id
RETURNING grants.id, tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, expires_at, in_doubt_since, attempts, obtained_at, refresh_expires_at, last_read_at
""")

_CLAIM_ONE = text("""
UPDATE grants SET
    claim_owner = :owner, claimed_at = :now, claim_until = :until,
    due_at = CASE WHEN state = 'reauthorization_required' THEN NULL ELSE CAST(:until AS timestamptz) END,
    in_doubt_since = CASE WHEN claim_owner IS NULL THEN in_doubt_since ELSE coalesce(in_doubt_since, claimed_at) END,
    forced_at = CASE WHEN state = 'reauthorization_required' THEN :now ELSE forced_at END
WHERE id = :id AND state <> 'erased' AND (claim_until IS NULL OR claim_until <= :now)
    AND access_version = coalesce(CAST(:seen AS bigint), access_version)
    AND (:by_operator OR CASE WHEN state = 'reauthorization_required'
        THEN :force AND (forced_at IS NULL OR forced_at <= :forced_before)
        ELSE attempts = 0 OR due_at <= :now END)
RETURNING id, tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, expires_at, in_doubt_since, attempts, obtained_at, refresh_expires_at, last_read_at
""")

# One statement, so that the pair is committed with the answer and nothing can come between. Each token is
# compared by itself: a login that brought only a newer access token must not cost us the rotated refresh token.
# A claim of whoever took over is on the token that is replaced, and void. That one, or one whose own outcome was
# unknown, may have presented the token again, and the provider have revoked the new pair with the old: it is kept,
# and tried at once, in doubt.
_STORE = text("""
WITH stored AS (
    UPDATE grants SET
        refresh_ciphertext = CASE WHEN NOT fresh_refresh THEN refresh_ciphertext ELSE :refresh_ciphertext END,
        refresh_version = refresh_version + CAST(fresh_refresh AS integer),
        refresh_expires_at = coalesce(CAST(:refresh_expires_at AS timestamptz), CASE WHEN NOT fresh_refresh THEN refresh_expires_at END),
        access_ciphertext = CASE WHEN same_access THEN :access_ciphertext ELSE access_ciphertext END,
        access_version = access_version + CAST(same_access AS integer),
        expires_at = CASE WHEN same_access THEN :expires_at ELSE expires_at END,
        obtained_at = CASE WHEN same_access THEN :obtained_at ELSE obtained_at END,
        obtained_from = CASE WHEN same_access THEN 'renewal' ELSE obtained_from END,
        scopes = CASE WHEN same_access THEN coalesce(CAST(:scopes AS text[]), scopes) ELSE scopes END,
        due_at = CASE WHEN presented_since THEN :obtained_at WHEN same_access THEN :due_at ELSE least(due_at, :due_at) END,
        state = CASE WHEN presented_since THEN 'in_doubt' ELSE 'active' END,
        reason = CASE WHEN presented_since THEN 'reused' END,
        reason_since = CASE WHEN presented_since THEN coalesce(claimed_at, reason_since, :obtained_at) END,
        in_doubt_since = CASE WHEN presented_since THEN coalesce(claimed_at, reason_since, :obtained_at) END,
        attempts = CASE WHEN same_refresh THEN 0 ELSE attempts END,
        last_error = CASE WHEN same_refresh THEN NULL ELSE last_error END,
        last_renewed_at = :obtained_at,
        claim_owner = CASE WHEN claim_owner = :owner OR is_replaced THEN NULL ELSE claim_owner END,
        claimed_at = CASE WHEN claim_owner = :owner OR is_replaced THEN NULL ELSE claimed_at END,
        claim_until = CASE WHEN claim_owner = :owner OR is_replaced THEN NULL ELSE claim_until END,
        awaited = false
    FROM (
        SELECT id AS held, awaited AS was_awaited,
            CAST(:refresh_ciphertext AS bytea) IS NOT NULL AND claim_owner IS DISTINCT FROM :owner
                AND (claim_owner IS NOT NULL OR in_doubt_since IS NOT NULL OR coalesce(reason = 'lost_in_rotation', false))
                AS presented_since,
            refresh_version = :refresh_version AS same_refresh,
            refresh_version = :refresh_version AND CAST(:refresh_ciphertext AS bytea) IS NOT NULL AS fresh_refresh,
            refresh_version = :refresh_version AND access_version = :access_version AS same_access,
            -- The token that was sent: without a refresh token it is the access token.
            refresh_version = :refresh_version AND (CAST(:refresh_ciphertext AS bytea) IS NOT NULL
                OR refresh_ciphertext IS NULL AND access_version = :access_version) AS is_replaced
        FROM grants WHERE id = :id AND user_id = :user_id FOR UPDATE
    ) now_held
    WHERE id = held AND same_refresh AND state <> 'erased'
        AND (same_access OR fresh_refresh OR claim_owner = :owner)  -- else it says nothing of the grant as it is now
    RETURNING id, was_awaited, same_access
)
SELECT same_access, CASE WHEN was_awaited THEN pg_notify(:channel, CAST(id AS text)) END FROM stored
""")

_RELEASE = text("""
WITH released AS (
    UPDATE grants SET
        claim_owner = NULL, claimed_at = NULL, claim_until = NULL, awaited = false,
        state = coalesce(CAST(:state AS text), state),
        reason = CASE WHEN CAST(:state AS text) IS NULL THEN reason ELSE :reason END,
        reason_since = CASE WHEN CAST(:state AS text) IS NULL THEN reason_since ELSE CAST(:reason_since AS timestamptz) END,
        in_doubt_since = CASE WHEN :settled THEN NULL ELSE coalesce(in_doubt_since, CAST(:in_doubt_since AS timestamptz)) END,
        -- Without a time for a grant that lives: it was dead when it was claimed, and an answer has come in since.
        due_at = CASE WHEN coalesce(CAST(:state AS text), state) IN ('active', 'in_doubt')
            THEN coalesce(CAST(:due_at AS timestamptz), due_at, now()) END,
        attempts = :attempts, last_error = coalesce(:last_error, last_error)
    FROM (SELECT id AS held, awaited AS was_awaited FROM grants WHERE id = :id FOR UPDATE) now_held
    WHERE id = held AND claim_owner = :owner
        AND refresh_version = :refresh_version AND access_version >= :access_version AND state <> 'erased'
    RETURNING id, was_awaited
)
SELECT id, CASE WHEN was_awaited THEN pg_notify(:channel, CAST(id AS text)) END FROM released
""")

_RELEASE_UNSPENT = text("""
WITH released AS (
    UPDATE grants SET
        claim_owner = NULL, claimed_at = NULL, claim_until = NULL, awaited = false,
        due_at = CASE WHEN state IN ('active', 'in_doubt') THEN CAST(:due_at AS timestamptz) END
    FROM (SELECT id AS held, awaited AS was_awaited FROM grants WHERE id = ANY(:ids) FOR UPDATE) now_held
    WHERE id = held AND claim_owner = :owner
    RETURNING id, was_awaited
)
SELECT id, CASE WHEN was_awaited THEN pg_notify(:channel, CAST(id AS text)) END FROM released
""")


async def claim_due(
    vault: Vault,
    quotas: Mapping[tuple[str, str], int],
    *,
    owner: UUID,
    now: datetime,
    until: datetime,
    limit: int,
    due_by: datetime | None = None,
) -> list[Claim]:
    """Claim due grants for one owner, and commit the claims.

    Args:
        quotas: how many grants at the most of which connection, by tenant and name.
        owner: names the batch.
        now: the database's time.
        until: the claims' deadline, beyond the longest possible call.
        limit: how many grants at the most, all together.
        due_by: those that were due then; by default now.
    """
    values = {
        "tenants": [tenant for tenant, _ in quotas], "names": [name for _, name in quotas],
        "quotas": list(quotas.values()), "owner": owner, "now": now, "until": until, "limit": limit,
        "due_by": due_by or now,
    }  # fmt: skip
    async with vault.statement() as connection:
        rows = (await connection.execute(_CLAIM_DUE, values)).all()
    return [_claim(row, owner, now, until) for row in rows]


async def claim_one(
    vault: Vault,
    grant_id: int,
    *,
    owner: UUID,
    now: datetime,
    until: datetime,
    seen: int | None = None,
    force: bool = False,
    by_operator: bool = False,
) -> Claim | None:
    """Claim one grant whatever its due time, and commit.

    Args:
        owner: names the attempt.
        now, until: as for ``claim_due``.
        seen: the version of the access token that is to be replaced; None for whichever there is.
        force: a dead grant too, once a day at the most.
        by_operator: a dead grant at any time, and one that waits in backoff.

    Returns:
        None where another holds it, or where it is not any more as the caller saw it: it looks again then.
    """
    async with vault.statement() as connection:
        values = {
            "id": grant_id, "owner": owner, "now": now, "until": until, "seen": seen, "force": force,
            "by_operator": by_operator, "forced_before": now - FORCED_AGAIN,
        }  # fmt: skip
        row = (await connection.execute(_CLAIM_ONE, values)).one_or_none()
    return None if row is None else _claim(row, owner, now, until)


def _claim(row: object, owner: UUID, now: datetime, until: datetime) -> Claim:
    columns = dict(row._mapping)  # type: ignore[attr-defined]
    key = GrantKey(
        columns.pop("tenant"),
        columns.pop("connection"),
        columns.pop("user_id"),
        columns.pop("provider_user_id"),
    )
    return Claim(key=key, owner=owner, claimed_at=now, until=until, **columns)


def open_refresh(vault: Vault, claim: Claim) -> Secret | None:
    """Decrypt the claimed refresh token.

    Raises:
        CannotDecrypt: the ring lacks its key, or the ciphertext is out of place.
    """
    if claim.refresh_ciphertext is None:
        return None
    return vault.refresh.decrypt(
        EncryptionContext.of_grant(claim.key, "refresh", claim.refresh_version), claim.refresh_ciphertext
    )


def open_access(vault: Vault, claim: Claim) -> Secret | None:
    """Decrypt the claimed access token.

    Raises:
        CannotDecrypt: the ring lacks its key, or the ciphertext is out of place.
    """
    if claim.access_ciphertext is None:
        return None
    return vault.access.decrypt(
        EncryptionContext.of_grant(claim.key, "access", claim.access_version), claim.access_ciphertext
    )


async def store_renewed(
    vault: Vault, claim: Claim, pair: TokenPair, *, obtained_at: datetime, due_at: datetime
) -> bool:
    """Commit a provider's new pair, under compare-and-swap; the first thing done with an answer.

    Args:
        obtained_at: when the request was sent, on the database's clock.
        due_at: when the grant is next due.

    Returns:
        False where a newer login has replaced meanwhile all that the pair would bring: the newer pair stays.
    """
    key = claim.key
    access = pair.access and vault.access.encrypt(
        EncryptionContext.of_grant(key, "access", claim.access_version + 1), pair.access
    )
    refresh = pair.refresh and vault.refresh.encrypt(
        EncryptionContext.of_grant(key, "refresh", claim.refresh_version + 1), pair.refresh
    )
    values = {
        "id": claim.id, "user_id": key.user_id, "owner": claim.owner, "channel": CHANNEL,
        "access_version": claim.access_version, "refresh_version": claim.refresh_version,
        "access_ciphertext": access, "refresh_ciphertext": refresh,
        "expires_at": pair.expires_at, "refresh_expires_at": pair.refresh_expires_at,
        "scopes": None if pair.scopes is None else list(pair.scopes),
        "obtained_at": obtained_at, "due_at": due_at,
    }  # fmt: skip
    async with vault.statement() as connection:
        stored = (await connection.execute(_STORE, values)).one_or_none()
        if stored is not None:
            return stored.same_access or refresh is not None
        owner = select(GrantRow.user_id).where(GrantRow.id == claim.id, GrantRow.user_id != key.user_id)
        user_id = (await connection.execute(owner)).scalar_one_or_none()
    if user_id is None:
        return False
    moved = replace(claim, key=replace(key, user_id=user_id))  # linked to another user during the call
    return await store_renewed(vault, moved, pair, obtained_at=obtained_at, due_at=due_at)


async def release(
    vault: Vault,
    claim: Claim,
    *,
    due_at: datetime | None,
    state: str | None = None,
    reason: str | None = None,
    reason_since: datetime | None = None,
    in_doubt: bool = False,
    settled: bool = False,
    attempts: int | None = None,
    last_error: str | None = None,
) -> bool:
    """Give a claim back without a new pair, and commit what was learned.

    Args:
        due_at: when to look again, None for never.
        state, reason, reason_since: the grant's new state; unchanged where ``state`` is None.
        in_doubt: this attempt's outcome is unknown.
        settled: what was in doubt no longer is.
        attempts: failures in a row; unchanged where None.
        last_error: a provider's code, never its text.

    Returns:
        False where the grant changed underneath (a newer login, an erasure): nothing was written then.
    """
    values = {
        "id": claim.id, "owner": claim.owner, "channel": CHANNEL,
        "access_version": claim.access_version, "refresh_version": claim.refresh_version,
        "state": state, "reason": reason, "reason_since": reason_since, "due_at": due_at,
        "in_doubt_since": claim.claimed_at if in_doubt else None, "settled": settled,
        "attempts": claim.attempts if attempts is None else attempts, "last_error": last_error,
    }  # fmt: skip
    return bool(await vault.run(_RELEASE, values))


_REFUSED_AFTER_ALL = text("""
UPDATE grants SET state = 'in_doubt', reason = 'reused', reason_since = :began, in_doubt_since = :began, due_at = :now
WHERE id = :id AND refresh_version > :refresh_version AND obtained_from = 'renewal' AND claim_owner IS NULL
    AND state = 'active'
RETURNING id
""")


async def still_holds(vault: Vault, claim: Claim) -> bool:
    """Whether a claim still stands; asked before a token in doubt is presented, as its first answer may be in."""
    statement = select(GrantRow.id).where(
        GrantRow.id == claim.id,
        GrantRow.claim_owner == claim.owner,
        GrantRow.refresh_version == claim.refresh_version,
    )
    return bool(await vault.run(statement))


async def refused_after_all(vault: Vault, claim: Claim, *, now: datetime) -> bool:
    """Put a grant in doubt whose refresh token was presented again just before its late answer was stored.

    The provider may have taken the second presentation for theft and revoked the pair that is now held: that is
    found out at once, and if it is so, it is a loss in rotation since that presentation began.

    Returns:
        False where what is held does not descend from the claimed token.
    """
    values = {
        "id": claim.id,
        "refresh_version": claim.refresh_version,
        "began": claim.in_doubt_since,
        "now": now,
    }
    return bool(await vault.run(_REFUSED_AFTER_ALL, values))


async def release_unspent(vault: Vault, claims: Sequence[Claim], *, due_at: datetime) -> None:
    """Give back claims whose request was never sent: no doubt remains of this attempt."""
    if not claims:
        return
    values = {
        "ids": [claim.id for claim in claims], "owner": claims[0].owner, "channel": CHANNEL, "due_at": due_at,
    }  # fmt: skip
    await vault.run(_RELEASE_UNSPENT, values)


async def may_be_forced(vault: Vault, grant_id: int, *, now: datetime) -> bool:
    """Return whether a dead grant was not tried lately."""
    statement = text("SELECT 1 FROM grants WHERE id = :id AND (forced_at IS NULL OR forced_at <= :before)")
    return bool(await vault.run(statement, {"id": grant_id, "before": now - FORCED_AGAIN}))


async def backoff_left(vault: Vault, grant_id: int) -> float:
    """Return the seconds for which a grant still waits after failures."""
    statement = text("""
        SELECT extract(epoch FROM due_at - now())::float8 FROM grants
        WHERE id = :id AND attempts > 0 AND claim_owner IS NULL AND due_at > now()
    """)
    rows = await vault.run(statement, {"id": grant_id})
    return rows[0][0] if rows else 0.0


async def wait_for_release(vault: Vault, grant_id: int, *, deadline: float) -> None:
    """Wait until another worker's claim has ended, or the deadline.

    Args:
        deadline: on the event loop's clock. The wait holds a connection of its own.
    """
    async with vault.statement() as connection:
        # Listening comes first: a claim that ends right after the row is marked is heard of too.
        await connection.execute(text(f"LISTEN {CHANNEL}"))
        now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        if await mark_awaited(connection, grant_id, now):
            raw = await connection.get_raw_connection()
            driver = cast("psycopg.AsyncConnection[Any]", raw.driver_connection)
            seconds = deadline - asyncio.get_running_loop().time()
            async for notification in driver.notifies(timeout=max(0.0, seconds)):
                if notification.payload == str(grant_id):
                    break
        await connection.execute(text(f"UNLISTEN {CHANNEL}"))


async def mark_awaited(connection: AsyncConnection, grant_id: int, now: datetime) -> bool:
    """Ask to be notified when the live claim ends, if any."""
    statement = text("UPDATE grants SET awaited = true WHERE id = :id AND claim_until > :now RETURNING id")
    return (await connection.execute(statement, {"id": grant_id, "now": now})).one_or_none() is not None
