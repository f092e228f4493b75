"""Guards: where the vault lives, which hosts tokens are sent to, and versions of options that only rise.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

# Null where the role may not know it, or the service does not offer it: then the database's oid and the transaction
# that recorded the location decide alone.
CLUSTER_IDENTIFIER = """
CREATE FUNCTION cluster_identifier() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT system_identifier::text FROM pg_catalog.pg_control_system());
EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported OR internal_error THEN
    RETURN NULL;
END $$
"""

# A vault that is in use lives here; a new one records its location when it is opened first.
RECORD_LOCATION = """
INSERT INTO vault_location (is_only, system_identifier, database_oid, recorded_at, recorded_by)
SELECT true, cluster_identifier(), oid, now(), mod(pg_current_xact_id()::text::bigint, 4294967296)
FROM pg_database WHERE datname = current_database() AND EXISTS (SELECT FROM vault_secrets)
"""

# As for grants: an older ciphertext of the options would bring back the client or the token URL that was replaced.
NEVER_BACKWARDS = """
CREATE FUNCTION connections_never_backwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'connection % may not go backwards: older options would replace newer ones', OLD.name
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER connections_never_backwards BEFORE UPDATE ON connections FOR EACH ROW
    WHEN (NEW.options_version < OLD.options_version)
    EXECUTE FUNCTION connections_never_backwards();
"""


def upgrade() -> None:
    op.create_table(
        "vault_location",
        sa.Column("is_only", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("system_identifier", sa.Text(), nullable=True),
        sa.Column("database_oid", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_by", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("is_only", name=op.f("vault_location_is_only_check")),
        sa.PrimaryKeyConstraint("is_only", name=op.f("vault_location_pkey")),
    )
    op.execute(CLUSTER_IDENTIFIER)
    op.execute(RECORD_LOCATION)
    op.add_column("connections", sa.Column("token_host", sa.Text(), nullable=True))
    op.execute(NEVER_BACKWARDS)


def downgrade() -> None:
    op.execute("DROP TRIGGER connections_never_backwards ON connections")
    op.execute("DROP FUNCTION connections_never_backwards()")
    op.drop_column("connections", "token_host")
    op.execute("DROP FUNCTION cluster_identifier()")
    op.drop_table("vault_location")
