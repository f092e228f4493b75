"""An identity belongs to one user.

Revision ID: 0034
Revises: 0033
"""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"

# Two processes that read an identity under different users at the same time, or an import under an earlier user, have
# stored it twice: two refresh tokens of one consent, of which a rotating provider takes one. What was renewed last is
# the one that lives; the next sync moves it to the user whom Auth0 shows.
DELETE_OLDER = """
DELETE FROM grants WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (
            PARTITION BY provider_user_id, connection, tenant
            ORDER BY state = 'erased', refresh_ciphertext IS NULL, state NOT IN ('active', 'in_doubt'),
                coalesce(last_renewed_at, obtained_at) DESC NULLS LAST, observed_updated_at DESC NULLS LAST, id DESC
        ) AS place FROM grants
    ) ranked WHERE place > 1)
"""


def upgrade() -> None:
    op.execute(DELETE_OLDER)
    op.drop_index("grants_subject_idx", table_name="grants")
    op.create_index(
        "grants_identity_idx", "grants", ["provider_user_id", "connection", "tenant"], unique=True
    )


def downgrade() -> None:
    op.drop_index("grants_identity_idx", table_name="grants")
    op.create_index("grants_subject_idx", "grants", ["provider_user_id", "connection", "tenant"])
