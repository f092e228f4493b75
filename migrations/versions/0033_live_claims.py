"""A claim leaves the due time as it is, and is nobody else's while it is under way.

Revision ID: 0033
Revises: 0032
"""

from __future__ import annotations

from importlib import import_module

from alembic import op

revision = "0033"
down_revision = "0032"

# Workers of an earlier version take what is due for unclaimed, and may still run beside new ones: what they may not
# claim is passed over, as if another worker had locked it.
KEEP_LIVE_CLAIM = """
CREATE FUNCTION grants_keep_live_claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;
END $$;
CREATE TRIGGER grants_keep_live_claim BEFORE UPDATE ON grants FOR EACH ROW
    WHEN (NEW.claim_owner <> OLD.claim_owner AND NEW.claimed_at < OLD.claim_until)
    EXECUTE FUNCTION grants_keep_live_claim();
"""

# Nothing is renewed before the end of its claim.
DUE_AT = "g.due_at AS next_renewal_at"
DUE_AFTER_CLAIM = (
    "CASE WHEN g.due_at IS NOT NULL THEN greatest(g.due_at, g.claim_until) END AS next_renewal_at"
)

# The view as an earlier migration made it.
PAUSES = import_module("migrations.versions.0022_pauses")


def upgrade() -> None:
    op.execute(KEEP_LIVE_CLAIM)
    _define_status(DUE_AFTER_CLAIM)


def downgrade() -> None:
    _define_status(DUE_AT)
    op.execute("DROP TRIGGER grants_keep_live_claim ON grants")
    op.execute("DROP FUNCTION grants_keep_live_claim()")
    # What is claimed at this moment is due at the claim's end, as before.
    op.execute("UPDATE grants SET due_at = claim_until WHERE due_at < claim_until")


def _define_status(next_renewal_at: str) -> None:
    view = PAUSES.TOKEN_STATUS.format(**PAUSES.AFTER).replace(DUE_AT, next_renewal_at)
    op.get_bind().exec_driver_sql(view.replace("%", "%%"))
