"""Digests of refresh tokens, by which providers' events name them.

Revision ID: 0030
Revises: 0029
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"

# What is to be digested follows what is stored, whoever stores it: without a digest a row waits for a worker. Only for
# connections whose events name tokens, as others need none of it.
FOLLOW_GRANTS = """
CREATE FUNCTION refresh_digests_follow_new_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}.refresh_digests (grant_id, version)
    SELECT a.id, a.refresh_version FROM added a
    JOIN {schema}.connections c ON c.tenant = a.tenant AND c.name = a.connection
    WHERE c.digests_tokens AND a.refresh_ciphertext IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER refresh_digests_follow_new_grants AFTER INSERT ON grants REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION refresh_digests_follow_new_grants();
CREATE FUNCTION refresh_digests_follow_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.refresh_ciphertext IS NULL THEN
        DELETE FROM {schema}.refresh_digests WHERE grant_id = NEW.id;
    ELSE
        INSERT INTO {schema}.refresh_digests (grant_id, version)
        SELECT NEW.id, NEW.refresh_version FROM {schema}.connections c
        WHERE c.tenant = NEW.tenant AND c.name = NEW.connection AND c.digests_tokens
        ON CONFLICT (grant_id) DO UPDATE SET version = excluded.version, prefix = NULL, hash = NULL;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER refresh_digests_follow_grants AFTER UPDATE ON grants FOR EACH ROW
    WHEN (NEW.refresh_version <> OLD.refresh_version
        OR NEW.refresh_ciphertext IS NULL AND OLD.refresh_ciphertext IS NOT NULL)
    EXECUTE FUNCTION refresh_digests_follow_grants();
"""


def upgrade() -> None:
    op.add_column(
        "connections",
        sa.Column("digests_tokens", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_table(
        "refresh_digests",
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("prefix", sa.LargeBinary(), nullable=True),
        sa.Column("hash", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["grants.id"], name=op.f("refresh_digests_grant_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("grant_id", name=op.f("refresh_digests_pkey")),
    )
    for name in ("prefix", "hash"):
        op.create_index(f"refresh_digests_{name}_idx", "refresh_digests", [name])
    op.create_index(
        "refresh_digests_pending_idx",
        "refresh_digests",
        ["grant_id"],
        postgresql_where=sa.text("hash IS NULL"),
    )
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(FOLLOW_GRANTS.format(schema=schema))


def downgrade() -> None:
    for name in ("refresh_digests_follow_new_grants", "refresh_digests_follow_grants"):
        op.execute(f"DROP TRIGGER {name} ON grants; DROP FUNCTION {name}()")
    op.drop_table("refresh_digests")
    op.drop_column("connections", "digests_tokens")
