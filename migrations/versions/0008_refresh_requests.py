"""Refresh requests: a reader asks for a token with more life through Postgres.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

# Readers' roles may execute this and read none of the table. What they may do with it is bounded:
# - Each role has a row of its own for a grant, so that no transaction of one role can hold up another's requests,
#   and no lock is ever taken on the grants themselves.
# - A row is written only where it asks for more than the one that waits, and only so many wait.
# - Who may not read served_tokens, or asks for what is not in it, has asked for nothing; nothing is told either.
# A request that was just carried out is followed by the next one a second later at the earliest.
REQUEST_REFRESH = """
CREATE FUNCTION request_refresh(requested_grant bigint, min_ttl double precision, wait double precision)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    now_is CONSTANT timestamptz := clock_timestamp();
    reader CONSTANT text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    ttl CONSTANT double precision := least(greatest(coalesce(min_ttl, 0), 0), 315360000);
    until CONSTANT timestamptz := now_is + make_interval(secs => least(greatest(coalesce(wait, 0), 30), 86400));
BEGIN
    IF NOT has_table_privilege(reader, '{schema}.served_tokens', 'SELECT')
        OR NOT EXISTS (SELECT FROM {schema}.served_tokens s WHERE s.id = requested_grant AND s.state <> 'erased')
        OR EXISTS (
            SELECT FROM {schema}.refresh_requests r
            WHERE r.grant_id = requested_grant AND r.requested_by = reader AND r.handled_at IS NULL
                AND r.min_ttl >= ttl AND r.wanted_until >= until - interval '1 second')
    THEN
        RETURN;
    END IF;
    IF 1000 <= (
        SELECT count(*) FROM (
            SELECT FROM {schema}.refresh_requests r
            WHERE r.requested_by = reader AND r.handled_at IS NULL AND r.wanted_until > now_is LIMIT 1000) pending)
    THEN
        RAISE EXCEPTION '1000 refresh requests of this role wait already' USING ERRCODE = 'configuration_limit_exceeded';
    END IF;
    INSERT INTO {schema}.refresh_requests AS r (grant_id, requested_by, requested_at, wanted_until, min_ttl, due_at)
    VALUES (requested_grant, reader, now_is, until, ttl, now_is)
    ON CONFLICT (grant_id, requested_by) DO UPDATE SET
        requested_at = CASE
            WHEN r.handled_at IS NULL AND r.wanted_until > now_is AND r.min_ttl >= ttl THEN r.requested_at ELSE now_is END,
        wanted_until = CASE WHEN r.handled_at IS NULL THEN greatest(r.wanted_until, until) ELSE until END,
        min_ttl = CASE WHEN r.handled_at IS NULL AND r.wanted_until > now_is THEN greatest(r.min_ttl, ttl) ELSE ttl END,
        due_at = CASE WHEN r.handled_at IS NULL THEN r.due_at ELSE greatest(now_is, r.handled_at + interval '1 second') END,
        handled_at = NULL;
    PERFORM pg_notify('token_vault_requests', '');
END $$;
"""


def upgrade() -> None:
    op.create_table(
        "refresh_requests",
        sa.Column("grant_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wanted_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("min_ttl", sa.Double(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("grant_id", "requested_by", name=op.f("refresh_requests_pkey")),
    )
    op.create_index(
        "refresh_requests_pending_idx",
        "refresh_requests",
        ["requested_by", "due_at"],
        postgresql_where=sa.text("handled_at IS NULL"),
    )
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(REQUEST_REFRESH.format(schema=schema))
    op.execute("REVOKE EXECUTE ON FUNCTION request_refresh FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION request_refresh")
    op.drop_table("refresh_requests")
