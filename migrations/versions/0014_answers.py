"""Further values of answers: the hard end of consent, lost scopes, values beside the token. Also rejected tokens.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

# The end of consent is reported 30, 7 and 1 days before, once each: the row says which was reported last, and when the
# next is due. Providers tell a life, and so the same end differs by seconds from answer to answer; one that is put off
# by more than a day is a new consent. A dead grant has had its event.
GRANTS_REPORT_CONSENT = """
CREATE FUNCTION grants_report_consent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.consent_expires_at IS NULL THEN
        NEW.consent_reported_days := NULL;
        NEW.consent_report_due_at := NULL;
        RETURN NEW;
    END IF;
    IF NEW.consent_expires_at > coalesce(OLD.consent_expires_at, '-infinity') + interval '1 day' THEN
        NEW.consent_reported_days := NULL;
    ELSIF NEW.consent_reported_days < coalesce(OLD.consent_reported_days, 31) AND NEW.state IN ('active', 'in_doubt') THEN
        INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id, provider, state, reason, expires_at)
        SELECT 'grant.consent_ending', NEW.tenant, NEW.connection, NEW.user_id, NEW.provider_user_id, c.provider, NEW.state,
            format('%s_days', NEW.consent_reported_days), NEW.consent_expires_at
        FROM connections c WHERE c.tenant = NEW.tenant AND c.name = NEW.connection;
    END IF;
    NEW.consent_report_due_at := CASE
        WHEN NEW.consent_reported_days IS NULL THEN NEW.consent_expires_at - interval '30 days'
        WHEN NEW.consent_reported_days > 7 THEN NEW.consent_expires_at - interval '7 days'
        WHEN NEW.consent_reported_days > 1 THEN NEW.consent_expires_at - interval '1 day'
    END;
    RETURN NEW;
END $$;
CREATE TRIGGER grants_report_consent BEFORE UPDATE ON grants FOR EACH ROW
    WHEN (OLD.consent_expires_at IS DISTINCT FROM NEW.consent_expires_at
        OR OLD.consent_reported_days IS DISTINCT FROM NEW.consent_reported_days)
    EXECUTE FUNCTION grants_report_consent();
"""

GRANTS_REPORT_SCOPES = """
CREATE FUNCTION grants_report_scopes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id, provider, state, reason, message)
    SELECT 'grant.scopes_lost', NEW.tenant, NEW.connection, NEW.user_id, NEW.provider_user_id, c.provider, NEW.state,
        'scopes_lost',
        (SELECT string_agg(lost, ' ' ORDER BY lost) FROM unnest(OLD.scopes) lost WHERE lost <> ALL (NEW.scopes))
    FROM connections c WHERE c.tenant = NEW.tenant AND c.name = NEW.connection;
    RETURN NULL;
END $$;
CREATE TRIGGER grants_report_scopes AFTER UPDATE ON grants FOR EACH ROW
    WHEN (NOT OLD.scopes <@ NEW.scopes)
    EXECUTE FUNCTION grants_report_scopes();
"""

# As request_refresh: readers' roles may execute it and read none of the table. It says that an API refused the access
# token of this version; whether that is so, the next renewal shows. A token that was renewed less than a minute ago is
# renewed again when that minute is over, so that an app which reports every token costs one call a minute and grant.
REPORT_REJECTED = """
CREATE FUNCTION report_rejected(rejected_grant bigint, version bigint)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    now_is CONSTANT timestamptz := clock_timestamp();
    reader CONSTANT text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    renew_at timestamptz;
BEGIN
    IF NOT has_table_privilege(reader, '{schema}.served_tokens', 'SELECT') OR EXISTS (
        SELECT FROM {schema}.refresh_requests r
        WHERE r.grant_id = rejected_grant AND r.requested_by = reader AND r.handled_at IS NULL
            AND r.rejected_version = version AND r.wanted_until > now_is)
    THEN
        RETURN;
    END IF;
    SELECT greatest(now_is, CASE WHEN s.obtained_from = 'renewal' THEN s.obtained_at + interval '1 minute' END)
    INTO renew_at FROM {schema}.served_tokens s
    WHERE s.id = rejected_grant AND s.access_version = version AND s.state <> 'erased';
    IF renew_at IS NULL THEN
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
        (grant_id, requested_by, requested_at, wanted_until, min_ttl, due_at, rejected_version)
    VALUES (rejected_grant, reader, now_is, renew_at + interval '1 minute', 0, renew_at, version)
    ON CONFLICT (grant_id, requested_by) DO UPDATE SET
        requested_at = excluded.requested_at,
        wanted_until = greatest(r.wanted_until, excluded.wanted_until),
        min_ttl = CASE WHEN r.handled_at IS NULL AND r.wanted_until > now_is THEN r.min_ttl ELSE 0 END,
        due_at = CASE WHEN r.handled_at IS NULL THEN excluded.due_at
            ELSE greatest(excluded.due_at, r.handled_at + interval '1 second') END,
        rejected_version = version,
        handled_at = NULL;
    PERFORM pg_notify('token_vault_requests', '');
END $$;
"""

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
    coalesce(g.reason_since, c.circuit_opened_at, g.in_doubt_since) AS reason_since,
    g.expires_at, g.refresh_ciphertext IS NOT NULL AS has_refresh_token, g.refresh_expires_at, g.scopes,
    g.obtained_at, g.obtained_from, g.last_renewed_at, g.due_at AS next_renewal_at,
    g.attempts, g.last_error, g.claim_until AS in_flight_until, c.circuit_until AS blocked_until, g.created_at,
    g.last_read_at{more}
FROM grants g JOIN connections c ON c.tenant = g.tenant AND c.name = g.connection
"""

SERVED_TOKENS = """
CREATE OR REPLACE VIEW served_tokens AS
SELECT id, tenant, connection, user_id, provider_user_id, state, reason, reason_since,
    access_ciphertext, access_version, expires_at, scopes, obtained_at, obtained_from, last_read_at{more}
FROM grants
"""


def upgrade() -> None:
    op.add_column("grants", sa.Column("consent_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("grants", sa.Column("consent_reported_days", sa.SmallInteger(), nullable=True))
    op.add_column("grants", sa.Column("consent_report_due_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("grants", sa.Column("extra_ciphertext", sa.LargeBinary(), nullable=True))
    op.add_column("refresh_requests", sa.Column("rejected_version", sa.BigInteger(), nullable=True))
    op.create_index(
        "grants_consent_idx",
        "grants",
        ["tenant", "connection", "consent_report_due_at"],
        postgresql_where=sa.text("consent_report_due_at IS NOT NULL"),
    )
    op.execute(GRANTS_REPORT_CONSENT)
    op.execute(GRANTS_REPORT_SCOPES)
    op.execute(TOKEN_STATUS.format(more=", g.consent_expires_at"))
    op.execute(SERVED_TOKENS.format(more=", extra_ciphertext"))
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(REPORT_REJECTED.format(schema=schema))
    op.execute("REVOKE EXECUTE ON FUNCTION report_rejected FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION report_rejected")
    op.execute("DROP VIEW served_tokens")
    op.execute("DROP VIEW token_status")
    op.execute(TOKEN_STATUS.format(more=""))
    op.execute(SERVED_TOKENS.format(more=""))
    op.execute("DROP TRIGGER grants_report_scopes ON grants; DROP FUNCTION grants_report_scopes();")
    op.execute("DROP TRIGGER grants_report_consent ON grants; DROP FUNCTION grants_report_consent();")
    op.drop_index("grants_consent_idx", table_name="grants")
    op.drop_column("refresh_requests", "rejected_version")
    for column in (
        "extra_ciphertext",
        "consent_report_due_at",
        "consent_reported_days",
        "consent_expires_at",
    ):
        op.drop_column("grants", column)
