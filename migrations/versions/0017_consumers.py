"""Consumers and the audit: who may read what, and who has read what.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"

# Whose rows a session sees through a view. session_user is the role that logged in: SET ROLE does not change it.
# Whoever may read the column of the table itself sees all, as nothing is kept from them.
# Globs know `*` alone; everything else that LIKE would take for a wildcard is escaped.
FILTER = r"""
(SELECT has_column_privilege(session_user, 'grants'::regclass, '{column}', 'SELECT'))
OR EXISTS (
    SELECT FROM consumers k
    WHERE k.role = session_user
        AND CASE WHEN {grants}.user_id = '' THEN k.admins ELSE k.users END
        AND (k.tenants IS NULL OR {grants}.tenant = ANY (k.tenants))
        AND EXISTS (
            SELECT FROM unnest(k.connections) AS glob
            WHERE {grants}.connection LIKE
                replace(replace(replace(replace(glob, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')))
"""

# The name of the grants in each view, and the column whose readers see all rows of it.
VIEWS = {"served_tokens": ("grants", "access_ciphertext"), "token_status": ("g", "id")}

# Roles that read before there were consumers go on reading, until the operator names them.
INHERIT_READERS = """
INSERT INTO consumers (name, role, connections, users, admins, refresh, inherited)
SELECT rolname, rolname, '{*}', true, true, true, true FROM pg_roles
WHERE rolcanlogin AND NOT rolsuper AND has_table_privilege(oid, 'served_tokens'::regclass, 'SELECT')
    AND NOT has_column_privilege(oid, 'grants'::regclass, 'access_ciphertext', 'SELECT')
"""
INHERIT_DASHBOARDS = """
DO $$
DECLARE
    dashboard name;
BEGIN
    FOR dashboard IN SELECT rolname FROM pg_roles
        WHERE NOT rolsuper AND rolname NOT LIKE 'pg\\_%'
            AND has_table_privilege(oid, 'token_status'::regclass, 'SELECT')
            AND NOT has_table_privilege(oid, 'served_tokens'::regclass, 'SELECT')
            AND NOT has_column_privilege(oid, 'grants'::regclass, 'id', 'SELECT')
    LOOP
        EXECUTE format('GRANT SELECT (id) ON grants TO %I', dashboard);
    END LOOP;
END $$
"""

# A consumer without `refresh` has a token replaced in the second half of its life at the earliest.
BOUND_REQUESTS = """
CREATE FUNCTION refresh_requests_bound() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {schema}.consumers k WHERE k.role = session_user AND NOT k.refresh) THEN
        NEW.min_ttl := least(NEW.min_ttl, coalesce((
            SELECT extract(epoch FROM g.expires_at - g.obtained_at) / 2 FROM {schema}.grants g
            WHERE g.id = NEW.grant_id AND g.expires_at > g.obtained_at), 0));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refresh_requests_bound BEFORE INSERT OR UPDATE OF min_ttl ON refresh_requests
    FOR EACH ROW EXECUTE FUNCTION refresh_requests_bound();
"""

# `xact` and `id` give an order in which nothing appears before what was shipped: see the room that ships.
# One row of state: how long records are kept, which workers may not change, and what was shipped.
AUDIT_TABLES = """
CREATE SEQUENCE audit_records_id_seq;
CREATE TABLE audit_records (
    id bigint NOT NULL DEFAULT nextval('audit_records_id_seq'),
    at timestamptz NOT NULL,
    source text NOT NULL,
    consumer text,
    role text NOT NULL,
    tenant text,
    connection text NOT NULL,
    user_id text NOT NULL,
    account text,
    outcome text NOT NULL,
    request_id text,
    reason text,
    xact bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint)
) PARTITION BY RANGE (at);
CREATE INDEX audit_records_at_idx ON audit_records (at);
CREATE INDEX audit_records_user_idx ON audit_records (user_id, at);
CREATE INDEX audit_records_consumer_idx ON audit_records (consumer, at);
CREATE INDEX audit_records_connection_idx ON audit_records (connection, at);
CREATE INDEX audit_records_shipping_idx ON audit_records (xact, id);
CREATE TABLE audit_records_default PARTITION OF audit_records DEFAULT;
CREATE TABLE audit_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    keep interval NOT NULL DEFAULT '400 days' CHECK (keep > interval '0'),
    shipped_xact bigint NOT NULL DEFAULT 0,
    shipped_id bigint NOT NULL DEFAULT 0
);
INSERT INTO audit_state DEFAULT VALUES;
"""

# Who may insert into the table anyway says whose read it was. Everybody else's records carry the role that logged in.
RECORD_READS = """
CREATE FUNCTION record_reads(records jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    now_is CONSTANT timestamptz := clock_timestamp();
    trusted CONSTANT boolean := has_table_privilege(session_user, '{schema}.audit_records', 'INSERT');
    own CONSTANT text := (SELECT k.name FROM {schema}.consumers k WHERE k.role = session_user);
BEGIN
    IF jsonb_array_length(records) > 1000 THEN
        RAISE EXCEPTION 'more than 1000 records at once' USING ERRCODE = 'program_limit_exceeded';
    END IF;
    INSERT INTO {schema}.audit_records
        (at, source, consumer, role, tenant, connection, user_id, account, outcome, request_id, reason)
    SELECT now_is - make_interval(secs => least(greatest(coalesce(r.age, 0), 0), 3600)),
        CASE WHEN trusted AND r.source IN ('api', 'command') THEN r.source ELSE 'reader' END,
        CASE WHEN trusted THEN left(r.consumer, 200) ELSE own END, session_user,
        left(r.tenant, 200), left(coalesce(r.connection, ''), 200), left(coalesce(r.user_id, ''), 500),
        left(r.account, 500), left(coalesce(r.outcome, 'unknown'), 100), left(r.request_id, 200), left(r.reason, 500)
    FROM jsonb_to_recordset(records) AS r (
        age double precision, source text, consumer text, tenant text, connection text, user_id text, account text,
        outcome text, request_id text, reason text);
END $$;
REVOKE EXECUTE ON FUNCTION record_reads FROM PUBLIC;
"""

# Partitions are made some months ahead; what comes without one waits in the default partition and is moved.
# The row of state keeps two workers apart: no role but the owner can lock it for long.
MAINTAIN_AUDIT = """
CREATE FUNCTION maintain_audit()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' SET timezone = 'UTC' AS $$
DECLARE
    kept interval;
    month timestamptz;
    partition text;
BEGIN
    SELECT keep INTO kept FROM {schema}.audit_state FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR month IN SELECT generate_series(
        date_trunc('month', now()) - interval '1 month', date_trunc('month', now()) + interval '3 months', '1 month')
    LOOP
        partition := 'audit_records_' || to_char(month, 'YYYY_MM');
        IF month + interval '1 month' > now() - kept AND to_regclass(format('{schema}.%I', partition)) IS NULL THEN
            EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.audit_records INCLUDING ALL)', partition);
            EXECUTE format(
                'WITH moved AS (DELETE FROM {schema}.audit_records_default WHERE at >= $1 AND at < $2 RETURNING *)'
                ' INSERT INTO {schema}.%I SELECT * FROM moved', partition) USING month, month + interval '1 month';
            EXECUTE format(
                'ALTER TABLE {schema}.audit_records ATTACH PARTITION {schema}.%I FOR VALUES FROM (%L) TO (%L)',
                partition, month, month + interval '1 month');
        END IF;
    END LOOP;
    FOR partition IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '{schema}.audit_records'::regclass AND c.relname ~ '_[0-9]{{4}}_[0-9]{{2}}$'
            AND to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= now() - kept
    LOOP
        EXECUTE format('DROP TABLE {schema}.%I', partition);
    END LOOP;
    DELETE FROM {schema}.audit_records_default WHERE at <= now() - kept;
END $$;
REVOKE EXECUTE ON FUNCTION maintain_audit FROM PUBLIC;
"""


def upgrade() -> None:
    op.create_table(
        "consumers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("api_key_hash", sa.Text(), nullable=True),
        sa.Column("tenants", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("connections", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("users", sa.Boolean(), nullable=False),
        sa.Column("admins", sa.Boolean(), nullable=False),
        sa.Column("refresh", sa.Boolean(), nullable=False),
        sa.Column("audit", sa.Text(), server_default=sa.text("'batched'"), nullable=False),
        sa.Column("inherited", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "client_id IS NOT NULL OR role IS NOT NULL OR api_key_hash IS NOT NULL",
            name=op.f("consumers_named_check"),
        ),
        sa.CheckConstraint("audit IN ('batched', 'strict')", name=op.f("consumers_audit_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("consumers_pkey")),
        sa.UniqueConstraint("client_id", name=op.f("consumers_client_id_key")),
        sa.UniqueConstraint("role", name=op.f("consumers_role_key")),
        sa.UniqueConstraint("api_key_hash", name=op.f("consumers_api_key_hash_key")),
    )
    op.execute(INHERIT_READERS)
    op.execute(INHERIT_DASHBOARDS)
    for view, (grants, column) in VIEWS.items():
        condition = FILTER.format(grants=grants, column=column)
        replace_view(view, f"{definition(view)} WHERE {condition}", barrier=True)
    op.execute(AUDIT_TABLES)
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statement in (BOUND_REQUESTS, RECORD_READS, MAINTAIN_AUDIT):
        op.execute(statement.format(schema=schema))
    op.execute("SELECT maintain_audit()")


def downgrade() -> None:
    op.execute("DROP FUNCTION maintain_audit; DROP FUNCTION record_reads")
    op.execute("DROP TABLE audit_state; DROP TABLE audit_records; DROP SEQUENCE audit_records_id_seq")
    op.execute(
        "DROP TRIGGER refresh_requests_bound ON refresh_requests; DROP FUNCTION refresh_requests_bound"
    )
    for view in VIEWS:
        before, _, _ = definition(view).partition("\n  WHERE ")
        replace_view(view, before, barrier=False)
    op.drop_table("consumers")


def definition(view: str) -> str:
    """A view as it stands: its columns are other migrations' concern."""
    found: str = op.get_bind().exec_driver_sql(f"SELECT pg_get_viewdef('{view}'::regclass)").scalar_one()
    return found.rstrip().rstrip(";")


def replace_view(view: str, query: str, *, barrier: bool) -> None:
    """Replace a view and keep what roles were granted on it."""
    option = "WITH (security_barrier)" if barrier else ""
    op.get_bind().exec_driver_sql(f"CREATE OR REPLACE VIEW {view} {option} AS {query}".replace("%", "%%"))
