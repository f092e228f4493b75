"""Grants that are not served, as Auth0 does not have their user any more.

Revision ID: 0029
Revises: 0028
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"

CONDITION = "withdrawn_at IS NULL AND "


def upgrade() -> None:
    op.add_column("grants", sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("grants_withdrawn_is_missing_check"),
        "grants",
        "withdrawn_at IS NULL OR missing_since IS NOT NULL",
    )
    before, where, condition = _definition().partition("\n  WHERE ")
    _replace(f"{before}{where}{CONDITION}({condition})")


def downgrade() -> None:
    before, where, condition = _definition().partition("\n  WHERE ")
    others = condition.replace("((withdrawn_at IS NULL) AND ", "").removesuffix(")")
    _replace(f"{before}{where}{others}")
    op.drop_constraint(op.f("grants_withdrawn_is_missing_check"), "grants")
    op.drop_column("grants", "withdrawn_at")


def _definition() -> str:
    """The view as it stands: its columns and readers are other migrations' concern."""
    found: str = (
        op.get_bind().exec_driver_sql("SELECT pg_get_viewdef('served_tokens'::regclass)").scalar_one()
    )
    return found.rstrip().rstrip(";")


def _replace(query: str) -> None:
    """Replace the view, and keep what roles were granted on it."""
    statement = f"CREATE OR REPLACE VIEW served_tokens WITH (security_barrier) AS {query}"
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
