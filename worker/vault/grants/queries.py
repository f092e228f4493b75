"""Queries on grants that read no token and no ciphertext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import text

from token_vault.errors import ConfigurationError
from token_vault.grant_key import GrantKey
from worker.vault.db.sql import load
from worker.vault.vault import Database, Vault

SortOrder = Literal["id", "expires", "user"]

_LIST = load(__file__, "list_grants")
_COUNT = load(__file__, "count_grants")
_FIRST = {"id": "", "expires": "-infinity", "user": ""}


@dataclass(frozen=True, slots=True)
class GrantFilter:
    """Which grants are selected; None selects any.

    Attributes:
        user_id: Auth0's user id; empty for admin grants only.
        state: as in ``token_status``, including ``blocked`` and ``expired``, or ``ended``.
        expires_before: the latest end of the access token.
        grant_id: the id that log events name.
        is_served: without withdrawn grants, as readers see them.
    """

    user_id: str | None = None
    connection: str | None = None
    state: str | None = None
    provider: str | None = None
    expires_before: datetime | None = None
    grant_id: int | None = None
    is_served: bool = False


ANY_GRANT = GrantFilter()


async def list_grants(
    vault: Database,
    tenants: Sequence[str],
    wanted: GrantFilter = ANY_GRANT,
    *,
    sort: SortOrder = "id",
    after: str | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Return the status rows of grants, in an order.

    Args:
        wanted: which grants.
        sort: by id, by the end of the access token, or by user.
        after: where the previous page ended, as ``cursor`` returns it.
        limit: the most rows.

    Raises:
        ConfigurationError: ``after`` is not a cursor of this order.
    """
    begin = _read_cursor(after, sort)
    values = {**_values(tenants, wanted), **begin, "sort": sort, "limit": limit}
    async with vault.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(_LIST, values)).mappings()]


async def count_grants(vault: Database, tenants: Sequence[str], wanted: GrantFilter = ANY_GRANT) -> int:
    """Count the grants that a list would show."""
    async with vault.engine.connect() as connection:
        return int((await connection.execute(_COUNT, _values(tenants, wanted))).scalar_one())


def cursor(row: Mapping[str, Any], sort: SortOrder) -> str:
    """Return where a page ended, from its last row."""
    match sort:
        case "expires":
            return f"{row['expires_at'].isoformat() if row['expires_at'] else 'infinity'},{row['id']}"
        case "user":
            return f"{row['user_id'] or ''},{row['id']}"
        case _:
            return str(row["id"])


def _read_cursor(after: str | None, sort: SortOrder) -> dict[str, Any]:
    """Return where to continue; by default at the beginning."""
    value, _, grant_id = (after or f"{_FIRST[sort]},0").rpartition(",")
    found: dict[str, Any] = {"after_time": None, "after_user": None}
    try:
        found["after_id"] = int(grant_id)
        if sort == "expires":
            found["after_time"] = (
                value if value in ("-infinity", "infinity") else datetime.fromisoformat(value).isoformat()
            )
        elif sort == "user":
            found["after_user"] = value
    except ValueError:
        raise ConfigurationError(
            f"{after} is no cursor of a list sorted by {sort}: give what a list in this order printed"
        ) from None
    return found


def _values(tenants: Sequence[str], wanted: GrantFilter) -> dict[str, Any]:
    return {"tenants": list(tenants), **asdict(wanted)}


async def last_observed(vault: Vault, tenant: str, user_ids: Sequence[str]) -> dict[str, datetime]:
    """Return the oldest ``updated_at`` observed of each user's grants."""
    statement = text("""
        SELECT user_id, min(observed_updated_at) FROM grants
        WHERE user_id = ANY(:user_ids) AND tenant = :tenant GROUP BY user_id
    """)
    async with vault.engine.connect() as connection:
        rows = (await connection.execute(statement, {"user_ids": list(user_ids), "tenant": tenant})).all()
    return {user_id: updated_at for user_id, updated_at in rows if updated_at is not None}


async def shortest_half_life(
    database: Database, tenant: str | None, user_id: str, connection: str
) -> float | None:
    """Return half the life of a token, in seconds.

    The shortest of this user and connection; None where no life is known.
    """
    statement = text("""
        SELECT min(extract(epoch FROM expires_at - obtained_at))::float8 / 2 FROM grants
        WHERE user_id = :user_id AND connection = :connection AND expires_at > obtained_at
            AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
    """)
    values = {"user_id": user_id, "connection": connection, "tenant": tenant}
    ((half,),) = await database.run(statement, values)
    return None if half is None else float(half)


async def renewal_age(database: Database, grant_id: int) -> float | None:
    """Return the seconds since a renewal brought this token.

    None if it did not come from a renewal.
    """
    statement = text("""
        SELECT extract(epoch FROM now() - obtained_at)::float8 FROM grants
        WHERE id = :id AND obtained_from = 'renewal'
    """)
    rows = await database.run(statement, {"id": grant_id})
    return float(rows[0][0]) if rows and rows[0][0] is not None else None


async def list_tenants(vault: Database, name: str | None = None) -> list[str]:
    """Return the tenants with connections in the vault.

    Args:
        name: return only this one, if it is among them.
    """
    statement = text("""
        SELECT DISTINCT tenant FROM connections WHERE CAST(:name AS text) IS NULL OR tenant = :name ORDER BY tenant
    """)
    return [row[0] for row in await vault.run(statement, {"name": name})]


async def find_admin_grant(vault: Vault, tenant: str, connection: str) -> int | None:
    """Return the id of a connection's admin grant, if any."""
    statement = text(
        "SELECT id FROM grants WHERE tenant = :tenant AND connection = :connection AND user_id = ''"
    )
    rows = await vault.run(statement, {"tenant": tenant, "connection": connection})
    return rows[0][0] if rows else None


async def list_keys(vault: Vault, tenant: str, user_id: str) -> list[tuple[int, GrantKey]]:
    """Return ids and keys of a user's grants.

    Erased ones are left out.
    """
    statement = text("""
        SELECT id, connection, provider_user_id FROM grants
        WHERE user_id = :user_id AND tenant = :tenant AND user_id <> '' AND state <> 'erased' ORDER BY id
    """)
    rows = await vault.run(statement, {"user_id": user_id, "tenant": tenant})
    return [(id_, GrantKey(tenant, connection, user_id, subject)) for id_, connection, subject in rows]
