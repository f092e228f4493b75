"""How grants are kept: renewal policies, observations, times of reads, and circuits of providers with an outage.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

CIRCUIT_WHOLE = "(circuit_opened_at IS NULL) = (circuit_until IS NULL) AND (circuit_opened_at IS NULL) = (circuit_code IS NULL)"

# Replaced and not dropped, so that what roles were granted on them stays. New columns come last.
# `blocked` says that the operator has to act: a provider that is away is waited for.
TOKEN_STATUS = """
CREATE OR REPLACE VIEW token_status AS
SELECT g.id, g.tenant, g.connection, c.strategy, c.provider,
    CASE WHEN g.user_id = '' THEN 'admin' ELSE 'user' END AS kind,
    nullif(g.user_id, '') AS user_id, nullif(g.provider_user_id, '') AS provider_user_id,
    CASE
        WHEN g.state IN ('erased', 'reauthorization_required') THEN g.state
        WHEN g.state = 'unrenewable' OR c.problem IS NOT NULL
            THEN CASE WHEN g.expires_at <= now() THEN 'expired' ELSE 'unrenewable' END
        WHEN c.circuit_blame = 'operator' THEN 'blocked'
        ELSE g.state
    END AS state,
    CASE
        WHEN g.state IN ('erased', 'reauthorization_required') THEN g.reason
        ELSE coalesce(c.problem, g.reason, c.circuit_code)
    END AS reason,
    coalesce(g.reason_since, c.circuit_opened_at, g.doubt_since) AS reason_since,
    g.expires_at, g.refresh_sealed IS NOT NULL AS has_refresh_token, g.refresh_expires_at, g.scopes,
    g.obtained_at, g.obtained_from, g.last_renewed_at, g.due_at AS next_renewal_at,
    g.attempts, g.last_error, g.claim_until AS in_flight_until, c.circuit_until AS blocked_until, g.created_at, g.last_read_at
FROM grants g JOIN connections c ON c.tenant = g.tenant AND c.name = g.connection
"""

SERVED_TOKENS = """
CREATE OR REPLACE VIEW served_tokens AS
SELECT id, tenant, connection, user_id, provider_user_id, state, reason, reason_since,
    access_sealed, access_version, expires_at, scopes, obtained_at, obtained_from, last_read_at
FROM grants
"""

# A circuit that opens for the provider's absence says so, and one that stays open tells when the blame changes.
CONNECTIONS_TELL = """
CREATE OR REPLACE FUNCTION connections_tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    untold CONSTANT text[] := ARRAY['not_shown', 'unsupported_strategy'];
    before text := CASE WHEN OLD.problem <> ALL (untold) THEN OLD.problem ELSE 'circuit ' || OLD.circuit_blame END;
    after text := CASE WHEN NEW.problem <> ALL (untold) THEN NEW.problem ELSE 'circuit ' || NEW.circuit_blame END;
BEGIN
    IF before IS DISTINCT FROM after THEN
        INSERT INTO outbox (kind, tenant, connection, provider, state, reason, since, message)
        VALUES (
            CASE WHEN after IS NULL THEN 'connection.mended' ELSE 'connection.broken' END,
            NEW.tenant, NEW.name, NEW.provider,
            CASE WHEN after IS NULL THEN 'active' WHEN after = 'circuit operator' THEN 'blocked'
                WHEN after = 'circuit nobody' THEN 'away' ELSE 'unrenewable' END,
            CASE WHEN after LIKE 'circuit %' THEN NEW.circuit_code ELSE after END,
            CASE WHEN after LIKE 'circuit %' THEN NEW.circuit_opened_at END,
            CASE WHEN after NOT LIKE 'circuit %' THEN NEW.problem_message END
        );
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER connections_tell ON connections;
CREATE TRIGGER connections_tell AFTER UPDATE ON connections FOR EACH ROW
    WHEN (OLD.problem IS DISTINCT FROM NEW.problem OR OLD.circuit_blame IS DISTINCT FROM NEW.circuit_blame)
    EXECUTE FUNCTION connections_tell();
"""

# What stood here before is what the earlier migrations made.
VAULT, OUTBOX = (import_module(f"migrations.versions.{name}") for name in ("0001_vault", "0003_outbox"))


def upgrade() -> None:
    op.add_column("connections", sa.Column("circuit_blame", sa.Text(), nullable=True))
    op.add_column("connections", sa.Column("away", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "connections", sa.Column("renew", sa.Text(), server_default=sa.text("'eager'"), nullable=False)
    )
    op.add_column(
        "connections",
        sa.Column("seen_rotating", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column("connections", sa.Column("seen_grace", sa.Double(), nullable=True))
    op.add_column("connections", sa.Column("seen_life", sa.Interval(), nullable=True))
    op.add_column("connections", sa.Column("seen_refresh_life", sa.Interval(), nullable=True))
    op.execute("UPDATE connections SET circuit_blame = 'operator' WHERE circuit_opened_at IS NOT NULL")
    op.drop_constraint(op.f("connections_circuit_whole_check"), "connections")
    op.create_check_constraint(
        op.f("connections_circuit_whole_check"),
        "connections",
        f"{CIRCUIT_WHOLE} AND (circuit_opened_at IS NULL) = (circuit_blame IS NULL)",
    )
    op.create_check_constraint(
        op.f("connections_circuit_blame_check"), "connections", "circuit_blame IN ('operator', 'nobody')"
    )
    op.create_check_constraint(
        op.f("connections_renew_check"), "connections", "renew IN ('eager', 'on-read')"
    )
    op.add_column("grants", sa.Column("last_read_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("grants", sa.Column("forced_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(TOKEN_STATUS)
    op.execute(SERVED_TOKENS)
    op.execute(CONNECTIONS_TELL)


def downgrade() -> None:
    op.execute("DROP TRIGGER connections_tell ON connections")
    op.execute("DROP FUNCTION connections_tell()")
    op.execute(OUTBOX.CONNECTIONS_TELL)
    op.execute("DROP VIEW served_tokens")
    op.execute("DROP VIEW token_status")
    op.execute(VAULT.TOKEN_STATUS)
    op.execute(VAULT.SERVED_TOKENS)
    op.drop_column("grants", "forced_at")
    op.drop_column("grants", "last_read_at")
    op.drop_constraint(op.f("connections_renew_check"), "connections")
    op.drop_constraint(op.f("connections_circuit_blame_check"), "connections")
    op.drop_constraint(op.f("connections_circuit_whole_check"), "connections")
    op.create_check_constraint(op.f("connections_circuit_whole_check"), "connections", CIRCUIT_WHOLE)
    for name in (
        "seen_refresh_life",
        "seen_life",
        "seen_grace",
        "seen_rotating",
        "renew",
        "away",
        "circuit_blame",
    ):
        op.drop_column("connections", name)
