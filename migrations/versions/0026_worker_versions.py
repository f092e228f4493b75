"""The version that each worker runs.

Revision ID: 0026
Revises: 0025
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    # Without a value, the row is of a worker from before this revision.
    op.add_column("worker_heartbeats", sa.Column("version", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("worker_heartbeats", "version")
