"""A record of reads counts those that a reader served from its cache.

Revision ID: 0024
Revises: 0023
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"

# What is replaced in the function that records reads: columns, values, and the parts of each record.
# Numbers are clipped, so that no record of a batch keeps the others from being written.
CHANGES = (
    ("outcome, request_id, reason)\n", "outcome, request_id, reason, reads)\n"),
    (
        "left(r.reason, 500)\n",
        "left(r.reason, 500),\n        least(greatest(coalesce(r.reads, 1), 1), 1000000000)::integer\n",
    ),
    ("age double precision,", "age double precision, reads double precision,"),
)


def upgrade() -> None:
    op.add_column(
        "audit_records", sa.Column("reads", sa.Integer(), server_default=sa.text("1"), nullable=False)
    )
    _redefine([(old, new) for old, new in CHANGES])


def downgrade() -> None:
    _redefine([(new, old) for old, new in CHANGES])
    op.drop_column("audit_records", "reads")


def _redefine(changes: list[tuple[str, str]]) -> None:
    """Replace parts of the function that records reads."""
    bind = op.get_bind()
    definition: str = bind.exec_driver_sql(
        "SELECT pg_get_functiondef('record_reads(jsonb)'::regprocedure)"
    ).scalar_one()
    for old, new in changes:
        if definition.count(old) != 1:
            raise RuntimeError(f"record_reads is not as expected: {old!r}")
        definition = definition.replace(old, new)
    bind.exec_driver_sql(definition.replace("%", "%%"))
