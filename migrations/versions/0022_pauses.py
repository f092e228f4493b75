"""Pauses of a connection, a tenant, or everything; the status of grants shows them.

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

# As of revision 0014, filtered as of 0017. What is paused comes before what its provider has done.
TOKEN_STATUS = r"""
CREATE OR REPLACE VIEW token_status WITH (security_barrier) AS
SELECT g.id, g.tenant, g.connection, c.strategy, c.provider,
    CASE WHEN g.user_id = '' THEN 'admin' ELSE 'user' END AS kind,
    nullif(g.user_id, '') AS user_id, nullif(g.provider_user_id, '') AS provider_user_id,
    CASE
        WHEN g.state IN ('erased', 'reauthorization_required') THEN g.state
        WHEN g.state = 'unrenewable' OR c.problem IS NOT NULL
            THEN CASE WHEN g.expires_at <= now() THEN 'expired' ELSE 'unrenewable' END
        {paused_state}
        WHEN c.circuit_blame = 'operator' THEN 'blocked'
        ELSE g.state
    END AS state,
    CASE
        WHEN g.state IN ('erased', 'reauthorization_required') THEN g.reason
        ELSE coalesce(c.problem, {paused_reason} g.reason, c.circuit_code)
    END AS reason,
    {reason_since} AS reason_since,
    g.expires_at, g.refresh_ciphertext IS NOT NULL AS has_refresh_token, g.refresh_expires_at, g.scopes,
    g.obtained_at, g.obtained_from, g.last_renewed_at, g.due_at AS next_renewal_at,
    g.attempts, g.last_error, g.claim_until AS in_flight_until, {blocked_until} AS blocked_until, g.created_at,
    g.last_read_at, g.consent_expires_at
FROM grants g JOIN connections c ON c.tenant = g.tenant AND c.name = g.connection {join}
WHERE (SELECT has_column_privilege(session_user, 'grants'::regclass, 'id', 'SELECT'))
OR EXISTS (
    SELECT FROM consumers k
    WHERE k.role = session_user
        AND CASE WHEN g.user_id = '' THEN k.admins ELSE k.users END
        AND (k.tenants IS NULL OR g.tenant = ANY (k.tenants))
        AND EXISTS (
            SELECT FROM unnest(k.connections) AS glob
            WHERE g.connection LIKE
                replace(replace(replace(replace(glob, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')))
"""
BEFORE = {
    "paused_state": "",
    "paused_reason": "",
    "reason_since": "coalesce(g.reason_since, c.circuit_opened_at, g.in_doubt_since)",
    "blocked_until": "c.circuit_until",
    "join": "",
}
AFTER = {
    "paused_state": "WHEN p.since IS NOT NULL THEN 'paused'",
    "paused_reason": "CASE WHEN p.since IS NOT NULL AND g.state <> 'unrenewable' THEN 'paused' END,",
    "reason_since": """CASE
        WHEN p.since IS NOT NULL AND g.state IN ('active', 'in_doubt') AND c.problem IS NULL THEN p.since
        ELSE coalesce(g.reason_since, c.circuit_opened_at, g.in_doubt_since) END""",
    "blocked_until": "CASE WHEN p.since IS NULL THEN c.circuit_until ELSE p.until END",
    "join": """LEFT JOIN LATERAL (
        SELECT since, until FROM pauses WHERE tenant IN ('', c.tenant) AND connection IN ('', c.name)
        ORDER BY until DESC NULLS FIRST LIMIT 1) p ON true""",
}


def upgrade() -> None:
    op.create_table(
        "pauses",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.CheckConstraint("tenant <> '' OR connection = ''", name=op.f("pauses_scope_check")),
        sa.PrimaryKeyConstraint("tenant", "connection", name=op.f("pauses_pkey")),
    )
    _define(AFTER)


def downgrade() -> None:
    _define(BEFORE)
    op.drop_table("pauses")


def _define(parts: dict[str, str]) -> None:
    op.get_bind().exec_driver_sql(TOKEN_STATUS.format(**parts).replace("%", "%%"))
