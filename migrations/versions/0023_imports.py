"""Grants that were imported from another store.

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"

CHECK = "grants_obtained_from_check"


def upgrade() -> None:
    op.add_column("grants", sa.Column("imported_refresh", sa.LargeBinary(), nullable=True))
    op.add_column("grants", sa.Column("imported_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_constraint(CHECK, "grants")
    # Rows of before keep to the narrower check: none has to be read under the table's lock.
    op.execute(
        f"ALTER TABLE grants ADD CONSTRAINT {CHECK} CHECK (obtained_from IN ('auth0', 'import', 'renewal')) NOT VALID"
    )


def downgrade() -> None:
    op.execute("UPDATE grants SET obtained_from = 'auth0' WHERE obtained_from = 'import'")
    op.drop_constraint(CHECK, "grants")
    op.create_check_constraint(op.f(CHECK), "grants", "obtained_from IN ('auth0', 'renewal')")
    op.drop_column("grants", "imported_at")
    op.drop_column("grants", "imported_refresh")
