"""Reading what is stored: a token with the life that was asked for, or an error that says who has to act."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kombu.utils.json import dumps as celery_json

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.readers import KINDS, OpenReader, Reader, Rows, opening, pending, requested
from tests.support.wait import WAIT_SECONDS
from token_vault import Token, TokenVault
from token_vault.errors import (
    AmbiguousAccount,
    CannotDecrypt,
    ConfigurationError,
    MissingScopes,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    TokenNotFound,
    VaultError,
)
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker import embedded
from worker.vault.crypto.extra import encrypt_extra
from worker.vault.db.migrate import migrate

USER, CONNECTION = "oauth2|u1", "custom"


@pytest.fixture(params=KINDS)
async def open_reader(request: pytest.FixtureRequest, database_url: Secret) -> AsyncIterator[OpenReader]:
    """Open readers, of threads and of asyncio in turn."""
    async with opening(request.param, database_url) as make:
        yield make


async def test_a_fresh_token_is_read(rows: Rows, open_reader: OpenReader) -> None:
    """A fresh token comes with its expiry and scopes, and nobody is asked for anything."""
    grant_id = await rows.add()
    token = await open_reader().user_token(USER, CONNECTION, min_ttl=60)
    (row,) = rows.sql("SELECT expires_at FROM grants WHERE id = %s", grant_id)
    assert (token.value, token.expires_at, token.scopes) == (
        "token-of-u1",
        row["expires_at"],
        ("read", "write"),
    )
    assert pending(rows.sql) == []


async def test_an_admin_token_is_read(rows: Rows, open_reader: OpenReader) -> None:
    """An enterprise connection's admin token is read by the connection's name, and refreshed by it."""
    grant_id = await rows.add("", "corp-google", value="admin-token")
    reader = open_reader()
    assert (await reader.admin_token("corp-google")).value == "admin-token"
    rows.age(grant_id, -1)
    with pytest.raises(TemporarilyUnavailable):
        await reader.admin_token("corp-google")
    (request,) = pending(rows.sql)
    assert request["grant_id"] == grant_id


@pytest.mark.parametrize(
    ("life", "left", "fresh"),
    [(3600, 31, True), (3600, 29, False), (30, 11, True), (30, 9, False), (3600, -1, False)],
)
async def test_the_default_min_ttl(
    rows: Rows, open_reader: OpenReader, life: float, left: float, fresh: bool
) -> None:
    """Who asks for no life in particular gets 30 seconds, or a third of a shorter life, and never less."""
    await rows.add(expires_in=left, life=life)
    reader = open_reader()
    if fresh:
        assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"
    else:
        with pytest.raises(TemporarilyUnavailable):
            await reader.user_token(USER, CONNECTION)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    left=st.none() | st.floats(-90, 90) | st.floats(-1e6, 1e6),
    min_ttl=st.none() | st.floats(-90, 90) | st.floats(-1e18, 1e18) | st.just(math.inf),
    life=st.floats(1, 7200),
)
async def test_no_token_has_less_life_than_asked_for(
    rows: Rows, open_reader: OpenReader, left: float | None, min_ttl: float | None, life: float
) -> None:
    """A token is handed out exactly when it has more life than was asked for, and at least some."""
    rows.sql("TRUNCATE grants CASCADE")
    await rows.add(expires_in=left, life=life)
    reader = open_reader()
    wanted = max(min(30, life / 3) if min_ttl is None else min_ttl, 0)
    before = rows.sql("SELECT now() AS now")[0]["now"]
    try:
        token: Token | None = await reader.user_token(USER, CONNECTION, min_ttl=min_ttl)
    except VaultError:
        token = None
    after = rows.sql("SELECT now() AS now")[0]["now"]
    if left is None:
        # Nobody can say that it has the life that was asked for.
        assert (token is None) == (min_ttl is not None and min_ttl > 0)
        assert token is None or token.expires_at is None
        return
    expires_at = rows.sql("SELECT expires_at FROM grants")[0]["expires_at"]
    if token is not None:
        assert (expires_at - before).total_seconds() > wanted
    else:
        assert (expires_at - after).total_seconds() <= wanted


async def test_a_dead_grant_says_why_and_since_when(rows: Rows, open_reader: OpenReader) -> None:
    """A grant that only the user can fix is told as such, with reason and time; its last token is served first."""
    since = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    grant_id = await rows.add(due_at=None)
    rows.sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'lost_in_rotation', reason_since = %s,"
        " due_at = NULL",
        since,
    )
    reader = open_reader()
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"
    rows.sql("UPDATE grants SET expires_at = now() - interval '1 s' WHERE id = %s", grant_id)
    with pytest.raises(ReauthorizationRequired) as told:
        await reader.user_token(USER, CONNECTION, wait=30)
    assert (told.value.reason, told.value.since) == ("lost_in_rotation", since)


async def test_what_nobody_can_renew_is_served_until_it_ends(rows: Rows, open_reader: OpenReader) -> None:
    """A token without a refresh token is served while it lives; then it is expired, at once and for good."""
    grant_id = await rows.add(refresh=None, expires_in=100)
    reader = open_reader()
    assert (await reader.user_token(USER, CONNECTION, min_ttl=90)).value == "token-of-u1"
    for left, min_ttl in ((100, 110), (-1, None)):
        rows.age(grant_id, left)
        rows.sql("UPDATE grants SET due_at = NULL")
        with pytest.raises(TokenExpired, match="cannot be renewed"):
            await reader.user_token(USER, CONNECTION, min_ttl=min_ttl, wait=30)


async def test_an_unknown_end_is_told_as_unknown(rows: Rows, open_reader: OpenReader) -> None:
    """A token of unknown expiry is served as such where renewal brought it, or where none can bring another."""
    await rows.add(expires_in=None)
    await rows.add("oauth2|u2", subject="u2", refresh=None, expires_in=None, value="token-of-u2")
    rows.sql("UPDATE grants SET obtained_from = 'auth0', obtained_at = NULL WHERE provider_user_id = 'u2'")
    reader = open_reader()
    for user in ("u1", "u2"):
        token = await reader.user_token(f"oauth2|{user}", CONNECTION)
        assert (token.value, token.expires_at) == (f"token-of-{user}", None)


async def test_a_dead_grants_token_of_unknown_end_is_not_served_for_ever(
    rows: Rows, open_reader: OpenReader
) -> None:
    """With its grant dead and no end of its own in sight, a token is as good as ended: the user has to consent."""
    await rows.add(expires_in=None)
    rows.sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', reason_since = now(), due_at = NULL"
    )
    with pytest.raises(ReauthorizationRequired):
        await open_reader().user_token(USER, CONNECTION)


async def test_a_token_of_unknown_age_is_renewed_first(rows: Rows, open_reader: OpenReader) -> None:
    """What Auth0 showed without a time may be long dead: it is not handed out while renewal can bring another."""
    await rows.add(expires_in=None)
    rows.sql("UPDATE grants SET obtained_from = 'auth0', obtained_at = NULL")
    with pytest.raises(TemporarilyUnavailable):
        await open_reader().user_token(USER, CONNECTION)
    assert len(pending(rows.sql)) == 1


async def test_a_blocked_connection_says_when_to_come_back(rows: Rows, open_reader: OpenReader) -> None:
    """Behind an open circuit fresh tokens are served; for others the reader is told who fixes it and when to ask."""
    grant_id = await rows.add()
    rows.sql(
        "UPDATE connections SET circuit_blame = 'operator', circuit_opened_at = now(), circuit_until = now() + interval '40 s',"
        " circuit_code = 'invalid_client', circuit_failures = 1"
    )
    reader = open_reader()
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"
    rows.age(grant_id, 5)
    with pytest.raises(TemporarilyUnavailable, match=r"invalid_client.*the operator") as told:
        await reader.user_token(USER, CONNECTION, wait=30)
    assert 35 < told.value.retry_after <= 40
    assert pending(rows.sql) == []


async def test_a_postgres_that_does_not_answer(
    rows: Rows, open_reader: OpenReader, database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Postgres takes a question and keeps it, as while a migration holds the table, a reader gives up by itself."""
    monkeypatch.setattr("token_vault.pool.MAX_ANSWER_SECONDS", 0.5)
    await rows.add()
    reader = open_reader()
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"
    async with await psycopg.AsyncConnection.connect(database_url.reveal()) as migration:
        await migration.execute("LOCK TABLE grants IN ACCESS EXCLUSIVE MODE")
        for _ in range(2):  # over the connection that was at rest, and over a new one
            reading = asyncio.create_task(reader.user_token(USER, CONNECTION, wait=0))
            done, _ = await asyncio.wait({reading}, timeout=WAIT_SECONDS)
            if not done:
                await migration.rollback()
            with pytest.raises(TemporarilyUnavailable, match="Postgres does not answer"):
                await reading
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"


async def test_terminated_connections_are_replaced(rows: Rows, open_reader: OpenReader) -> None:
    """Postgres may drop every connection of a reader: the next read goes over a new one, unnoticed."""
    await rows.add()
    reader = open_reader()
    for _ in range(3):
        assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"
        assert rows.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'token-vault reader'"
        )


async def test_a_wrong_access_key_is_named(rows: Rows, open_reader: OpenReader) -> None:
    """A reader without the key that encrypted a token names the variable that lacks it, and shows nothing of the row."""
    await rows.add()
    with pytest.raises(CannotDecrypt, match="VAULT_ACCESS_KEYS") as told:
        await open_reader(keys=[KeyRing.generate()]).user_token(USER, CONNECTION)
    assert "token-of-u1" not in str(told.value)
    with pytest.raises(CannotDecrypt):
        await open_reader(keys=[REFRESH_KEY]).user_token(USER, CONNECTION)
    assert (
        await open_reader(keys=[KeyRing.generate(), ACCESS_KEY]).user_token(USER, CONNECTION)
    ).value == "token-of-u1"


@contextmanager
def blank_database(database_url: Secret) -> Iterator[Secret]:
    """A database without tables beside the vault's."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS blank")
        connection.execute("CREATE DATABASE blank")
        yield renamed(database_url, "blank")
        connection.execute("DROP DATABASE blank WITH (FORCE)")


def renamed(database_url: Secret, name: str) -> Secret:
    return Secret(database_url.reveal().rpartition("/")[0] + "/" + name)


async def test_an_empty_database_is_not_migrated(database_url: Secret, open_reader: OpenReader) -> None:
    """On a database without the vault's tables the error names the command that makes them."""
    with blank_database(database_url) as blank:
        reader = open_reader(database=blank)
        with pytest.raises(ConfigurationError, match="token-vault migrate"):
            await reader.user_token(USER, CONNECTION)
        await reader.close()


@pytest.mark.parametrize("wrong", ["password", "database", "server"])
async def test_a_database_that_lets_nobody_in(
    database_url: Secret, open_reader: OpenReader, wrong: str
) -> None:
    """A wrong password, name or address of the database is told soon, as what it is, without the password."""
    url = database_url.reveal()
    user = url.partition("@")[0]
    password = user.rpartition(":")[2]
    expected: type[VaultError] = ConfigurationError
    if wrong == "password":
        url, says = url.replace(password, "not-the-password"), "user or password"
    elif wrong == "database":
        url, says = renamed(database_url, "nowhere").reveal(), "does not exist"
    else:
        url, says, expected = f"{user}@127.0.0.1:1/vault", "does not answer", TemporarilyUnavailable
    with pytest.raises(expected, match=says) as told:
        async with asyncio.timeout(WAIT_SECONDS):
            await open_reader(database=Secret(url)).user_token(USER, CONNECTION, wait=3600)
    assert password not in str(told.value)
    assert "not-the-password" not in str(told.value)


async def test_several_identities_of_one_connection(rows: Rows, open_reader: OpenReader) -> None:
    """A user's only identity of a connection is meant, then the primary one; a linked one is read by its account."""
    await rows.add(subject="other", value="token-of-other")
    reader = open_reader()
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-other"
    await rows.add(subject="u1")
    await rows.add(subject="yet-another", value="token-of-yet-another")
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"
    for account in ("u1", "other", "yet-another"):
        token = await reader.user_token(USER, CONNECTION, account=account)
        assert token.value == f"token-of-{account}"
    with pytest.raises(TokenNotFound, match=f"account.*{USER}"):
        await reader.user_token(USER, CONNECTION, account="a-stranger")


async def test_an_ambiguous_account(rows: Rows, open_reader: OpenReader) -> None:
    """Several linked identities and none of them the primary one: the error lists them, and none is guessed."""
    for subject in ("1b", "1a", "x|u1"):
        await rows.add(subject=subject, value=f"token-of-{subject}")
    reader = open_reader()
    with pytest.raises(AmbiguousAccount, match="1a, 1b") as told:
        await reader.user_token(USER, CONNECTION)
    assert told.value.accounts == ("1a", "1b", "x|u1")
    assert (told.value.user_id, told.value.connection) == (USER, CONNECTION)
    rows.sql(
        "UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL"
        " WHERE provider_user_id <> '1b'"
    )
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-1b"


async def test_a_linked_account_is_refreshed(rows: Rows, open_reader: OpenReader) -> None:
    """The refresh that is requested, and the token that it brings, are of the account that was named."""
    await rows.add(subject="u1")
    linked = await rows.add(subject="linked", value="token-of-linked", expires_in=-1)
    reading = asyncio.create_task(open_reader().user_token(USER, CONNECTION, account="linked", wait=60))
    assert (await requested(rows.sql))["grant_id"] == linked
    rows.age(linked, 3600)
    rows.sql("SELECT pg_notify('token_vault_grants', %s)", str(linked))
    assert (await reading).value == "token-of-linked"


async def test_each_error_names_user_and_connection(
    rows: Rows, open_reader: OpenReader, database_url: Secret
) -> None:
    """Whatever goes wrong, the error says for whom: for users, for admins, and where Postgres does not answer."""
    await rows.add(expires_in=-1)
    readers = [
        open_reader(),
        open_reader(keys=[KeyRing.generate()]),
        open_reader(tenant="another"),
        open_reader(database=Secret("postgresql://127.0.0.1:1/vault")),
        open_reader(database=renamed(database_url, "nowhere")),
    ]
    for reader in readers:
        with pytest.raises(VaultError) as told:
            await reader.user_token(USER, CONNECTION)
        assert (told.value.user_id, told.value.connection) == (USER, CONNECTION)
        assert f"(user {USER}, connection {CONNECTION})" in str(told.value)
        with pytest.raises(VaultError, match=r"\(admin, connection corp\)"):
            await reader.admin_token("corp")


async def test_an_empty_name_is_the_callers_mistake(open_reader: OpenReader) -> None:
    """An empty user id, connection or account is told as what it is, and asks for nobody's token."""
    reader = open_reader()
    for user, connection, account in (("", CONNECTION, None), (USER, "", None), (USER, CONNECTION, "")):
        with pytest.raises(ValueError, match="is empty"):
            await reader.user_token(user, connection, account=account)
    with pytest.raises(ValueError, match="connection is empty"):
        await reader.admin_token("")


async def test_plain_strings(rows: Rows, database_url: Secret) -> None:
    """Address and keys are given as plain strings, the keys also as one, as the variable has them."""
    await rows.add()
    newer = KeyRing.generate().reveal()
    for keys in ([ACCESS_KEY.reveal()], ACCESS_KEY.reveal(), f"{newer}, {ACCESS_KEY.reveal()}\n"):
        with TokenVault(database_url.reveal(), keys) as vault:
            assert vault.user_token(USER, CONNECTION).value == "token-of-u1"
    for keys in ("", "no key", [], f"{newer} {newer}"):
        with pytest.raises(ConfigurationError, match="VAULT_ACCESS_KEYS"):
            TokenVault(database_url.reveal(), keys)


async def test_two_tenants_with_the_same_user(rows: Rows, open_reader: OpenReader) -> None:
    """Where two tenants have the same user the reader has to name the tenant, and gets that one's token."""
    await rows.add(tenant="a", value="token-at-a")
    await rows.add(tenant="b", value="token-at-b")
    with pytest.raises(ConfigurationError, match="name the tenant"):
        await open_reader().user_token(USER, CONNECTION)
    for tenant in "ab":
        assert (await open_reader(tenant=tenant).user_token(USER, CONNECTION)).value == f"token-at-{tenant}"
    with pytest.raises(TokenNotFound):
        await open_reader(tenant="c").user_token(USER, CONNECTION)


async def test_nothing_stored(rows: Rows, open_reader: OpenReader) -> None:
    """A user, a connection or an admin that the vault does not know, or had to forget, is not found."""
    await rows.add()
    reader = open_reader()
    for user, connection in ((USER, "other"), ("oauth2|nobody", CONNECTION), (USER.upper(), CONNECTION)):
        with pytest.raises(TokenNotFound, match=connection):
            await reader.user_token(user, connection, wait=30)
    with pytest.raises(TokenNotFound, match="admin"):
        await reader.admin_token(CONNECTION)
    rows.sql(
        "UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL"
    )
    with pytest.raises(TokenNotFound):
        await reader.user_token(USER, CONNECTION, wait=30)


@pytest.mark.parametrize("name", [7, b"u1", ["u1"]])
async def test_what_is_no_string_is_no_name(open_reader: OpenReader, name: Any) -> None:
    """A caller's mistake is told as one, and not as a Postgres that does not answer."""
    with pytest.raises(TypeError, match="are strings"):
        await open_reader().user_token(name, CONNECTION)
    with pytest.raises(TypeError, match="are strings"):
        await open_reader().admin_token(name)


async def test_hostile_names(rows: Rows, open_reader: OpenReader) -> None:
    """Names are data: quotes, wildcards, great length and what no database can hold find nothing; an empty one is a mistake."""
    await rows.add("", "corp-google", value="admin-token")
    reader = open_reader()
    with pytest.raises(ValueError, match="user_id is empty"):
        await reader.user_token("", "corp-google")
    for name in ("' OR true --", "%", "_", "x" * 100_000, "ü|\U0001f600", "a\nb", "a\0b", "\ud800"):
        with pytest.raises(TokenNotFound):
            await reader.user_token(name, name)


async def test_a_token_does_not_show_itself(rows: Rows, open_reader: OpenReader) -> None:
    """A token prints without its value, and serialised it says what to do instead."""
    await rows.add()
    token = await open_reader().user_token(USER, CONNECTION)
    assert "token-of-u1" not in f"{token} {token!r} {[token]}"
    for serialise in (pickle.dumps, json.dumps, celery_json):
        with pytest.raises(TypeError, match=r"Token.*token\.value") as told:
            serialise(token)
        assert "token-of-u1" not in str(told.value)


def test_a_reader_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: Secret
) -> None:
    """``from_env`` needs the database and the access ring, no refresh ring and no tenant, and names what lacks."""
    for name in ("REDIS_URL", "VAULT_REFRESH_KEYS", "AUTH0_DOMAIN", "TOKEN_VAULT_CONFIG", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VAULT_ACCESS_KEYS", ACCESS_KEY.reveal())
    with pytest.raises(ConfigurationError, match=r"no DATABASE_URL.*token-vault up"):
        TokenVault.from_env()
    assert not (tmp_path / "home").exists()
    monkeypatch.setenv("DATABASE_URL", database_url.reveal())
    with TokenVault.from_env() as vault, pytest.raises(TokenNotFound):
        vault.user_token(USER, CONNECTION)
    monkeypatch.delenv("VAULT_ACCESS_KEYS")
    with pytest.raises(ConfigurationError, match="VAULT_ACCESS_KEYS"):
        TokenVault.from_env()


async def test_a_restarted_postgres(tmp_path: Path) -> None:
    """While Postgres is away readers say so soon; when it is back the same readers read on."""
    home = tmp_path / "home"
    with embedded.servers(home, redis=False, durable=False) as servers:
        migrate(servers.database_url)
    async with (
        opening("threads", servers.database_url) as threads,
        opening("asyncio", servers.database_url) as asynchronous,
    ):
        readers = [threads(), asynchronous()]
        for _ in range(2):
            with embedded.servers(home, redis=False, durable=False):
                await expect(readers, TokenNotFound)
            await expect(readers, TemporarilyUnavailable)


async def expect(readers: list[Reader], error: type[VaultError]) -> None:
    for reader in readers:
        with pytest.raises(error):
            async with asyncio.timeout(WAIT_SECONDS):
                await reader.user_token(USER, CONNECTION, wait=3600)


async def test_scopes_that_are_needed(rows: Rows, open_reader: OpenReader) -> None:
    """A token that lacks needed scopes is not handed out; where nobody said which it has, it is."""
    grant_id = await rows.add(scopes=("read", "write"))
    reader = open_reader()
    assert (await reader.user_token(USER, CONNECTION, needs=("write", "read"))).value == "token-of-u1"
    with pytest.raises(MissingScopes, match="calendar files") as caught:
        await reader.user_token(USER, CONNECTION, needs=("calendar", "read", "files"))
    assert caught.value.granted == ("read", "write")
    assert caught.value.missing == ("calendar", "files")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.granted, again.missing, str(again)) == (
        caught.value.granted,
        caught.value.missing,
        str(caught.value),
    )
    rows.sql("UPDATE grants SET scopes = NULL WHERE id = %s", grant_id)
    assert (await reader.user_token(USER, CONNECTION, needs=("calendar",))).scopes is None
    with pytest.raises(TypeError, match="sequence"):
        await reader.user_token(USER, CONNECTION, needs="calendar")


@pytest.mark.parametrize("state", ["active", "unrenewable"])
async def test_a_life_that_nobody_knows(rows: Rows, open_reader: OpenReader, state: str) -> None:
    """A token whose end nobody knows is handed out as such, and never for a life that is wanted."""
    await rows.add(expires_in=None, state=state)
    reader = open_reader()
    for no_life in (None, 0, -5):
        assert (await reader.user_token(USER, CONNECTION, min_ttl=no_life)).expires_at is None
    with pytest.raises(TokenExpired, match="nobody knows when this token ends"):
        await reader.user_token(USER, CONNECTION, min_ttl=60, wait=5)
    assert pending(rows.sql) == []


async def test_values_beside_the_token(rows: Rows, open_reader: OpenReader) -> None:
    """They come with the token, and none that was written for another grant does."""
    first = await rows.add()
    second = await rows.add("oauth2|u2", subject="u2")
    key = GrantKey("default", CONNECTION, USER, "u1")
    sealed = encrypt_extra(rows.vault.access, key, {"instance_url": "https://acme.example"})
    rows.sql("UPDATE grants SET extra_ciphertext = %s", sealed)
    reader = open_reader()
    assert (await reader.user_token(USER, CONNECTION)).extra == {"instance_url": "https://acme.example"}
    with pytest.raises(CannotDecrypt):
        await reader.user_token("oauth2|u2", CONNECTION)
    rows.sql("UPDATE grants SET extra_ciphertext = NULL WHERE id IN (%s, %s)", first, second)
    assert (await reader.user_token(USER, CONNECTION)).extra == {}


async def test_a_rejected_token_is_not_handed_out_again(rows: Rows, open_reader: OpenReader) -> None:
    """It is reported once however often, with its version, and its reader waits for another."""
    grant_id = await rows.add(expires_in=1800)
    reader = open_reader()
    token = await reader.user_token(USER, CONNECTION)
    for _ in range(3):
        await reader.rejected(token)
    (request,) = pending(rows.sql)
    assert (request["grant_id"], request["rejected_version"]) == (grant_id, 1)
    assert request["due_at"] == request["requested_at"]
    with pytest.raises(TemporarilyUnavailable):
        await reader.user_token(USER, CONNECTION)
    rows.sql("UPDATE grants SET access_version = 2 WHERE id = %s", grant_id)
    with pytest.raises(CannotDecrypt):  # the new one is what it takes now
        await reader.user_token(USER, CONNECTION)
    with pytest.raises(ValueError, match="reader"):
        await reader.rejected(Token("x", None, None))
