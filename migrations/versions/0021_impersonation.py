"""Consumers that call providers for named users; their reads are recorded as such.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

PLAIN_SOURCES = "r.source IN ('api', 'command')"
MORE_SOURCES = "r.source IN ('api', 'impersonation', 'command')"


def upgrade() -> None:
    op.add_column(
        "consumers",
        sa.Column("impersonate", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    _redefine(PLAIN_SOURCES, MORE_SOURCES)


def downgrade() -> None:
    _redefine(MORE_SOURCES, PLAIN_SOURCES)
    op.drop_column("consumers", "impersonate")


def _redefine(old: str, new: str) -> None:
    """Replace a part of the function that records reads."""
    bind = op.get_bind()
    definition: str = bind.exec_driver_sql(
        "SELECT pg_get_functiondef('record_reads(jsonb)'::regprocedure)"
    ).scalar_one()
    bind.exec_driver_sql(definition.replace(old, new).replace("%", "%%"))
