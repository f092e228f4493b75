"""Users whom Auth0's hooks name, until they are synced.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.create_table(
        "changed_users",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "user_id", name=op.f("changed_users_pkey")),
    )
    op.create_index(
        "changed_users_due_idx",
        "changed_users",
        ["tenant", "due_at"],
        postgresql_where=sa.text("synced_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("changed_users")
