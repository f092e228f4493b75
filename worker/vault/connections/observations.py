"""Stores what answers have shown of a connection's provider."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import func, update

from worker.vault.db.tables import ConnectionRow
from worker.vault.vault import Vault

NOTHING_OBSERVED: Mapping[str, Any] = {
    "observed_rotating": False, "observed_grace": None, "observed_life": None, "observed_refresh_life": None,
}  # fmt: skip


async def record_observations(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    rotating: bool = False,
    grace: float | None = None,
    life: timedelta | None = None,
    refresh_life: timedelta | None = None,
) -> None:
    """Store what answers have shown of a provider.

    Each value changes in one direction only: to rotating, and to the shortest time.

    Args:
        rotating: an answer had another refresh token than the one that was spent.
        grace: seconds after which a spent refresh token was refused.
        life, refresh_life: of the tokens in an answer.
    """
    shortest = {"observed_grace": grace, "observed_life": life, "observed_refresh_life": refresh_life}
    columns: dict[str, Any] = {
        column: func.least(getattr(ConnectionRow, column), value)
        for column, value in shortest.items()
        if value is not None
    }
    if rotating:
        columns["observed_rotating"] = True
    async with vault.engine.begin() as connection:
        await connection.execute(
            update(ConnectionRow)
            .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name)
            .values(columns)
        )
