"""The trouble of a grant that was reported and is not over: being in doubt meanwhile does not end it.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# A dead grant that a late answer puts in doubt either dies again, which is no news, or is healed by way of that doubt.
# Before the update, as the row itself keeps what was told.
GRANTS_TELL = """
CREATE FUNCTION grants_tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_told text := CASE
        WHEN NEW.expiry_told_version IS DISTINCT FROM OLD.expiry_told_version THEN 'grant.expiring'
        WHEN NEW.state = 'reauthorization_required' AND coalesce(OLD.told, 'grant.expiring') = 'grant.expiring'
            THEN CASE NEW.reason WHEN 'lost_in_rotation' THEN 'grant.lost_in_rotation' ELSE 'grant.reauthorization_required' END
        WHEN NEW.state = 'active' AND OLD.told IS NOT NULL THEN 'grant.healed'
    END;
BEGIN
    IF now_told IS NOT NULL THEN
        INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id, provider, state, reason, since, expires_at)
        SELECT now_told, NEW.tenant, NEW.connection, NEW.user_id, NEW.provider_user_id, c.provider, NEW.state, NEW.reason,
            NEW.reason_since, NEW.expires_at
        FROM connections c WHERE c.tenant = NEW.tenant AND c.name = NEW.connection;
    END IF;
    NEW.told := CASE WHEN NEW.state IN ('active', 'erased') THEN NULL ELSE coalesce(now_told, OLD.told) END;
    RETURN NEW;
END $$;
CREATE TRIGGER grants_tell BEFORE UPDATE ON grants FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.expiry_told_version IS DISTINCT FROM NEW.expiry_told_version)
    EXECUTE FUNCTION grants_tell();
"""

DROP = "DROP TRIGGER grants_tell ON grants; DROP FUNCTION grants_tell();"

# What stood here before is what an earlier migration made.
OUTBOX = import_module("migrations.versions.0003_outbox")


def upgrade() -> None:
    op.execute(DROP)
    op.add_column("grants", sa.Column("told", sa.Text(), nullable=True))
    op.execute("""
        UPDATE grants SET told = CASE WHEN state = 'unrenewable' THEN 'grant.expiring'
            WHEN reason = 'lost_in_rotation' THEN 'grant.lost_in_rotation' ELSE 'grant.reauthorization_required' END
        WHERE state = 'reauthorization_required' OR (state = 'unrenewable' AND expiry_told_version IS NOT NULL)
    """)
    op.execute(GRANTS_TELL)


def downgrade() -> None:
    op.execute(DROP)
    op.execute(OUTBOX.GRANTS_TELL)
    op.drop_column("grants", "told")
