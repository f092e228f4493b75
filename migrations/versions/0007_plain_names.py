"""Plain names: tables, columns, indexes and triggers get the names of the glossary.

Only Postgres' catalog changes, not the tables' rows.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from alembic import op

revision = "0007"
down_revision = "0006"

TABLES = {
    "sync_positions": "sync_cursors",
    "wanted_users": "users_to_sync",
}

# By the tables' new names. Views, indexes, checks and conditions of triggers follow by themselves.
COLUMNS = {
    "grants": {
        "access_sealed": "access_ciphertext",
        "refresh_sealed": "refresh_ciphertext",
        "shown_access": "observed_access",
        "shown_refresh": "observed_refresh",
        "shown_updated_at": "observed_updated_at",
        "claim_began": "claimed_at",
        "doubt_since": "in_doubt_since",
        "expiry_told_version": "expiry_reported_version",
        "told": "reported_trouble",
    },
    "connections": {
        "options_sealed": "options_ciphertext",
        "away": "failed_calls",
        "seen_rotating": "observed_rotating",
        "seen_grace": "observed_grace",
        "seen_life": "observed_life",
        "seen_refresh_life": "observed_refresh_life",
    },
    "management_tokens": {"sealed": "ciphertext"},
    "vault_secrets": {"sealed": "ciphertext"},
    "outbox": {"spread_at": "queued_at"},
    "sync_cursors": {"mark": "token"},
    # A view keeps the names of its own columns; readers use this one.
    "served_tokens": {"access_sealed": "access_ciphertext"},
}

INDEXES = {
    "sync_positions_pkey": "sync_cursors_pkey",
    "wanted_users_pkey": "users_to_sync_pkey",
    "grants_walk_idx": "grants_scan_idx",
    "outbox_fresh_idx": "outbox_unqueued_idx",
}

# Each is the name of a trigger and of its function, by the table.
TRIGGERS = {
    "grants": ("grants_tell", "grants_emit"),
    "connections": ("connections_tell", "connections_emit"),
}

# A function keeps its text, and with it the old names.
GRANTS_EMIT = """
CREATE OR REPLACE FUNCTION grants_emit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    event text := CASE
        WHEN NEW.expiry_reported_version IS DISTINCT FROM OLD.expiry_reported_version THEN 'grant.expiring'
        WHEN NEW.state = 'reauthorization_required'
            AND coalesce(OLD.reported_trouble, 'grant.expiring') = 'grant.expiring'
            THEN CASE NEW.reason WHEN 'lost_in_rotation' THEN 'grant.lost_in_rotation' ELSE 'grant.reauthorization_required' END
        WHEN NEW.state = 'active' AND OLD.reported_trouble IS NOT NULL THEN 'grant.healed'
    END;
BEGIN
    IF event IS NOT NULL THEN
        INSERT INTO outbox (kind, tenant, connection, user_id, provider_user_id, provider, state, reason, since, expires_at)
        SELECT event, NEW.tenant, NEW.connection, NEW.user_id, NEW.provider_user_id, c.provider, NEW.state, NEW.reason,
            NEW.reason_since, NEW.expires_at
        FROM connections c WHERE c.tenant = NEW.tenant AND c.name = NEW.connection;
    END IF;
    NEW.reported_trouble := CASE WHEN NEW.state NOT IN ('active', 'erased') THEN coalesce(event, OLD.reported_trouble) END;
    RETURN NEW;
END $$;
"""

# What stood here before is what an earlier migration made.
TOLD = import_module("migrations.versions.0006_told")


def upgrade() -> None:
    for old, new in TABLES.items():
        op.rename_table(old, new)
    for table, columns in COLUMNS.items():
        for old, new in columns.items():
            op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    for old, new in INDEXES.items():
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    rename_triggers(lambda names: names)
    op.execute(GRANTS_EMIT)


def downgrade() -> None:
    rename_triggers(lambda names: (names[1], names[0]))
    function, _, _ = TOLD.GRANTS_TELL.partition("CREATE TRIGGER")
    op.execute(function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    for old, new in INDEXES.items():
        op.execute(f"ALTER INDEX {new} RENAME TO {old}")
    for table, columns in COLUMNS.items():
        for old, new in columns.items():
            op.execute(f"ALTER TABLE {table} RENAME COLUMN {new} TO {old}")
    for old, new in TABLES.items():
        op.rename_table(new, old)


def rename_triggers(order: Callable[[tuple[str, str]], tuple[str, str]]) -> None:
    """Rename each trigger and its function from one name to the other."""
    for table, names in TRIGGERS.items():
        old, new = order(names)
        op.execute(f"ALTER TRIGGER {old} ON {table} RENAME TO {new}")
        op.execute(f"ALTER FUNCTION {old}() RENAME TO {new}")
