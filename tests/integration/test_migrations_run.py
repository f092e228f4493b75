from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from psycopg import sql as syntax
from sqlalchemy import make_url

from tests.alembic_check import drift
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.wait import WAIT_SECONDS
from token_vault import TokenVault
from token_vault.database_errors import failure
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import (
    AccessDenied,
    ConfigurationError,
    TemporarilyUnavailable,
    TokenNotFound,
    VaultError,
)
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker import embedded
from worker.vault.db.migrate import configuration, migrate
from worker.vault.db.revisions import list_revisions, revisions
from worker.vault.vault import open_vault

PASSWORD = "p@ss/w:rd %canary'?#&"
SCHEMA = """
SELECT 'column' AS kind, concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) AS what
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'view', pg_get_viewdef(oid) FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1, 2
"""


def address(url: Secret, **changes: Any) -> Secret:
    """The URL with another database, user or password."""
    return Secret(make_url(url.reveal()).set(**changes).render_as_string(hide_password=False))


def run(url: Secret, statement: LiteralString | syntax.Composed) -> list[tuple[Any, ...]]:
    """Run statements and commit them."""
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def rows(url: Secret, tables: Iterable[str]) -> list[list[tuple[Any, ...]]]:
    """All that each of these tables holds."""
    return [run(url, syntax.SQL("TABLE {}").format(syntax.Identifier(name))) for name in tables]


@contextmanager
def role(url: Secret, rights: LiteralString) -> Iterator[Secret]:
    """Make a role with an odd password and these rights; gives the URL with which it logs in."""
    name = f"role_{uuid4().hex}"
    there = syntax.Identifier(name)
    run(url, syntax.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(there, syntax.Literal(PASSWORD)))
    # To drop it again; Postgres before 16 knows no other membership than one that inherits, and no word for it.
    word = "WITH INHERIT TRUE" if run(url, "SHOW server_version_num")[0][0] >= "160000" else ""
    run(url, syntax.SQL("GRANT {} TO CURRENT_USER {}").format(there, syntax.SQL(word)))
    run(url, syntax.SQL(rights).format(there))
    where = make_url(url.reveal())
    yield Secret(f"postgres://{name}:{quote(PASSWORD, safe='')}@{where.host}:{where.port}/{where.database}")
    run(url, syntax.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(there))


@pytest.fixture
def empty(servers: embedded.Servers) -> Iterator[Secret]:
    """A database with nothing in it."""
    name = f"empty_{uuid4().hex}"
    run(servers.database_url, syntax.SQL("CREATE DATABASE {}").format(syntax.Identifier(name)))
    yield address(servers.database_url, database=name)
    run(servers.database_url, syntax.SQL("DROP DATABASE {} WITH (FORCE)").format(syntax.Identifier(name)))


@pytest.fixture
def reader(database_url: Secret) -> Iterator[Secret]:
    """A role that may read the two views, as a service that reads tokens has it."""
    with role(database_url, "GRANT SELECT ON served_tokens, token_status TO {}") as url:
        as_consumer = "INSERT INTO consumers (name, role, connections, users, admins, refresh) VALUES ({0}, {0}, '{{*}}', true, true, true)"
        run(database_url, syntax.SQL(as_consumer).format(syntax.Literal(make_url(url.reveal()).username)))
        yield url


def test_the_migrations_go_up_down_and_up(empty: Secret) -> None:
    """Down leaves nothing behind, and up again makes what up made."""
    migrate(empty)
    first = run(empty, SCHEMA)
    command.downgrade(configuration(empty), "base")
    assert {what.split()[0] for _, what in run(empty, SCHEMA) if not what.startswith("CREATE")} == {
        "alembic_version"
    }
    assert run(empty, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
    migrate(empty)
    assert run(empty, SCHEMA) == first


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005", "0006", "0016"])
def test_a_migration_back_makes_what_was_there(empty: Secret, revision: str) -> None:
    """Down to a revision makes the schema that going up to it makes."""
    migrate(empty, revision)
    before = run(empty, SCHEMA)
    migrate(empty)
    command.downgrade(configuration(empty), revision)
    assert run(empty, SCHEMA) == before


FILLED_AT_0006 = """
INSERT INTO connections (tenant, name, strategy, options_sealed, away, seen_rotating, seen_grace, seen_life, seen_refresh_life)
VALUES ('default', 'c', 'oauth2', 'options', 3, true, 1.5, '1 h', '30 d');
INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, reason, obtained_from, access_sealed, access_version,
    refresh_sealed, refresh_version, expires_at, shown_access, shown_refresh, shown_updated_at, claim_owner, claim_began,
    claim_until, doubt_since, expiry_told_version, told)
VALUES ('default', 'c', 'oauth2|1', '1', 'in_doubt', 'timeout', 'renewal', 'access', 3, 'refresh', 4,
    '2026-11-01T13:00Z', 'a', 'r', '2026-11-01T10:00Z', 'aa28f9a4-5f8b-4f2c-8df4-3a5a6b3e8b6f', '2026-11-01T12:00Z',
    '2026-11-01T12:02Z', '2026-11-01T11:59Z', 2, 'grant.reauthorization_required');
INSERT INTO vault_secrets (name, sealed) VALUES ('fingerprint_key', 'secret');
INSERT INTO management_tokens (tenant, minted_with, sealed, expires_at) VALUES ('default', 'with', 'token', now());
INSERT INTO sync_positions (tenant, feed, mark) VALUES ('default', 'log', '900');
INSERT INTO wanted_users (tenant, user_id) VALUES ('default', 'oauth2|2');
INSERT INTO outbox (kind, tenant, spread_at) VALUES ('connection.broken', 'default', '2026-11-01T12:00Z');
"""


def test_plain_names_keep_what_is_stored(empty: Secret) -> None:
    """A vault of revision 0006 keeps each value through the renaming and back, and no table is written anew."""
    tables = (
        "connections", "grants", "vault_secrets", "management_tokens", "sync_positions", "wanted_users", "outbox",
    )  # fmt: skip
    renamed = {"sync_positions": "sync_cursors", "wanted_users": "users_to_sync"}
    migrate(empty, "0006")
    run(empty, FILLED_AT_0006)
    files = "SELECT relfilenode FROM pg_class WHERE relkind IN ('r', 'i') ORDER BY oid"
    before, stored_in = rows(empty, tables), run(empty, files)
    with role(empty, "GRANT SELECT ON served_tokens, token_status TO {}") as reader:
        migrate(empty, "0007")
        assert rows(empty, [renamed.get(name, name) for name in tables]) == before
        assert run(empty, files) == stored_in
        assert run(reader, "SELECT access_ciphertext FROM served_tokens") == [(b"access",)]
        command.downgrade(configuration(empty), "0006")
        assert rows(empty, tables) == before
        assert run(reader, "SELECT access_sealed FROM served_tokens") == [(b"access",)]


def test_the_renamed_triggers_still_write_events(empty: Secret) -> None:
    """After the renaming a dead grant is reported once, and its recovery too; so it is after going back."""
    for revision, reported in (("0007", "reported_trouble"), ("0006", "told")):
        if revision == "0007":
            migrate(empty, "0006")
            run(empty, FILLED_AT_0006)
            migrate(empty, "0007")
        else:
            command.downgrade(configuration(empty), "0006")
        run(empty, "DELETE FROM outbox")
        run(empty, "UPDATE grants SET state = 'active', reason = NULL")
        run(
            empty,
            "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', due_at = NULL",
        )
        run(empty, "UPDATE connections SET problem = 'no_client', problem_message = 'none'")
        assert run(empty, "SELECT kind FROM outbox ORDER BY at") == [
            ("grant.healed",), ("grant.reauthorization_required",), ("connection.broken",),
        ]  # fmt: skip
        run(empty, "UPDATE connections SET problem = NULL, problem_message = NULL")
        told = run(empty, syntax.SQL("SELECT {} FROM grants").format(syntax.Identifier(reported)))
        assert told == [("grant.reauthorization_required",)]
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="may not go backwards"):
        run(empty, "UPDATE grants SET refresh_sealed = NULL")


def test_the_migrations_make_what_the_models_describe(empty: Secret) -> None:
    """`alembic check` finds nothing to do after the migrations, and a column that nobody declared."""
    migrate(empty)
    assert drift(empty) is None
    run(empty, "ALTER TABLE grants ADD COLUMN undeclared text")
    assert "undeclared" in (drift(empty) or "")


def test_the_files_names_are_alembics_revisions() -> None:
    """What the names of the migrations' files say is what Alembic finds in them, in its order."""
    scripts = ScriptDirectory.from_config(configuration(Secret("postgresql://")))
    assert list_revisions() == [each.revision for each in scripts.walk_revisions()][::-1]


def test_migrating_again_changes_nothing(empty: Secret) -> None:
    """A second run finds the database at this version, with its data."""
    assert revisions(empty)[0] is None
    migrate(empty)
    run(empty, "INSERT INTO sync_runs (tenant, scope, started_at) VALUES ('default', 'all', now())")
    migrate(empty)
    assert run(empty, "SELECT tenant FROM sync_runs") == [("default",)]
    current, newest = revisions(empty)
    assert current == newest is not None


def test_a_table_that_somebody_holds_is_told_as_that(empty: Secret) -> None:
    """A migration that gave up waiting for a table does not say that Postgres is away."""
    run(empty, "CREATE TABLE held ()")
    with psycopg.connect(empty.reveal()) as holder, psycopg.connect(empty.reveal()) as waiting:
        holder.execute("LOCK TABLE held")
        waiting.execute("SET lock_timeout = '10ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable) as refused:
            waiting.execute("LOCK TABLE held")
    assert "a lock that another connection holds" in str(failure(refused.value))


def test_two_migrations_at_once_take_turns(empty: Secret) -> None:
    """Two deployments that migrate at the same time both succeed."""
    program = (
        "import sys; from worker.vault.db.migrate import migrate; from token_vault.secret import Secret; "
    )
    program += "migrate(Secret(sys.stdin.read()))"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write(empty.reveal())
        process.stdin.close()
        process.stdin = None
    for process in both:
        _, stderr = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, stderr
    assert drift(empty) is None


def test_a_reader_stops_no_migration(empty: Secret) -> None:
    """Whoever may connect may hold each advisory lock; `migrate` waits for none of a migrated vault."""
    migrate(empty)
    with psycopg.connect(empty.reveal(), autocommit=True) as anybody:
        anybody.execute("SELECT pg_advisory_lock(7160426118)")
        migrate(empty)
    assert drift(empty) is None


async def test_a_database_that_is_not_migrated_says_so(empty: Secret) -> None:
    """Opening an empty database tells the operator to migrate."""
    with pytest.raises(ConfigurationError, match="token-vault migrate"):
        async with open_vault(empty, [ACCESS_KEY], [REFRESH_KEY]):
            pass
    with (
        TokenVault(empty, [ACCESS_KEY]) as vault,
        pytest.raises(ConfigurationError, match="token-vault migrate"),
    ):
        vault.user_token("google-oauth2|1111", "google-oauth2")


@pytest.mark.parametrize(
    ("revision", "says"), [("0032", "run `token-vault migrate`"), ("9999", "a newer version of this program")]
)
async def test_nobody_works_by_the_rules_of_another_version(empty: Secret, revision: str, says: str) -> None:
    """A worker that is started before the migration, or after that of a newer version, claims nothing."""
    migrate(empty)
    run(empty, syntax.SQL("UPDATE alembic_version SET version_num = {}").format(revision))
    with pytest.raises(ConfigurationError, match=says):
        async with open_vault(empty, [ACCESS_KEY], [REFRESH_KEY]):
            pass


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"password": PASSWORD}, ConfigurationError, "user or password"),
        ({"username": "canary"}, ConfigurationError, "user or password"),
        ({"database": "canary"}, ConfigurationError, "database named in DATABASE_URL"),
        ({"port": 1}, TemporarilyUnavailable, "does not answer"),
        ({"drivername": "mysql"}, ConfigurationError, "postgresql://"),
    ],
)
async def test_a_wrong_address_is_named_without_its_password(
    servers: embedded.Servers, change: dict[str, Any], error: type[VaultError], says: str
) -> None:
    """Whatever is wrong with DATABASE_URL, migrating and opening say what, and neither shows it."""
    wrong = address(servers.database_url, **change)
    with pytest.raises(error, match=says) as migrating:
        migrate(wrong)
    with pytest.raises(error, match=says) as opening:
        async with open_vault(wrong, [ACCESS_KEY], [REFRESH_KEY]):
            pass
    for caught in (migrating, opening):
        assert "canary" not in str(caught.value)
        assert str(make_url(servers.database_url.reveal()).password) not in str(caught.value)


@pytest.mark.parametrize("nonsense", ["", "canary", "://canary", "postgresql://u:canary@h:port/d"])
def test_what_is_no_address_is_refused(nonsense: str) -> None:
    """A DATABASE_URL that does not read is refused as such, and not shown."""
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as migrating:
        migrate(Secret(nonsense))
    assert "canary" not in str(migrating.value)


@pytest.mark.parametrize("nonsense", ["canary", "://canary", "postgresql://u:canary space@h/d"])
def test_what_libpq_does_not_read_is_no_outage(nonsense: str) -> None:
    """A reader with such a DATABASE_URL is told to correct it, and not to try again later."""
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        TokenVault(Secret(nonsense), [ACCESS_KEY])
    assert "canary" not in str(caught.value)


async def test_any_password_works(empty: Secret) -> None:
    """A password with characters that URLs, libpq and configuration files treat specially is passed on whole."""
    with role(empty, "GRANT ALL ON SCHEMA public TO {}") as url:
        migrate(url)
        async with open_vault(url, [ACCESS_KEY], [REFRESH_KEY]) as vault:
            assert (await vault.now()).tzinfo is not None
        with TokenVault(url, [ACCESS_KEY]) as reader, pytest.raises(TokenNotFound):
            reader.user_token("google-oauth2|1111", "google-oauth2")


def test_a_reader_reads_the_views_alone(database_url: Secret, reader: Secret) -> None:
    """With SELECT on the two views a service reads its tokens, and nothing else of the vault."""
    key = GrantKey("default", "google-oauth2", "google-oauth2|1111", "1111")
    sealed = KeyRing("access", [ACCESS_KEY]).encrypt(
        EncryptionContext.of_grant(key, "access", 1), Secret("ya29.token")
    )
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO connections (tenant, name, strategy) VALUES ('default', 'google-oauth2', 'x')"
        )
        connection.execute(
            "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from, access_ciphertext, "
            "access_version, refresh_ciphertext, expires_at) VALUES (%s, %s, %s, %s, 'active', 'renewal', %s, 1, 'r', "
            "now() + interval '1 h')",
            (key.tenant, key.connection, key.user_id, key.provider_user_id, sealed),
        )
    with TokenVault(reader, [ACCESS_KEY]) as vault:
        assert vault.user_token(key.user_id, key.connection).value == "ya29.token"
    for forbidden in (
        "SELECT refresh_ciphertext FROM grants",
        "SELECT * FROM connections",
        "SELECT * FROM vault_secrets",
        "SELECT * FROM management_tokens",
        "UPDATE served_tokens SET state = 'erased'",
        "DELETE FROM served_tokens",
        "CREATE TABLE here (a int)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(reader, forbidden)


def test_a_reader_without_rights_is_told_so(database_url: Secret, reader: Secret) -> None:
    """A role that may not read the views gets AccessDenied, not a wait."""
    reads = syntax.Identifier(str(make_url(reader.reveal()).username))
    run(database_url, syntax.SQL("REVOKE SELECT ON served_tokens FROM {}").format(reads))
    with TokenVault(reader, [ACCESS_KEY]) as vault, pytest.raises(AccessDenied, match="role in DATABASE_URL"):
        vault.user_token("google-oauth2|1111", "google-oauth2")


def test_statements_are_not_written_out_unrun(empty: Secret) -> None:
    """Offline mode would skip the lock: it is refused."""
    with pytest.raises(SystemExit, match="token-vault migrate"):
        command.upgrade(configuration(empty), "head", sql=True)


def test_who_could_read_goes_on_reading(empty: Secret) -> None:
    """Roles of a version without consumers see after the migration what they saw before, and no others do."""
    migrate(empty, "0016")
    run(empty, "INSERT INTO connections (tenant, name, strategy) VALUES ('default', 'c', 'oauth2')")
    run(
        empty,
        "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from)"
        " VALUES ('default', 'c', 'oauth2|1', '1', 'active', 'auth0'), ('default', 'c', '', '', 'active', 'auth0')",
    )
    with (
        role(empty, "GRANT SELECT ON served_tokens, token_status TO {}") as app,
        role(empty, "GRANT SELECT ON token_status TO {}") as dashboard,
    ):
        migrate(empty)
        with role(empty, "GRANT SELECT ON served_tokens, token_status TO {}") as later:
            assert len(run(app, "SELECT * FROM served_tokens")) == 2
            assert [len(run(url, "SELECT * FROM token_status")) for url in (app, dashboard, later)] == [
                2,
                2,
                0,
            ]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                run(dashboard, "SELECT * FROM served_tokens")


def test_an_identity_that_was_stored_twice_keeps_what_was_renewed_last(empty: Secret) -> None:
    """Of two users' rows for one identity the one with the living tokens stays; rows of other identities all do."""
    migrate(empty, "0033")
    run(
        empty,
        "INSERT INTO connections (tenant, name, strategy) SELECT 'default', c, 'oauth2' FROM unnest('{c,d}'::text[]) c",
    )
    run(
        empty,
        """
        INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, reason, obtained_from, refresh_ciphertext,
            refresh_version, last_renewed_at, obtained_at, observed_updated_at)
        SELECT 'default', connection, user_id, identity, state, reason, 'auth0', refresh::bytea, 1, renewed, obtained, shown
        FROM (VALUES
            ('c', 'renewed last', '1', 'active', NULL, 'x', timestamptz '2026-03-02', timestamptz '2026-03-02', timestamptz '2026-03-01'),
            ('c', 'renewed before', '1', 'active', NULL, 'x', '2026-03-01', '2026-03-01', '2026-03-03'),
            ('c', 'dead', '1', 'reauthorization_required', 'invalid_grant', 'x', '2026-03-04', '2026-03-04', '2026-03-04'),
            ('c', 'without', '1', 'unrenewable', NULL, NULL, NULL, '2026-03-05', '2026-03-05'),
            ('c', 'shown before', '2', 'active', NULL, 'x', NULL, '2026-03-01', '2026-03-01'),
            ('c', 'shown last', '2', 'active', NULL, 'x', NULL, '2026-03-01', '2026-03-02'),
            ('d', 'renewed before', '1', 'active', NULL, 'x', NULL, NULL, NULL),
            ('d', '', '', 'active', NULL, 'x', NULL, NULL, NULL),
            ('c', '', '', 'active', NULL, 'x', NULL, NULL, NULL)
        ) rows (connection, user_id, identity, state, reason, refresh, renewed, obtained, shown)
        """,
    )
    migrate(empty)
    assert run(empty, "SELECT connection, user_id FROM grants ORDER BY 1, 2") == [
        ("c", ""), ("c", "renewed last"), ("c", "shown last"), ("d", ""), ("d", "renewed before"),
    ]  # fmt: skip
