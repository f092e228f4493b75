"""Revocations: tokens that the operator wants revoked at their provider, and the results.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

# A refresh token leaves its grant in two ways: the grant is erased, or the token is put on the list of revocations.
NEVER_BACKWARDS = """
DROP TRIGGER grants_never_backwards ON grants;
CREATE TRIGGER grants_never_backwards BEFORE UPDATE ON grants FOR EACH ROW
    WHEN (
        (OLD.refresh_ciphertext IS NOT NULL AND NEW.refresh_ciphertext IS NULL AND NEW.state <> 'erased' {exception})
        OR NEW.refresh_version < OLD.refresh_version
        OR NEW.access_version < OLD.access_version
        OR NEW.observed_updated_at < OLD.observed_updated_at
        OR (OLD.observed_updated_at IS NOT NULL AND NEW.observed_updated_at IS NULL)
    )
    EXECUTE FUNCTION grants_never_backwards();
"""
UNLESS_REVOKED = """
    AND NOT coalesce(NEW.state = 'reauthorization_required' AND NEW.reason = 'revoked', false)
"""


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider_user_id", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("in_doubt", sa.Boolean(), nullable=False),
        sa.Column("access_ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("access_version", sa.BigInteger(), nullable=False),
        sa.Column("access_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("refresh_version", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.CheckConstraint("outcome IN ('revoked', 'not_revoked')", name=op.f("revocations_outcome_check")),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (outcome IS NULL)", name=op.f("revocations_finished_has_outcome_check")
        ),
        sa.CheckConstraint(
            "outcome <> 'revoked' OR (access_ciphertext IS NULL AND refresh_ciphertext IS NULL)",
            name=op.f("revocations_revoked_is_empty_check"),
        ),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["grants.id"], name=op.f("revocations_grant_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("revocations_pkey")),
    )
    op.create_index("revocations_grant_idx", "revocations", ["grant_id"])
    op.create_index(
        "revocations_pending_idx",
        "revocations",
        ["tenant", "connection", "id"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.add_column("grants", sa.Column("renewal_ordered_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(NEVER_BACKWARDS.format(exception=UNLESS_REVOKED))


def downgrade() -> None:
    op.execute(NEVER_BACKWARDS.format(exception=""))
    op.drop_column("grants", "renewal_ordered_at")
    op.drop_table("revocations")
