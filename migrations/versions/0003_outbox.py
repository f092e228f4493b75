"""The outbox: changes of state for receivers outside, each written once and delivered until accepted.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# In the transaction of the change, whatever code made it. What leaves the state as it was tells nothing.
GRANTS_TELL = """
CREATE FUNCTION grants_tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    told text := CASE
        WHEN NEW.expiry_told_version IS DISTINCT FROM OLD.expiry_told_version THEN 'grant.expiring'
        WHEN NEW.state = 'reauthorization_required' AND NEW.reason = 'lost_in_rotation' THEN 'grant.lost_in_rotation'
        WHEN NEW.state = 'reauthorization_required' THEN 'grant.reauthorization_required'
        WHEN NEW.state = 'active' AND (OLD.state = 'reauthorization_required'
            OR (OLD.state = 'unrenewable' AND OLD.expiry_told_version IS NOT NULL)) THEN 'grant.healed'
    END;
BEGIN
    IF told IS NOT NULL THEN
        INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id, provider, state, reason, since, expires_at)
        SELECT told, NEW.tenant, NEW.connection, NEW.user_id, NEW.provider_user_id, c.provider, NEW.state, NEW.reason,
            NEW.reason_since, NEW.expires_at
        FROM connections c WHERE c.tenant = NEW.tenant AND c.name = NEW.connection;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER grants_tell AFTER UPDATE ON grants FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.expiry_told_version IS DISTINCT FROM NEW.expiry_told_version)
    EXECUTE FUNCTION grants_tell();
"""

# Not told: `not_shown` is settled within one tick, and `unsupported_strategy` is no trouble where a strategy brings
# no tokens. An open circuit that stays open tells nothing new, whatever the provider says at each probe.
CONNECTIONS_TELL = """
CREATE FUNCTION connections_tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    untold CONSTANT text[] := ARRAY['not_shown', 'unsupported_strategy'];
    before text := CASE WHEN OLD.problem <> ALL (untold) THEN OLD.problem
        WHEN OLD.circuit_opened_at IS NOT NULL THEN 'circuit' END;
    after text := CASE WHEN NEW.problem <> ALL (untold) THEN NEW.problem
        WHEN NEW.circuit_opened_at IS NOT NULL THEN 'circuit' END;
BEGIN
    IF before IS DISTINCT FROM after THEN
        INSERT INTO outbox (kind, tenant, connection, provider, state, reason, since, message)
        VALUES (
            CASE WHEN after IS NULL THEN 'connection.mended' ELSE 'connection.broken' END,
            NEW.tenant, NEW.name, NEW.provider,
            CASE WHEN after IS NULL THEN 'active' WHEN after = 'circuit' THEN 'blocked' ELSE 'unrenewable' END,
            CASE WHEN after = 'circuit' THEN NEW.circuit_code ELSE after END,
            CASE WHEN after = 'circuit' THEN NEW.circuit_opened_at END,
            CASE WHEN after <> 'circuit' THEN NEW.problem_message END
        );
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER connections_tell AFTER UPDATE ON connections FOR EACH ROW
    WHEN (OLD.problem IS DISTINCT FROM NEW.problem OR (OLD.circuit_opened_at IS NULL) <> (NEW.circuit_opened_at IS NULL))
    EXECUTE FUNCTION connections_tell();
"""


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("provider_user_id", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("spread_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("outbox_pkey")),
    )
    op.create_index("outbox_latest_idx", "outbox", ["at"])
    op.create_index("outbox_user_idx", "outbox", ["user_id", "tenant"])
    op.create_index("outbox_fresh_idx", "outbox", ["at"], postgresql_where=sa.text("spread_at IS NULL"))
    op.create_index(
        "outbox_forgotten_idx",
        "outbox",
        ["id"],
        postgresql_where=sa.text("kind = 'user.forgotten' AND user_id IS NOT NULL"),
    )
    op.create_table(
        "deliveries",
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("webhook", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.UUID(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("deliveries_state_check")
        ),
        sa.ForeignKeyConstraint(
            ["event_id"], ["outbox.id"], name=op.f("deliveries_event_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("event_id", "webhook", name=op.f("deliveries_pkey")),
    )
    op.create_index(
        "deliveries_due_idx",
        "deliveries",
        ["webhook", "next_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.add_column("grants", sa.Column("expiry_told_version", sa.BigInteger(), nullable=True))
    op.create_index(
        "grants_expiring_idx",
        "grants",
        ["tenant", "connection", "expires_at"],
        postgresql_where=sa.text(
            "state = 'unrenewable' AND expiry_told_version IS DISTINCT FROM access_version"
        ),
    )
    op.execute(GRANTS_TELL)
    op.execute(CONNECTIONS_TELL)


def downgrade() -> None:
    op.execute("DROP TRIGGER connections_tell ON connections")
    op.execute("DROP FUNCTION connections_tell()")
    op.execute("DROP TRIGGER grants_tell ON grants")
    op.execute("DROP FUNCTION grants_tell()")
    op.drop_index("grants_expiring_idx", table_name="grants")
    op.drop_column("grants", "expiry_told_version")
    op.drop_table("deliveries")
    op.drop_table("outbox")
