"""Further access tokens of a grant, for other resources or scopes, all from its one refresh token.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"

# They end with their grant: when it is erased or its tokens are revoked, and when its identity goes to another user, as
# each ciphertext belongs to one user. The new user's are asked for anew.
FOLLOW_GRANT = """
CREATE FUNCTION resource_tokens_follow_grant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {schema}.resource_tokens WHERE grant_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER resource_tokens_follow_grant AFTER UPDATE ON grants FOR EACH ROW
    WHEN (NEW.user_id <> OLD.user_id OR NEW.state = 'erased' AND OLD.state <> 'erased'
        OR NEW.reason = 'revoked' AND OLD.reason IS DISTINCT FROM 'revoked')
    EXECUTE FUNCTION resource_tokens_follow_grant();
"""

# Whoever may read a grant's token may read these, and nobody else: the view is made of served_tokens.
SERVED_RESOURCE_TOKENS = """
CREATE VIEW served_resource_tokens WITH (security_barrier) AS
SELECT r.grant_id, r.resource, r.scope, r.ciphertext, r.version, r.expires_at, r.scopes, r.obtained_at, r.refusal,
    r.refusal_blame, r.refused_at
FROM resource_tokens r JOIN served_tokens s ON s.id = r.grant_id
"""

# As request_refresh of revision 0008, for a target as well. What is bounded there is bounded here.
REQUEST_REFRESH = """
CREATE FUNCTION request_refresh(
    requested_grant bigint, min_ttl double precision, wait double precision, resource text DEFAULT '',
    scope text DEFAULT '')
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
#variable_conflict use_column
DECLARE
    now_is CONSTANT timestamptz := clock_timestamp();
    reader CONSTANT text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    ttl CONSTANT double precision := least(greatest(coalesce(request_refresh.min_ttl, 0), 0), 315360000);
    until CONSTANT timestamptz := now_is + make_interval(secs => least(greatest(coalesce(wait, 0), 30), 86400));
    for_resource CONSTANT text := coalesce(request_refresh.resource, '');
    for_scope CONSTANT text := coalesce(request_refresh.scope, '');
BEGIN
    IF length(for_resource) > 2000 OR length(for_scope) > 2000
        OR NOT has_table_privilege(reader, '{schema}.served_tokens', 'SELECT')
        OR NOT EXISTS (SELECT FROM {schema}.served_tokens s WHERE s.id = requested_grant AND s.state <> 'erased')
        OR EXISTS (
            SELECT FROM {schema}.refresh_requests r
            WHERE r.grant_id = requested_grant AND r.requested_by = reader AND r.handled_at IS NULL
                AND r.resource = for_resource AND r.scope = for_scope
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
    INSERT INTO {schema}.refresh_requests AS r
        (grant_id, requested_by, resource, scope, requested_at, wanted_until, min_ttl, due_at)
    VALUES (requested_grant, reader, for_resource, for_scope, now_is, until, ttl, now_is)
    ON CONFLICT (grant_id, requested_by, resource, scope) DO UPDATE SET
        requested_at = CASE
            WHEN r.handled_at IS NULL AND r.wanted_until > now_is AND r.min_ttl >= ttl THEN r.requested_at ELSE now_is END,
        wanted_until = CASE WHEN r.handled_at IS NULL THEN greatest(r.wanted_until, until) ELSE until END,
        min_ttl = CASE WHEN r.handled_at IS NULL AND r.wanted_until > now_is THEN greatest(r.min_ttl, ttl) ELSE ttl END,
        due_at = CASE WHEN r.handled_at IS NULL THEN r.due_at ELSE greatest(now_is, r.handled_at + interval '1 second') END,
        handled_at = NULL;
    PERFORM pg_notify('token_vault_requests', '');
END $$;
"""

# Readers keep what they were granted: EXECUTE on the function, and the new view where they read served_tokens.
KEEP_GRANTS = """
DO $$
DECLARE
    role name;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_class, aclexplode(relacl) acl
        WHERE oid = 'served_tokens'::regclass AND acl.privilege_type = 'SELECT' AND acl.grantee <> relowner
    LOOP
        EXECUTE format('GRANT SELECT ON served_resource_tokens TO %s', role);
    END LOOP;
    FOR role IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_proc, aclexplode(proacl) acl WHERE oid = '{old}'::regprocedure AND acl.grantee <> proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION {new} TO %s', role);
    END LOOP;
END $$;
"""
OLD = "request_refresh(bigint, double precision, double precision)"
NEW = "request_refresh(bigint, double precision, double precision, text, text)"


def upgrade() -> None:
    op.create_table(
        "resource_tokens",
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("obtained_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("refusal_blame", sa.Text(), nullable=True),
        sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("resource <> '' OR scope <> ''", name=op.f("resource_tokens_target_check")),
        sa.CheckConstraint(
            "refusal_blame IN ('user', 'operator', 'denied')",
            name=op.f("resource_tokens_refusal_blame_check"),
        ),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["grants.id"], name=op.f("resource_tokens_grant_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("grant_id", "resource", "scope", name=op.f("resource_tokens_pkey")),
    )
    for name in ("resource", "scope"):
        op.add_column(
            "refresh_requests", sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False)
        )
    _set_primary_key("grant_id, requested_by, resource, scope")
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(FOLLOW_GRANT.format(schema=schema))
    op.execute(SERVED_RESOURCE_TOKENS)
    op.execute(REQUEST_REFRESH.format(schema=schema))
    op.execute(f"REVOKE EXECUTE ON FUNCTION {NEW} FROM PUBLIC")
    op.execute(KEEP_GRANTS.format(old=OLD, new=NEW))
    op.execute(f"DROP FUNCTION {OLD}")
    _replace_report_rejected("grant_id, requested_by, resource, scope")


def downgrade() -> None:
    op.execute("DELETE FROM refresh_requests WHERE resource <> '' OR scope <> ''")
    op.execute(f"DROP FUNCTION {NEW}")
    _set_primary_key("grant_id, requested_by")
    op.drop_column("refresh_requests", "scope")
    op.drop_column("refresh_requests", "resource")
    before = import_module("migrations.versions.0008_refresh_requests")
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    guard = import_module("migrations.versions.0013_heartbeats")
    op.execute(before.REQUEST_REFRESH.format(schema=schema).replace(guard.NOTIFYING, guard.GUARDED))
    op.execute("REVOKE EXECUTE ON FUNCTION request_refresh FROM PUBLIC")
    _replace_report_rejected("grant_id, requested_by")
    op.execute("DROP VIEW served_resource_tokens")
    op.execute("DROP TRIGGER resource_tokens_follow_grant ON grants")
    op.execute("DROP FUNCTION resource_tokens_follow_grant()")
    op.drop_table("resource_tokens")


def _replace_report_rejected(key: str) -> None:
    """Have the function of revision 0014 name the table's new key."""
    function: str = import_module("migrations.versions.0014_answers").REPORT_REJECTED
    function = function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    function = function.replace("ON CONFLICT (grant_id, requested_by)", f"ON CONFLICT ({key})")
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(function.format(schema=schema))


def _set_primary_key(columns: str) -> None:
    op.execute("ALTER TABLE refresh_requests DROP CONSTRAINT refresh_requests_pkey")
    op.execute(f"ALTER TABLE refresh_requests ADD CONSTRAINT refresh_requests_pkey PRIMARY KEY ({columns})")
