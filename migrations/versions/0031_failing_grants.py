"""Events of grants whose renewals fail; the event of a presumed death says what was observed.

Revision ID: 0031
Revises: 0030
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"

# A grant is dead by its provider's verdict, or presumed so: then it has a time at which it is tried again, and its
# refusals, which are still there before the update, say what was seen. Trouble is over with a renewal or a login: both
# end the count of failures.
GRANTS_EMIT = """
CREATE OR REPLACE FUNCTION grants_emit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_over CONSTANT boolean := NEW.state = 'erased' OR NEW.state = 'active' AND NEW.attempts = 0;
    event CONSTANT text := CASE
        WHEN NEW.expiry_reported_version IS DISTINCT FROM OLD.expiry_reported_version
            THEN CASE WHEN NEW.state IN ('active', 'in_doubt') THEN 'grant.failing' ELSE 'grant.expiring' END
        WHEN NEW.state = 'reauthorization_required'
            AND coalesce(OLD.reported_trouble, 'grant.expiring') IN ('grant.expiring', 'grant.failing')
            THEN CASE NEW.reason WHEN 'lost_in_rotation' THEN 'grant.lost_in_rotation' ELSE 'grant.reauthorization_required' END
        WHEN is_over AND NEW.state = 'active' AND OLD.reported_trouble IS NOT NULL THEN 'grant.healed'
    END;
    seen text;
BEGIN
    IF event IS NOT NULL THEN
        IF NEW.state = 'reauthorization_required' AND NEW.due_at IS NOT NULL THEN
            SELECT format('%s times since %s', r.tries, to_char(r.first_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
            INTO seen FROM refusals r WHERE r.grant_id = NEW.id;
            seen := coalesce(seen, 'again and again');
        END IF;
        INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id, provider, state, reason, since, expires_at,
            message)
        SELECT event, NEW.tenant, NEW.connection, NEW.user_id, NEW.provider_user_id, c.provider, NEW.state,
            CASE event WHEN 'grant.failing' THEN NEW.last_error ELSE NEW.reason END,
            CASE event WHEN 'grant.failing' THEN NEW.failing_since ELSE NEW.reason_since END, NEW.expires_at, seen
        FROM connections c WHERE c.tenant = NEW.tenant AND c.name = NEW.connection;
    END IF;
    NEW.reported_trouble := CASE WHEN NOT is_over THEN coalesce(event, OLD.reported_trouble) END;
    RETURN NEW;
END $$;
"""

TRIGGER = """
CREATE OR REPLACE TRIGGER grants_emit BEFORE UPDATE ON grants FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.expiry_reported_version IS DISTINCT FROM NEW.expiry_reported_version{more})
    EXECUTE FUNCTION grants_emit();
"""
UNTROUBLED = " OR OLD.reported_trouble IS NOT NULL AND NEW.attempts = 0 AND OLD.attempts > 0"

# What stood here before is what an earlier migration made.
NAMES = import_module("migrations.versions.0007_plain_names")


def upgrade() -> None:
    op.add_column("grants", sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True))
    op.get_bind().exec_driver_sql(GRANTS_EMIT.replace("%", "%%"))
    op.execute(TRIGGER.format(more=UNTROUBLED))


def downgrade() -> None:
    op.execute(TRIGGER.format(more=""))
    op.execute(NAMES.GRANTS_EMIT)
    op.execute("UPDATE grants SET reported_trouble = NULL WHERE reported_trouble = 'grant.failing'")
    op.drop_column("grants", "failing_since")
