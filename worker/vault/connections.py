"""Connections in the vault: what Auth0 shows of them, and the circuit that guards their token endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.errors import CannotOpen
from worker.tokens import Secret
from worker.vault import due
from worker.vault.database import Vault
from worker.vault.keyring import Place
from worker.vault.tables import ConnectionRow

PROBE_FIRST = timedelta(minutes=1)
PROBE_CAP = timedelta(hours=1)
# A provider that is away comes back by itself: it is found within a margin's half.
PROBE_CAP_AWAY = timedelta(minutes=5)
# Calls in a row that a provider does not answer for itself before it counts as away.
AWAY_AFTER = 5

# When a circuit closes, the grants that waited come back at once up to this number, then at twice the rate every
# few seconds, then at a steady rate: so many a second, or what is through within a margin.
RECOVERY_BURST = 32
RECOVERY_DOUBLING = 5.0
RECOVERY_RATE = 100.0
RECOVERY_TIME = due.MARGIN_CAP


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection as stored, its options still sealed."""

    tenant: str
    name: str
    strategy: str
    provider: str | None
    problem: str | None
    problem_message: str | None
    options_sealed: bytes | None
    options_version: int
    client_fingerprint: bytes | None
    circuit_opened_at: datetime | None
    circuit_until: datetime | None
    circuit_code: str | None
    circuit_blame: str | None
    suspect_grant: int | None
    away: int
    renew: str
    seen_rotating: bool
    seen_grace: float | None
    seen_life: timedelta | None
    seen_refresh_life: timedelta | None
    missing_since: datetime | None


_STORED = (
    ConnectionRow.tenant, ConnectionRow.name, ConnectionRow.strategy, ConnectionRow.provider, ConnectionRow.problem,
    ConnectionRow.problem_message, ConnectionRow.options_sealed, ConnectionRow.options_version,
    ConnectionRow.client_fingerprint, ConnectionRow.circuit_opened_at, ConnectionRow.circuit_until, ConnectionRow.circuit_code,
    ConnectionRow.circuit_blame, ConnectionRow.suspect_grant, ConnectionRow.away, ConnectionRow.renew,
    ConnectionRow.seen_rotating, ConnectionRow.seen_grace, ConnectionRow.seen_life, ConnectionRow.seen_refresh_life,
    ConnectionRow.missing_since,
)  # fmt: skip


def place_of_options(tenant: str, name: str, version: int) -> Place:
    """Where a connection's options are sealed for."""
    return Place("connections", (tenant, name), "options", version)


def open_options(vault: Vault, stored: StoredConnection) -> Mapping[str, Any] | None:
    """Decrypt what Auth0 last showed of a connection; None where it never showed any options.

    Raises:
        CannotOpen: the refresh ring lacks the key, or the ciphertext is out of place.
    """
    if stored.options_sealed is None:
        return None
    place = place_of_options(stored.tenant, stored.name, stored.options_version)
    options: Mapping[str, Any] = json.loads(vault.refresh.open(place, stored.options_sealed).reveal())
    return options


async def stored(vault: Vault, tenants: Sequence[str], name: str | None = None) -> list[StoredConnection]:
    """Read the connections of these tenants, or the one of this name."""
    statement = (
        select(*_STORED)
        .where(ConnectionRow.tenant.in_(tenants))
        .order_by(ConnectionRow.tenant, ConnectionRow.name)
    )
    if name is not None:
        statement = statement.where(ConnectionRow.name == name)
    async with vault.engine.connect() as connection:
        return [StoredConnection(**row) for row in (await connection.execute(statement)).mappings()]


async def store(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    auth0_id: str,
    strategy: str,
    options: Mapping[str, Any] | None,
    notes: Sequence[str],
    now: datetime,
) -> None:
    """Keep what Auth0 shows of a connection. Absent options never erase the ones held."""
    before = await stored(vault, [tenant], name)
    columns: dict[str, Any] = {
        "auth0_id": auth0_id, "strategy": strategy, "notes": list(notes), "synced_at": now,
        "missing_since": None,
    }  # fmt: skip
    if options is not None and not (before and _same_options(vault, before[0], options)):
        version = (before[0].options_version if before else 0) + 1
        sealed = vault.refresh.seal(place_of_options(tenant, name, version), Secret(json.dumps(options)))
        columns |= {"options_sealed": sealed, "options_version": version}
    statement = insert(ConnectionRow).values(tenant=tenant, name=name, **columns)
    async with vault.engine.begin() as connection:
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=[ConnectionRow.tenant, ConnectionRow.name], set_=columns
            )
        )


def _same_options(vault: Vault, before: StoredConnection, options: Mapping[str, Any]) -> bool:
    try:
        return open_options(vault, before) == options
    except CannotOpen:
        return False  # what cannot be read any more is replaced by what Auth0 shows now


async def settle(
    vault: Vault,
    stored: StoredConnection,
    *,
    provider: str | None,
    client_id: str | None,
    fingerprint: bytes | None,
    problem: str | None,
    problem_message: str | None,
    renew: str = "eager",
    now: datetime | None = None,
) -> bool:
    """Record whether a connection's tokens can be renewed, and by which client.

    A client with other credentials or another endpoint than before closes the circuit: a wrong secret heals
    when it is corrected. Grants that slept are woken when all are to be kept fresh again.

    Args:
        now: the time, by default the database's.

    Returns:
        Whether anything changed.
    """
    before = (
        stored.provider,
        stored.client_fingerprint,
        stored.problem,
        stored.problem_message,
        stored.renew,
    )
    if before == (provider, fingerprint, problem, problem_message, renew):
        return False
    columns: dict[str, Any] = {
        "provider": provider, "client_id": client_id, "client_fingerprint": fingerprint,
        "problem": problem, "problem_message": problem_message, "renew": renew,
    }  # fmt: skip
    if stored.client_fingerprint != fingerprint:
        columns |= _CLOSED
    if stored.provider != provider:
        columns |= _NOTHING_SEEN
    async with vault.engine.begin() as connection:
        await connection.execute(
            update(ConnectionRow)
            .where(ConnectionRow.tenant == stored.tenant, ConnectionRow.name == stored.name)
            .values(columns)
        )
        if stored.renew == "on-read" and renew == "eager":
            await connection.execute(_WAKE, {"tenant": stored.tenant, "name": stored.name})
        if stored.client_fingerprint != fingerprint and stored.circuit_opened_at is not None:
            await _spread(connection, stored.tenant, stored.name, now or await vault.now())
    return True


_CLOSED: Mapping[str, Any] = {
    "circuit_opened_at": None, "circuit_until": None, "circuit_code": None, "circuit_failures": 0,
    "circuit_blame": None, "suspect_grant": None, "away": 0,
}  # fmt: skip
_NOTHING_SEEN: Mapping[str, Any] = {
    "seen_rotating": False, "seen_grace": None, "seen_life": None, "seen_refresh_life": None,
}  # fmt: skip

_WAKE = text("""
UPDATE grants SET due_at = now() + random() * interval '10 minutes'
WHERE tenant = :tenant AND connection = :name AND claim_owner IS NULL AND attempts = 0
    AND due_at IS NOT NULL AND (expires_at IS NULL OR due_at > expires_at)
""")

# What waited behind a circuit becomes due in the order in which its tokens end, slowly at first. A token that
# still lives is not put off beyond its end.
_SPREAD = text("""
WITH waiting AS (
    SELECT id FROM grants WHERE tenant = :tenant AND connection = :name AND due_at <= :now AND claim_owner IS NULL
    FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT grants.id, expires_at,
        greatest(row_number() OVER (ORDER BY expires_at NULLS FIRST, grants.id) - :burst, 0) AS behind,
        greatest(:rate, count(*) OVER () / :at_most) AS rate
    FROM grants JOIN waiting ON waiting.id = grants.id
)
UPDATE grants SET due_at = least(
    :now + make_interval(secs => :doubling * log(2.0, 1 + counted.behind / :burst) + counted.behind / counted.rate),
    CASE WHEN counted.expires_at > :now THEN greatest(:now, counted.expires_at - interval '1 minute') END)
FROM counted WHERE grants.id = counted.id AND counted.behind > 0
""")


async def _spread(connection: AsyncConnection, tenant: str, name: str, now: datetime) -> None:
    values = {
        "tenant": tenant, "name": name, "now": now, "burst": RECOVERY_BURST, "rate": RECOVERY_RATE,
        "doubling": RECOVERY_DOUBLING, "at_most": RECOVERY_TIME.total_seconds(),
    }  # fmt: skip
    await connection.execute(_SPREAD, values)


async def count_away(vault: Vault, *, tenant: str, name: str) -> bool:
    """Count a call that the provider did not answer for itself; says whether it counts as away now."""
    statement = (
        update(ConnectionRow)
        .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name)
        .values(away=ConnectionRow.away + 1)
        .returning(ConnectionRow.away)
    )
    async with vault.engine.begin() as connection:
        return ((await connection.execute(statement)).scalar_one_or_none() or 0) >= AWAY_AFTER


async def count_back(vault: Vault, *, tenant: str, name: str) -> None:
    """Count no failure any more: the provider has answered for itself."""
    statement = (
        update(ConnectionRow).where(ConnectionRow.tenant == tenant, ConnectionRow.name == name).values(away=0)
    )
    async with vault.engine.begin() as connection:
        await connection.execute(statement)


async def learn(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    rotating: bool = False,
    grace: float | None = None,
    life: timedelta | None = None,
    refresh_life: timedelta | None = None,
) -> None:
    """Keep what answers have shown. Each fact goes one way only: towards rotation, and to the shortest time seen.

    Args:
        rotating: an answer brought another refresh token than the one that was spent.
        grace: seconds after which a spent refresh token was refused.
        life, refresh_life: of the tokens in an answer.
    """
    shortest = {"seen_grace": grace, "seen_life": life, "seen_refresh_life": refresh_life}
    columns: dict[str, Any] = {
        column: func.least(getattr(ConnectionRow, column), value)
        for column, value in shortest.items()
        if value is not None
    }
    if rotating:
        columns["seen_rotating"] = True
    async with vault.engine.begin() as connection:
        await connection.execute(
            update(ConnectionRow)
            .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name)
            .values(columns)
        )


async def suspect(vault: Vault, *, tenant: str, name: str, grant_id: int) -> int | None:
    """Note a grant whose refusal may be its own trouble or the connection's.

    Returns:
        The grant that was noted before, since the connection's last renewal; None where none was.
    """
    this = (ConnectionRow.tenant == tenant, ConnectionRow.name == name)
    before = select(ConnectionRow.suspect_grant).where(*this).with_for_update()
    noting = (
        update(ConnectionRow)
        .where(*this, ConnectionRow.suspect_grant.is_(None))
        .values(suspect_grant=grant_id)
    )
    async with vault.engine.begin() as connection:
        noted = (await connection.execute(before)).scalar_one_or_none()
        await connection.execute(noting)
    return noted


async def open_circuit(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    fingerprint: bytes | None,
    code: str,
    began: datetime,
    now: datetime,
    blame: Literal["operator", "nobody"] = "operator",
    chance: float = 0.0,
    retry_after: float | None = None,
) -> datetime | None:
    """Stop renewing a connection's tokens until a probe succeeds or its credentials change.

    Args:
        fingerprint: of the client that was refused; a circuit is not opened for credentials already replaced.
        code: what the provider said.
        blame: who has to act; nobody, where the provider is away.
        chance: 0 to 1, uniform; takes up to an eighth off the pause, so that connections do not probe together.
        retry_after: seconds the provider asked to wait.
        began: when the refused attempt began. Attempts that were under way when the circuit opened
            say nothing new, and do not lengthen the pause.

    Returns:
        When the next probe may be made; None where the circuit stays as it is.
    """
    cap = PROBE_CAP if blame == "operator" else PROBE_CAP_AWAY
    pause = func.least(PROBE_FIRST * func.power(2, func.least(ConnectionRow.circuit_failures, 10)), cap)
    wait = func.greatest(pause * (1 - chance / 8), timedelta(seconds=retry_after or 0))
    statement = (
        update(ConnectionRow)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == name,
            ConnectionRow.client_fingerprint.is_not_distinct_from(fingerprint),
            or_(ConnectionRow.circuit_opened_at.is_(None), ConnectionRow.circuit_opened_at < began),
        )
        .values(
            circuit_opened_at=func.coalesce(ConnectionRow.circuit_opened_at, now),
            circuit_until=now + wait,
            circuit_code=code,
            circuit_blame=blame,
            circuit_failures=ConnectionRow.circuit_failures + 1,
        )
        .returning(ConnectionRow.circuit_until)
    )
    async with vault.engine.begin() as connection:
        return (await connection.execute(statement)).scalar_one_or_none()


async def take_probe(vault: Vault, *, tenant: str, name: str, now: datetime, until: datetime) -> bool:
    """Whether the caller may make the one call that an open circuit is due; nobody else then may before ``until``.

    Batches take the probe with their claim.
    """
    statement = (
        update(ConnectionRow)
        .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name, ConnectionRow.circuit_until <= now)
        .values(circuit_until=until)
        .returning(ConnectionRow.name)
    )
    async with vault.engine.begin() as connection:
        return (await connection.execute(statement)).scalar_one_or_none() is not None


async def probe_again(vault: Vault, *, tenant: str, name: str, now: datetime) -> None:
    """End an open circuit's pause: the probe was given up before anything was asked."""
    statement = (
        update(ConnectionRow)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == name,
            ConnectionRow.circuit_opened_at.is_not(None),
        )
        .values(circuit_until=now)
    )
    async with vault.engine.begin() as connection:
        await connection.execute(statement)


async def close_circuit(vault: Vault, *, tenant: str, name: str, now: datetime) -> None:
    """Renew a connection's tokens again, without a suspicion: one was renewed. What waited follows by and by."""
    this = (ConnectionRow.tenant == tenant, ConnectionRow.name == name)
    was_open = select(ConnectionRow.circuit_opened_at.is_not(None)).where(*this).with_for_update()
    async with vault.engine.begin() as connection:
        spread = (await connection.execute(was_open)).scalar_one_or_none()
        await connection.execute(update(ConnectionRow).where(*this).values(_CLOSED))
        if spread:
            await _spread(connection, tenant, name, now)
