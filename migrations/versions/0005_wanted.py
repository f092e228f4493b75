"""Users whom an export of the tenant names as changed, until each was asked for.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "wanted_users",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id", name=op.f("wanted_users_pkey")),
    )


def downgrade() -> None:
    op.drop_table("wanted_users")
