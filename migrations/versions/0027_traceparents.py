"""The app's trace of a refresh request, so that one trace leads from the app to the provider.

Revision ID: 0027
Revises: 0026
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"

# As before for the id: what is no traceparent (W3C Trace Context, version 00) is left out.
NAME_REQUEST = r"""
CREATE OR REPLACE FUNCTION refresh_requests_name() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given CONSTANT text := current_setting('token_vault.request_id', true);
    trace CONSTANT text := current_setting('token_vault.traceparent', true);
    is_asked_anew CONSTANT boolean := TG_OP = 'INSERT' OR NEW.requested_at IS DISTINCT FROM OLD.requested_at;
BEGIN
    IF given ~ '^[A-Za-z0-9._:/+=-]{1,128}$' THEN
        NEW.request_id := given;
    ELSIF is_asked_anew THEN
        NEW.request_id := NULL;
    END IF;
    IF trace ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' THEN
        NEW.traceparent := trace;
    ELSIF is_asked_anew THEN
        NEW.traceparent := NULL;
    END IF;
    RETURN NEW;
END $$;
"""
NAME_REQUEST_BEFORE = r"""
CREATE OR REPLACE FUNCTION refresh_requests_name() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
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
"""


def upgrade() -> None:
    op.add_column("refresh_requests", sa.Column("traceparent", sa.Text(), nullable=True))
    op.execute(NAME_REQUEST)


def downgrade() -> None:
    op.execute(NAME_REQUEST_BEFORE)
    op.drop_column("refresh_requests", "traceparent")
