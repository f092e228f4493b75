"""Sync of large tenants: cursors of feeds, marks of missing users, and tombstones without a name.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "sync_positions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("feed", sa.Text(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=True),
        sa.Column("page", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("read_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "feed", name=op.f("sync_positions_pkey")),
    )
    op.add_column("grants", sa.Column("user_created_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("grants", sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "grants_walk_idx",
        "grants",
        ["tenant", "user_created_at"],
        unique=False,
        postgresql_where=sa.text("user_id <> ''"),
    )
    op.create_index(
        "grants_missing_idx",
        "grants",
        ["tenant", "missing_since"],
        unique=False,
        postgresql_where=sa.text("missing_since IS NOT NULL"),
    )
    op.create_index(
        "grants_erased_idx",
        "grants",
        ["reason_since"],
        unique=False,
        postgresql_where=sa.text("state = 'erased'"),
    )
    op.add_column("sync_runs", sa.Column("gone", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "sync_runs", sa.Column("complete", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column(
        "sync_runs", sa.Column("resumed", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column(
        "sync_runs",
        sa.Column("notes", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("sync_runs", "notes")
    op.drop_column("sync_runs", "resumed")
    op.drop_column("sync_runs", "complete")
    op.drop_column("sync_runs", "gone")
    op.drop_index("grants_erased_idx", table_name="grants")
    op.drop_index("grants_missing_idx", table_name="grants")
    op.drop_index("grants_walk_idx", table_name="grants")
    op.drop_column("grants", "missing_since")
    op.drop_column("grants", "user_created_at")
    op.drop_table("sync_positions")
