"""Leases in rows instead of advisory locks, workers' heartbeats, and requests that a full queue cannot fail.

Revision ID: 0013
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0009"

# A full queue of notifications, which any role can fill, fails each transaction that notifies, and a request must be
# stored all the same. Workers look at the requests each second without being notified.
NOTIFYING = "    PERFORM pg_notify('token_vault_requests', '');\n"
GUARDED = (
    "    IF pg_notification_queue_usage() < 0.5 THEN PERFORM pg_notify('token_vault_requests', ''); END IF;\n"
)


def _redefine_request(old: str, new: str) -> None:
    """Replace a line of the function that readers' roles call."""
    bind = op.get_bind()
    definition: str = bind.exec_driver_sql(
        "SELECT pg_get_functiondef('request_refresh(bigint, double precision, double precision)'::regprocedure)"
    ).scalar_one()
    bind.exec_driver_sql(definition.replace(old, new).replace("%", "%%"))


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("leases_pkey")),
    )
    op.create_table(
        "worker_heartbeats",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("queues", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("worker", name=op.f("worker_heartbeats_pkey")),
    )
    _redefine_request(NOTIFYING, GUARDED)


def downgrade() -> None:
    _redefine_request(GUARDED, NOTIFYING)
    op.drop_table("worker_heartbeats")
    op.drop_table("leases")
