"""Refusals as evidence: each is kept until its grant is renewed, and all of a connection are weighed together.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

# A renewal, a login, a verdict and an erasure all settle what was refused before.
GRANTS_SETTLE_REFUSALS = """
CREATE FUNCTION grants_settle_refusals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM refusals WHERE grant_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER grants_settle_refusals AFTER UPDATE ON grants FOR EACH ROW
    WHEN (OLD.attempts > 0 AND NEW.attempts = 0
        OR OLD.state IS DISTINCT FROM NEW.state AND NEW.state IN ('reauthorization_required', 'erased', 'unrenewable'))
    EXECUTE FUNCTION grants_settle_refusals();
"""

DEAD_HAS_REASON = "state <> 'reauthorization_required' OR reason IS NOT NULL"
DEAD_IS_NEVER_DUE = "state <> 'reauthorization_required' OR (reason IS NOT NULL AND due_at IS NULL)"


def upgrade() -> None:
    op.create_table(
        "refusals",
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("client", sa.LargeBinary(), nullable=False),
        sa.Column("suspicion", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "suspicion IN ('client', 'unclear', 'held', 'outage', 'throttled')",
            name=op.f("refusals_suspicion_check"),
        ),
        sa.CheckConstraint("tries > 0 AND first_at <= last_at", name=op.f("refusals_whole_check")),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["grants.id"], name=op.f("refusals_grant_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("grant_id", name=op.f("refusals_pkey")),
    )
    op.create_index("refusals_connection_idx", "refusals", ["tenant", "connection", "last_at"])
    op.add_column("connections", sa.Column("client_identity", sa.LargeBinary(), nullable=True))
    op.add_column("connections", sa.Column("client_changed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("connections", sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("connections", sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_column("connections", "suspect_grant")
    op.drop_column("connections", "failed_calls")
    op.add_column("grants", sa.Column("refused_client", sa.LargeBinary(), nullable=True))
    op.drop_constraint(op.f("grants_dead_has_reason_check"), "grants")
    op.create_check_constraint(op.f("grants_dead_has_reason_check"), "grants", DEAD_HAS_REASON)
    op.create_index(
        "grants_dead_idx",
        "grants",
        ["tenant", "connection"],
        postgresql_where=sa.text("state = 'reauthorization_required'"),
    )
    op.execute(GRANTS_SETTLE_REFUSALS)


def downgrade() -> None:
    op.execute("DROP TRIGGER grants_settle_refusals ON grants; DROP FUNCTION grants_settle_refusals();")
    op.drop_index("grants_dead_idx", "grants")
    op.execute("UPDATE grants SET due_at = NULL WHERE state = 'reauthorization_required'")
    op.drop_constraint(op.f("grants_dead_has_reason_check"), "grants")
    op.create_check_constraint(op.f("grants_dead_has_reason_check"), "grants", DEAD_IS_NEVER_DUE)
    op.drop_column("grants", "refused_client")
    # The constraint has the name that it had before, which Postgres 18 keeps.
    op.execute(
        "ALTER TABLE connections ADD COLUMN failed_calls integer CONSTRAINT connections_away_not_null NOT NULL DEFAULT 0"
    )
    op.add_column("connections", sa.Column("suspect_grant", sa.BigInteger(), nullable=True))
    for column in ("answered_at", "renewed_at", "client_changed_at", "client_identity"):
        op.drop_column("connections", column)
    op.drop_table("refusals")
