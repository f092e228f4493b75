"""Readers' functions notify only while the queue has space.

Any role can fill that queue, and then each transaction that notifies fails: a request must be stored all the same.
Workers look at the requests each second without being notified.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"

NOTIFYING = "\n    PERFORM pg_notify('token_vault_requests', '');\n"
GUARDED = "\n    IF pg_notification_queue_usage() < 0.5 THEN PERFORM pg_notify('token_vault_requests', ''); END IF;\n"


def upgrade() -> None:
    _redefine(NOTIFYING, GUARDED)


def downgrade() -> None:
    _redefine(GUARDED, NOTIFYING)


def _redefine(old: str, new: str) -> None:
    """Replace a line of each function that has it."""
    bind = op.get_bind()
    found = bind.exec_driver_sql(
        "SELECT pg_get_functiondef(oid) FROM pg_proc"
        " WHERE pronamespace = current_schema()::regnamespace AND prokind = 'f'"
    ).scalars()
    for definition in list(found):
        if old in definition:
            bind.exec_driver_sql(definition.replace(old, new).replace("%", "%%"))
