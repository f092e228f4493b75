"""What the vault's roles may not do, each tried by one that logged in, while renewals go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from tests.support.reader_roles import connect
from tests.support.renewals import Renewals
from tests.support.role_members import NewMember, role_members
from tests.support.rows import Sql
from token_vault.secret import Secret
from worker.renewal.outcome import Outcome
from worker.vault.db import roles
from worker.vault.db.engine import create_command_engine
from worker.vault.db.migrate import migrate
from worker.vault.db.roles import ROLES
from worker.vault.db.tables import Base

TABLES = [*sorted(Base.metadata.tables), "alembic_version", "audit_records", "audit_state"]
COLUMN = {"grants": "state", "consumers": "users", "audit_records": "outcome", "audit_state": "keep"}

# Records are inserted by a function: the table's numbers are nobody's. What each role may do to which tables, beside the columns of `allowed`; all else is refused.
MAY = {
    "vault_reader": {},
    "vault_operator": {
        "consumers": "SELECT INSERT UPDATE DELETE", "audit_records": "SELECT", "audit_state": "SELECT", "outbox": "SELECT",
        "deliveries": "SELECT", "renewal_counts": "SELECT", "sync_runs": "SELECT", "alembic_version": "SELECT",
        "pauses": "SELECT",
    },
    "vault_worker": dict.fromkeys(Base.metadata.tables, "SELECT INSERT UPDATE DELETE")
    | {
        "consumers": "SELECT", "vault_secrets": "SELECT INSERT UPDATE", "audit_records": "SELECT",
        "audit_state": "SELECT", "alembic_version": "SELECT",
    },
}  # fmt: skip

STATEMENTS = {
    "SELECT": "SELECT * FROM {table} LIMIT 1",
    "INSERT": "INSERT INTO {table} DEFAULT VALUES",
    "DELETE": "DELETE FROM {table} WHERE false",
    "TRUNCATE": "TRUNCATE {table}",
    "LOCK": "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
    "TRIGGER": "CREATE TRIGGER t BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER": "ALTER TABLE {table} ADD COLUMN odd text",
    "DROP": "DROP TABLE {table}",
    "OWNER": "ALTER TABLE {table} OWNER TO CURRENT_USER",
}

# Beside the tables: what would give a role more than its own, or keep others from theirs.
REACHING = (
    "SET ROLE vault_worker", "SET ROLE pg_database_owner", "CREATE TABLE public.odd (a int)",
    "CREATE FUNCTION public.odd() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT pg_read_file('postgresql.conf')",
    "COPY grants TO PROGRAM 'true'", "SELECT maintain_audit()", "ALTER ROLE CURRENT_USER SUPERUSER",
    "CREATE ROLE odd", "SELECT pg_reload_conf()",
    "SELECT refresh_ciphertext FROM served_tokens", "UPDATE served_tokens SET state = 'erased'", "DELETE FROM token_status",
    "CREATE OR REPLACE VIEW served_tokens AS SELECT 1 AS id", "ALTER VIEW served_tokens RESET (security_barrier)",
    "ALTER FUNCTION record_reads(jsonb) SECURITY INVOKER",
    "UPDATE consumers SET admins = true", "INSERT INTO audit_records_default SELECT * FROM audit_records",
    "SELECT nextval('audit_records_id_seq')",
)  # fmt: skip


@pytest.fixture
def new_member(database_url: Secret) -> Iterator[NewMember]:
    """Makes members of the vault's roles."""
    with role_members(database_url) as make:
        yield make


def is_refused(connection: psycopg.Connection[object], statement: str) -> bool:
    """Try a statement and undo it; whether it was refused."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except (errors.InsufficientPrivilege, errors.UndefinedColumn, errors.ObjectNotInPrerequisiteState):
        return (
            True  # the latter two for a column that a view does not have, and a view that nobody can write to
        )
    except psycopg.Error:
        return False  # it got as far as the rows
    return False


def tried(url: Secret, role: str) -> dict[str, bool]:
    """Each statement, and whether it was refused."""
    with connect(url) as connection:
        connection.execute("SET lock_timeout = '1s'")
        statements = [
            *(text.format(table=table) for table in TABLES for text in STATEMENTS.values()),
            *(f"UPDATE {table} SET {column} = {column} WHERE false" for table, column in COLUMN.items()),
            *(each for each in REACHING if not (role == "vault_worker" and "vault_worker" in each)),
        ]
        return {statement: is_refused(connection, statement) for statement in statements}


def allowed(role: str) -> set[str]:
    """The statements that are a role's right."""
    rights = {table: words.split() for table, words in MAY[role].items()}
    found = {
        STATEMENTS[word].format(table=table)
        for table, words in rights.items()
        for word in words
        if word != "UPDATE"
    }
    # A lock that keeps others out is the right of whoever may delete or truncate rows.
    found |= {STATEMENTS["LOCK"].format(table=table) for table, words in rights.items() if "UPDATE" in words}
    found |= {
        f"UPDATE {table} SET {column} = {column} WHERE false"
        for table, column in COLUMN.items()
        if "UPDATE" in rights.get(table, ())
    }
    if role == "vault_operator":
        found |= {"UPDATE audit_state SET keep = keep WHERE false", "UPDATE consumers SET admins = true"}
    if role == "vault_worker":
        found |= {"SELECT maintain_audit()"}
    return found


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_does_what_is_its_own_and_nothing_else(
    renewals: Renewals, new_member: NewMember, role: str
) -> None:
    """Every statement beyond a role's rights is refused, and renewals go on meanwhile."""
    renewals.connect("strict", users=3)
    worker = await renewals.synced()
    renewals.make_due()
    trying = asyncio.create_task(asyncio.to_thread(tried, new_member(role), role))
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 3}
    results = await trying
    assert {statement for statement, refused in results.items() if not refused} == allowed(role)
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 3}


async def test_workers_work_as_their_role(
    renewals: Renewals, new_member: NewMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that logs in as a member of ``vault_worker`` syncs and renews."""
    monkeypatch.setenv("DATABASE_URL", new_member("vault_worker").reveal())
    renewals.connect("strict", users=2)
    worker = await renewals.synced()
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 2}


def test_what_the_role_at_hand_may_not_run_is_returned(
    new_member: NewMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not make roles or give rights gets the statements back, for somebody else to run."""
    monkeypatch.setattr(roles, "ROLES", (*ROLES, "vault_absent"))
    engine = create_command_engine(new_member("vault_reader"))
    with engine.begin() as connection:
        left = roles.grant_roles(connection)
    assert left[0] == "CREATE ROLE vault_absent NOLOGIN"
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON public.grants TO vault_worker" in left


def test_roles_that_are_missing_are_left_to_the_operator_with_their_rights(database_url: Secret) -> None:
    """An owner who may not make roles, on a server without them, gets every statement back."""
    with create_command_engine(database_url).connect() as connection, connection.begin() as transaction:
        for role in ROLES:  # they belong to the whole server; the rest of it goes on seeing them
            connection.exec_driver_sql(f"ALTER ROLE {role} RENAME TO {role}_renamed")
        connection.exec_driver_sql("CREATE ROLE plain_owner")
        connection.exec_driver_sql("GRANT plain_owner TO CURRENT_USER")
        connection.exec_driver_sql("SET LOCAL ROLE plain_owner")
        left = roles.grant_roles(connection)
        transaction.rollback()
    assert left[:3] == [f"CREATE ROLE {role} NOLOGIN" for role in ROLES]
    assert {f"GRANT USAGE ON SCHEMA public TO {role}" for role in ROLES} <= set(left)
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON public.grants TO vault_worker" in left


# Rights that stand beside those of `MAY`; a right of everybody would pass by every role.
BESIDE = {
    ("vault_operator", "SELECT", "grants", "id"), ("vault_operator", "SELECT", "token_status", ""),
    ("vault_operator", "UPDATE", "audit_state", "keep"),
    ("vault_worker", "INSERT", "audit_records", ""),
    ("vault_worker", "UPDATE", "audit_state", "shipped_id"), ("vault_worker", "UPDATE", "audit_state", "shipped_xact"),
    ("vault_worker", "EXECUTE", "maintain_audit", ""),
    *((role, "SELECT", view, "") for role in ("vault_reader", "vault_worker")
      for view in ("served_resource_tokens", "served_tokens", "token_status")),
    *((role, "EXECUTE", function, "") for role in ("vault_reader", "vault_worker")
      for function in ("record_reads", "report_rejected", "request_refresh")),
}  # fmt: skip
RIGHTS = """
WITH held (acl, name, of) AS (
    SELECT relacl, relname, '' FROM pg_class WHERE relnamespace = current_schema()::regnamespace
    UNION ALL SELECT attacl, relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE relnamespace = current_schema()::regnamespace
    UNION ALL SELECT coalesce(proacl, acldefault('f', proowner)), proname, '' FROM pg_proc
    WHERE pronamespace = current_schema()::regnamespace AND prosecdef
)
SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role, privilege_type, name, of
FROM held, aclexplode(acl) WHERE grantee = 0 OR grantee::regrole::text = ANY (%s)
"""
# Functions and views with their owner's rights, and their settings.
OWNERS = """
SELECT proname AS name, proconfig AS settings FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND prosecdef
UNION ALL SELECT relname, reloptions FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'v'
"""


def test_the_catalogue_has_no_other_right(database_url: Secret, sql: Sql) -> None:
    """Every right is a role's own, none is everybody's, and `migrate` takes away what was given beside them."""
    sql("GRANT UPDATE (state), SELECT (refresh_ciphertext) ON grants TO vault_operator")
    sql("GRANT EXECUTE ON FUNCTION maintain_audit TO vault_reader")
    migrate(database_url)
    expected = BESIDE | {
        (role, word, table, "")
        for role, tables in MAY.items()
        for table, words in tables.items()
        for word in words.split()
    }
    assert {tuple(row.values()) for row in sql(RIGHTS, list(ROLES))} == expected


def test_what_runs_as_the_owner_trusts_no_caller(sql: Sql) -> None:
    """A function takes no name from a caller's schema and waits for no lock for long; a view shows no hidden row."""
    function, view = {"search_path=pg_catalog, pg_temp", "lock_timeout=2s"}, {"security_barrier=true"}
    expected = dict.fromkeys(
        ("maintain_audit", "record_reads", "report_rejected", "request_refresh"), function
    )
    expected |= dict.fromkeys(("served_resource_tokens", "served_tokens", "token_status"), view)
    found = {row["name"]: set(row["settings"] or ()) - {"TimeZone=UTC"} for row in sql(OWNERS)}
    assert found == expected
