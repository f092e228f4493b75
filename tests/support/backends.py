"""Postgres' backends of a test's own database; other test processes have theirs on the same server."""

from __future__ import annotations

from tests.support.readers import Sql


def listens(sql: Sql, channel: str) -> bool:
    """Whether a connection listens to a channel."""
    return bool(
        sql(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s",
            f"LISTEN {channel}%",
        )
    )
