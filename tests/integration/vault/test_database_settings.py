"""What the database sets for other programs does not reach the vault's connections."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, text

from tests.support.database import at_database
from tests.support.keys import ACCESS_KEY
from tests.support.processes import REPOSITORY
from tests.support.renewals import Renewals
from token_vault import TokenVault
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.cli.doctor import _database
from worker.renewal.outcome import Outcome
from worker.settings import load
from worker.vault.db import roles
from worker.vault.db.migrate import migrate
from worker.vault.db.revisions import revisions
from worker.vault.grants.queries import list_grants

Sql = Callable[..., list[dict[str, Any]]]

HOSTILE = {
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "sql_standard",
    "timezone": "'Asia/Kolkata'",
    "search_path": "evil, pg_catalog, public",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-10",
    "array_nulls": "off",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_session_timeout": "1",
    "synchronous_commit": "off",
    "client_encoding": "latin1",
}
EFFECTIVE = {
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "search_path": '"$user",public,pg_temp',
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "synchronous_commit": "on",
    "client_encoding": "UTF8",
}
EVIL = """
CREATE SCHEMA evil;
CREATE TABLE evil.grants (LIKE public.grants);
CREATE TABLE evil.connections (LIKE public.connections);
CREATE VIEW evil.served_tokens AS SELECT * FROM public.served_tokens WHERE false;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''-infinity''::timestamptz';
"""


@pytest.fixture(params=["DATABASE {}", "ROLE CURRENT_USER IN DATABASE {}"], ids=["database", "role"])
def hostile(request: pytest.FixtureRequest, sql: Sql) -> Iterator[None]:
    """Settings that break what they reach, and a schema in front of the vault's."""
    [found] = sql("SELECT current_database() AS name")
    whose = request.param.format(found["name"])
    sql(EVIL)
    for name, value in HOSTILE.items():
        sql(f"ALTER {whose} SET {name} = {value}")
    yield
    sql(f"ALTER {whose} RESET ALL")
    sql("DROP SCHEMA evil CASCADE")


async def test_no_setting_of_the_database_leaks_in(
    hostile: None, renewals: Renewals, database_url: Secret
) -> None:
    """Users are synced, renewed, read and listed as ever, and each connection has the vault's settings."""
    users = renewals.connect("c", users=2)
    worker = await renewals.synced()
    async with worker.vault.engine.connect() as connection:
        for name, value in EFFECTIVE.items():
            assert (await connection.execute(text(f"SHOW {name}"))).scalar_one() == value
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 2}
    with TokenVault(database_url, [ACCESS_KEY]) as reader:
        token = reader.user_token(users[0], "c")
        assert renewals.holds_what_lives(worker.vault, users[0], "c")
        assert token.expires_at is not None
        assert token.expires_at.utcoffset() is not None
    assert {row["user_id"] for row in await list_grants(worker.vault, worker.tenants)} == set(users)
    assert revisions(database_url)[0] == revisions(database_url)[1]
    migrate(database_url)


def test_a_transaction_timeout_ends_no_migration(
    database_url: Secret, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Postgres 17 and later may end others' long transactions by does not hold in a migration's."""
    if not sql("SELECT FROM pg_settings WHERE name = 'transaction_timeout'"):
        pytest.skip("this Postgres has no such setting")
    seen = []

    def look(connection: Connection) -> list[str]:
        seen.append(connection.execute(text("SHOW transaction_timeout")).scalar_one())
        return []

    monkeypatch.setattr(roles, "grant_roles", look)
    [found] = sql("SELECT current_database() AS name")
    sql(f"ALTER DATABASE {found['name']} SET transaction_timeout = '1h'")
    try:
        migrate(database_url)
    finally:
        sql(f"ALTER DATABASE {found['name']} RESET transaction_timeout")
    assert seen == ["0"]


@pytest.mark.parametrize("variable", ["PGTZ", "PGDATESTYLE"])
def test_libpqs_variables_do_not_leak_in(
    database_url: Secret, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """libpq sends them beside the vault's settings, and they are set right before the first statement."""
    from token_vault.connect import connect
    from token_vault.postgres_address import PostgresAddress

    monkeypatch.setenv(variable, {"PGTZ": "Asia/Kolkata", "PGDATESTYLE": "SQL, DMY"}[variable])
    with connect(PostgresAddress.parse(database_url), "test") as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        assert connection.execute("SHOW datestyle").fetchone() == ("ISO, MDY",)
        connection.rollback()
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


@pytest.fixture
def own_database(database_url: Secret, sql: Sql) -> Iterator[Callable[[str], Secret]]:
    """Make an empty database of some encoding."""
    made: list[str] = []

    def make(encoding: str) -> Secret:
        name = f"own_{uuid4().hex}"
        # Unlike libc's, the provider that the cluster has from Postgres 17 on knows UTF8 alone.
        (version,) = sql("SHOW server_version_num")
        provider = "LOCALE_PROVIDER libc" if version["server_version_num"] >= "170000" else ""
        sql(f"CREATE DATABASE {name} ENCODING '{encoding}' {provider} LOCALE 'C' TEMPLATE template0")
        made.append(name)
        return at_database(database_url, name)

    yield make
    for name in made:
        sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_id_is_refused(
    own_database: Callable[[str], Secret], encoding: str
) -> None:
    """``migrate`` makes nothing in it, and ``doctor`` says the same."""
    url = own_database(encoding)
    with pytest.raises(ConfigurationError, match=f"the encoding {encoding}.*ENCODING 'UTF8'"):
        migrate(url)
    with pytest.raises(ConfigurationError, match=f"the encoding {encoding}"):
        _database(load().model_copy(update={"database_url": url}))
    with psycopg.connect(url.reveal()) as connection:
        assert connection.execute("SELECT to_regclass('public.grants')").fetchone() == (None,)


def test_an_old_postgres_is_refused(database_url: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    """``migrate`` and ``doctor`` name the version that is there and the one that is needed."""
    monkeypatch.setattr("worker.vault.db.migrate.OLDEST_MAJOR_VERSION", 99)
    with pytest.raises(ConfigurationError, match=r"this is Postgres \d\d, and a vault needs 99 or newer"):
        migrate(database_url)
    with pytest.raises(ConfigurationError, match="needs 99 or newer"):
        _database(load().model_copy(update={"database_url": database_url}))


def test_a_vault_in_another_schema_is_found_by_the_address_alone(
    own_database: Callable[[str], Secret],
) -> None:
    """A vault that ALTER DATABASE led to is not made a second time: the message names the parameter."""
    url = own_database("UTF8")
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA vault")
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET search_path = vault".encode())
    within = Secret(f"{url.reveal()}?options=-csearch_path%3Dvault")
    with pytest.raises(ConfigurationError, match="search_path names no schema that there is"):
        migrate(Secret(f"{url.reveal()}?options=-csearch_path%3Dabsent"))
    migrate(within)
    with pytest.raises(ConfigurationError, match=r"schema vault.*\?options=-csearch_path%3Dvault"):
        migrate(url)
    assert revisions(within)[0] is not None


def test_alembics_own_command_works_with_the_shipped_file(database_url: Secret, tmp_path: Path) -> None:
    """``current`` and ``check`` take DATABASE_URL in any form, from any folder."""
    address = database_url.reveal().replace("postgresql://", "postgresql+psycopg://")

    def alembic(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | environment
        return subprocess.run(
            [sys.executable, "-m", "alembic", "-c", str(REPOSITORY / "alembic.ini"), command],
            cwd=tmp_path, env=given, capture_output=True, text=True, check=False,
        )  # fmt: skip

    current = alembic("current", DATABASE_URL=address)
    assert "(head)" in current.stdout, current.stderr
    checked = alembic("check", DATABASE_URL=address)
    assert "No new upgrade operations detected" in checked.stdout, checked.stderr
    without = alembic("current")
    assert without.returncode != 0
    assert "no DATABASE_URL is set" in without.stderr + without.stdout
    assert "Traceback" not in without.stderr
