"""The app's own id of a refresh request, so that logs can be followed from the app to the provider.

Revision ID: 0025
Revises: 0024
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

# The reader's statement names it in a setting, which holds as long as the statement. What could not stand in a log is
# left out.
NAME_REQUEST = r"""
CREATE FUNCTION refresh_requests_name() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given CONSTANT text := current_setting('token_vault.request_id', true);
BEGIN
    IF given ~ '^[A-Za-z0-9._:/+=-]{1,128}$' THEN
        NEW.request_id := given;
    ELSIF TG_OP = 'INSERT' OR NEW.requested_at IS DISTINCT FROM OLD.requested_at THEN
        NEW.request_id := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refresh_requests_name BEFORE INSERT OR UPDATE ON refresh_requests
    FOR EACH ROW EXECUTE FUNCTION refresh_requests_name();
"""


def upgrade() -> None:
    op.add_column("refresh_requests", sa.Column("request_id", sa.Text(), nullable=True))
    op.execute(NAME_REQUEST)


def downgrade() -> None:
    op.execute("DROP TRIGGER refresh_requests_name ON refresh_requests")
    op.execute("DROP FUNCTION refresh_requests_name")
    op.drop_column("refresh_requests", "request_id")
