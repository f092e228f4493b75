"""The vault: connections, grants, sync runs, renewal counts, and the views that readers and dashboards use.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# The promise that code alone could break: a stored refresh token is never replaced by nothing, and neither
# the versions of the tokens nor what Auth0 was last seen to show ever goes back.
NEVER_BACKWARDS = """
CREATE FUNCTION grants_never_backwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'grant % may not go backwards: its refresh token would be lost, or a newer token replaced', OLD.id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER grants_never_backwards BEFORE UPDATE ON grants FOR EACH ROW
    WHEN (
        (OLD.refresh_sealed IS NOT NULL AND NEW.refresh_sealed IS NULL AND NEW.state <> 'erased')
        OR NEW.refresh_version < OLD.refresh_version
        OR NEW.access_version < OLD.access_version
        OR NEW.shown_updated_at < OLD.shown_updated_at
        OR (OLD.shown_updated_at IS NOT NULL AND NEW.shown_updated_at IS NULL)
    )
    EXECUTE FUNCTION grants_never_backwards();
"""

# For dashboards and joins: no ciphertext, no fingerprint. `blocked` and `expired` are derived here, so that
# a broken connection costs one row and not one write for each of its grants.
TOKEN_STATUS = """
CREATE VIEW token_status AS
SELECT g.id, g.tenant, g.connection, c.strategy, c.provider,
    CASE WHEN g.user_id = '' THEN 'admin' ELSE 'user' END AS kind,
    nullif(g.user_id, '') AS user_id, nullif(g.provider_user_id, '') AS provider_user_id,
    CASE
        WHEN g.state IN ('erased', 'reauthorization_required') THEN g.state
        WHEN g.state = 'unrenewable' OR c.problem IS NOT NULL
            THEN CASE WHEN g.expires_at <= now() THEN 'expired' ELSE 'unrenewable' END
        WHEN c.circuit_opened_at IS NOT NULL THEN 'blocked'
        ELSE g.state
    END AS state,
    CASE
        WHEN g.state IN ('erased', 'reauthorization_required') THEN g.reason
        ELSE coalesce(c.problem, g.reason, c.circuit_code)
    END AS reason,
    coalesce(g.reason_since, c.circuit_opened_at, g.doubt_since) AS reason_since,
    g.expires_at, g.refresh_sealed IS NOT NULL AS has_refresh_token, g.refresh_expires_at, g.scopes,
    g.obtained_at, g.obtained_from, g.last_renewed_at, g.due_at AS next_renewal_at,
    g.attempts, g.last_error, g.claim_until AS in_flight_until, c.circuit_until AS blocked_until, g.created_at
FROM grants g JOIN connections c ON c.tenant = g.tenant AND c.name = g.connection
"""

# What a reader may see: the sealed access token and what is needed to judge it, never a refresh token.
SERVED_TOKENS = """
CREATE VIEW served_tokens AS
SELECT id, tenant, connection, user_id, provider_user_id, state, reason, reason_since,
    access_sealed, access_version, expires_at, scopes, obtained_at, obtained_from
FROM grants
"""


def upgrade() -> None:
    op.create_table(
        "connections",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("auth0_id", sa.Text(), nullable=True),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("options_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("options_version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("problem_message", sa.Text(), nullable=True),
        sa.Column("notes", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("client_fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("circuit_opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("circuit_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("circuit_code", sa.Text(), nullable=True),
        sa.Column("suspect_grant", sa.BigInteger(), nullable=True),
        sa.Column("circuit_failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(circuit_opened_at IS NULL) = (circuit_until IS NULL) AND (circuit_opened_at IS NULL) = (circuit_code IS NULL)",
            name=op.f("connections_circuit_whole_check"),
        ),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("connections_pkey")),
    )
    op.create_table(
        "management_tokens",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("minted_with", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("management_tokens_pkey")),
    )
    op.create_table(
        "renewal_counts",
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "minute", "tenant", "connection", "outcome", name=op.f("renewal_counts_pkey")
        ),
    )
    op.create_table(
        "sync_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("new", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("changed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("stale", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("sync_runs_pkey")),
    )
    op.create_index("sync_runs_latest_idx", "sync_runs", ["tenant", "started_at"], unique=False)
    op.create_table(
        "vault_secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("vault_secrets_pkey")),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider_user_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reason_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("access_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("access_version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("refresh_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("refresh_version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("obtained_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("obtained_from", sa.Text(), nullable=False),
        sa.Column("shown_access", sa.LargeBinary(), nullable=True),
        sa.Column("shown_refresh", sa.LargeBinary(), nullable=True),
        sa.Column("shown_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claim_owner", sa.UUID(), nullable=True),
        sa.Column("claim_began", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("awaited", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("doubt_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_renewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(user_id = '') = (provider_user_id = '')", name=op.f("grants_subject_check")),
        sa.CheckConstraint("obtained_from IN ('auth0', 'renewal')", name=op.f("grants_obtained_from_check")),
        sa.CheckConstraint(
            "state <> 'erased' OR (access_sealed IS NULL AND refresh_sealed IS NULL AND due_at IS NULL)",
            name=op.f("grants_erased_is_empty_check"),
        ),
        sa.CheckConstraint(
            "state <> 'in_doubt' OR doubt_since IS NOT NULL", name=op.f("grants_doubt_has_time_check")
        ),
        sa.CheckConstraint(
            "state <> 'reauthorization_required' OR (reason IS NOT NULL AND due_at IS NULL)",
            name=op.f("grants_dead_has_reason_check"),
        ),
        sa.CheckConstraint(
            "state IN ('active', 'unrenewable', 'in_doubt', 'reauthorization_required', 'erased')",
            name=op.f("grants_state_check"),
        ),
        sa.CheckConstraint(
            "(claim_owner IS NULL) = (claim_until IS NULL) AND (claim_owner IS NULL) = (claim_began IS NULL)",
            name=op.f("grants_claim_whole_check"),
        ),
        sa.CheckConstraint(
            "access_version >= 0 AND refresh_version >= 0", name=op.f("grants_versions_check")
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "connection"],
            ["connections.tenant", "connections.name"],
            name=op.f("grants_tenant_connection_fkey"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("grants_pkey")),
        sa.UniqueConstraint(
            "user_id",
            "connection",
            "tenant",
            "provider_user_id",
            name=op.f("grants_user_id_connection_tenant_provider_user_id_key"),
        ),
    )
    op.create_index(
        "grants_subject_idx", "grants", ["provider_user_id", "connection", "tenant"], unique=False
    )
    op.create_index(
        "grants_due_idx",
        "grants",
        ["tenant", "connection", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )

    # Tokens are random: trying to compress them costs time and gains nothing.
    op.execute("ALTER TABLE grants ALTER COLUMN access_sealed SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE grants ALTER COLUMN refresh_sealed SET STORAGE EXTERNAL")
    # Every renewal rewrites a row: clean up after 2% of them instead of 20%.
    op.execute("ALTER TABLE grants SET (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02)")
    op.execute(NEVER_BACKWARDS)
    op.execute(TOKEN_STATUS)
    op.execute(SERVED_TOKENS)


def downgrade() -> None:
    op.execute("DROP VIEW served_tokens")
    op.execute("DROP VIEW token_status")
    op.drop_index("grants_due_idx", table_name="grants", postgresql_where=sa.text("due_at IS NOT NULL"))
    op.drop_table("grants")
    op.execute("DROP FUNCTION grants_never_backwards()")
    op.drop_table("vault_secrets")
    op.drop_index("sync_runs_latest_idx", table_name="sync_runs")
    op.drop_table("sync_runs")
    op.drop_table("renewal_counts")
    op.drop_table("management_tokens")
    op.drop_table("connections")
