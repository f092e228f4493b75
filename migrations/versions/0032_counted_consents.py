"""Ends of consent that are computed from the time of the consent, as no answer has them.

Revision ID: 0032
Revises: 0031
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"

# As of revision 0014; the event of an end that is counted says from when.
GRANTS_REPORT_CONSENT = """
CREATE OR REPLACE FUNCTION grants_report_consent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.consent_expires_at IS NULL THEN
        NEW.consent_reported_days := NULL;
        NEW.consent_report_due_at := NULL;
        RETURN NEW;
    END IF;
    IF NEW.consent_expires_at > coalesce(OLD.consent_expires_at, '-infinity') + interval '1 day' THEN
        NEW.consent_reported_days := NULL;
    ELSIF NEW.consent_reported_days < coalesce(OLD.consent_reported_days, 31) AND NEW.state IN ('active', 'in_doubt') THEN
        INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id, provider, state, reason, expires_at, message)
        SELECT 'grant.consent_ending', NEW.tenant, NEW.connection, NEW.user_id, NEW.provider_user_id, c.provider, NEW.state,
            format('%s_days', NEW.consent_reported_days), NEW.consent_expires_at,
            CASE WHEN NEW.consent_is_counted THEN coalesce(to_char(
                coalesce(NEW.consented_at, NEW.observed_updated_at, NEW.imported_at, NEW.created_at) AT TIME ZONE 'UTC',
                'YYYY-MM-DD'), '') END
        FROM connections c WHERE c.tenant = NEW.tenant AND c.name = NEW.connection;
    END IF;
    NEW.consent_report_due_at := CASE
        WHEN NEW.consent_reported_days IS NULL THEN NEW.consent_expires_at - interval '30 days'
        WHEN NEW.consent_reported_days > 7 THEN NEW.consent_expires_at - interval '7 days'
        WHEN NEW.consent_reported_days > 1 THEN NEW.consent_expires_at - interval '1 day'
    END;
    RETURN NEW;
END $$;
"""

# What stood here before is what an earlier migration made.
ANSWERS = import_module("migrations.versions.0014_answers")


def upgrade() -> None:
    op.add_column("grants", sa.Column("consented_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "grants",
        sa.Column("consent_is_counted", sa.Boolean(), server_default=sa.text("true"), nullable=False),
    )
    op.execute("UPDATE grants SET consent_is_counted = false WHERE consent_expires_at IS NOT NULL")
    op.get_bind().exec_driver_sql(GRANTS_REPORT_CONSENT.replace("%", "%%"))


def downgrade() -> None:
    function, _, _ = ANSWERS.GRANTS_REPORT_CONSENT.partition("CREATE TRIGGER")
    op.get_bind().exec_driver_sql(
        function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace("%", "%%")
    )
    op.execute("UPDATE grants SET consent_expires_at = NULL WHERE consent_is_counted")
    op.drop_column("grants", "consent_is_counted")
    op.drop_column("grants", "consented_at")
