"""Connections that Auth0 seems to have deleted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from worker.vault.vault import Vault

_LIST_ABSENT = text("""
SELECT name, auth0_id FROM connections
WHERE tenant = :tenant AND auth0_id IS NOT NULL AND missing_since IS NULL AND NOT name = ANY(:observed) ORDER BY name
""")


async def list_absent(vault: Vault, tenant: str, observed: Sequence[str]) -> dict[str, str]:
    """Return the stored connections that Auth0 does not list.

    Args:
        observed: the names of those that it lists.

    Returns:
        Auth0's ids by name, without connections that are already marked.
    """
    rows = await vault.run(_LIST_ABSENT, {"tenant": tenant, "observed": list(observed)})
    return {name: auth0_id for name, auth0_id in rows}  # noqa: C416  # rows are not pairs to dict()


_MARK_MISSING = text("""
UPDATE connections SET missing_since = :now WHERE tenant = :tenant AND name = :name AND missing_since IS NULL
""")


async def mark_missing(vault: Vault, tenant: str, name: str, *, now: datetime) -> None:
    """Mark a connection that Auth0 does not have."""
    await vault.run(_MARK_MISSING, {"tenant": tenant, "name": name, "now": now})


_COUNT_MISSING = text("""
SELECT coalesce(array_agg(name ORDER BY name) FILTER (WHERE missing_since <= :before), '{}'),
    count(*) FILTER (WHERE missing_since IS NOT NULL), count(*)
FROM connections WHERE tenant = :tenant AND auth0_id IS NOT NULL
""")


async def count_missing(vault: Vault, tenant: str, *, before: datetime) -> tuple[list[str], int, int]:
    """Return connections marked before a time, and two counts.

    The counts are of marked connections, and of all connections.
    """
    ((names, gone, everything),) = await vault.run(_COUNT_MISSING, {"tenant": tenant, "before": before})
    return list(names), int(gone), int(everything)
