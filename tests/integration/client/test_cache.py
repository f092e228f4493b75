"""A cached reader gives what an uncached one gives, within a second of each change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.client.test_shared_reader import in_child
from tests.support.keys import ACCESS_KEY
from tests.support.pgbouncer import PROGRAM, pgbouncer
from tests.support.reader_roles import NewRole
from tests.support.readers import Rows, Sql
from tests.support.wait import until, until_async
from token_vault import AsyncTokenVault, Token, TokenVault
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import TokenNotFound, VaultError
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.read_model import (
    HASH_SERVED,
    HASH_SERVED_TARGETS,
    SELECT_SERVED_HASHED,
    SELECT_SERVED_TARGET_HASHED,
)
from token_vault.secret import Secret
from token_vault.token_target import TokenTarget

USER, CONNECTION = "oauth2|u1", "custom"


def cached(read: Callable[[], Token]) -> Token:
    """Read until the token comes from the cache: it is the same object then."""
    return until(lambda: token if (token := read()) is read() else None, "a read comes from the cache")


def outcome(read: Callable[[], Token]) -> str:
    """Return the token, or the error's name."""
    try:
        return read().value
    except VaultError as error:
        return type(error).__name__


CHANGES = {
    "renewal": None,
    "death": "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', expires_at = now()",
    "erasure": "DELETE FROM grants WHERE user_id = 'oauth2|u1'",
    "another user": "UPDATE grants SET user_id = 'oauth2|other'",
    "fewer rights": "UPDATE consumers SET connections = '{other}'",
    "no users": "UPDATE consumers SET users = false",
    "no consumer": "DELETE FROM consumers",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_each_change_is_seen(rows: Rows, new_role: NewRole, sql: Sql, change: str) -> None:
    """What an uncached reader does not give any more, a cached one soon does not give either."""
    await rows.add()
    with (
        TokenVault(url := new_role(), [ACCESS_KEY], cache=True) as vault,
        TokenVault(url, [ACCESS_KEY]) as bare,
    ):

        def read() -> Token:
            return vault.user_token(USER, CONNECTION, wait=0)

        def read_uncached() -> Token:
            return bare.user_token(USER, CONNECTION, wait=0)

        assert (await asyncio.to_thread(cached, read)).value == "token-of-u1"
        if (statement := CHANGES[change]) is not None:
            sql(statement)
        else:
            ((number, end),) = [
                tuple(row.values())
                for row in sql("UPDATE grants SET access_version = 7 RETURNING id, expires_at")
            ]
            key = GrantKey("default", CONNECTION, USER, "u1")
            context = EncryptionContext.of_access_token(key, 7, end)
            renewed = KeyRing("access", [ACCESS_KEY]).encrypt(context, Secret("renewed"))
            sql("UPDATE grants SET access_ciphertext = %s WHERE id = %s", renewed, number)
        expected = outcome(read_uncached)
        assert expected != "token-of-u1"
        await until_async(lambda: outcome(read) == expected, "the change is seen")


async def test_a_vault_that_cannot_be_asked(rows: Rows, new_role: NewRole, database_url: Secret) -> None:
    """When the connections are lost and none can be made, the cache is empty; it serves again once one can."""
    await rows.add()
    with TokenVault(url := new_role(), [ACCESS_KEY], cache=True) as vault:
        role = psycopg.conninfo.conninfo_to_dict(url.reveal())["user"]

        def read() -> Token:
            return vault.user_token(USER, CONNECTION, wait=0)

        def run(*statements: str) -> None:
            with psycopg.connect(database_url.reveal(), autocommit=True) as owner:
                for statement in statements:
                    owner.execute(statement)

        await asyncio.to_thread(cached, read)
        run(
            f'ALTER ROLE "{role}" NOLOGIN',
            f'GRANT "{role}" TO CURRENT_USER',
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'",
        )
        await until_async(lambda: outcome(read) != "token-of-u1", "the loss is seen")
        assert vault._checks is not None
        assert len(vault._checks.cache) == 0
        run(f'ALTER ROLE "{role}" LOGIN')
        await asyncio.to_thread(
            cached, lambda: until(lambda: read() if outcome(read) == "token-of-u1" else None)
        )


async def test_other_tokens_are_cached_too(rows: Rows, database_url: Secret, sql: Sql) -> None:
    """An admin token, an account's, and one for another resource are cached, each under its own name."""
    grant = await rows.add()
    await rows.add("", "corp-google", value="admin-token")
    key, target = GrantKey("default", CONNECTION, USER, "u1"), TokenTarget("https://graph.example", "")
    ((end,),) = [tuple(row.values()) for row in sql("SELECT expires_at FROM grants WHERE id = %s", grant)]
    context = EncryptionContext.of_resource_token(key, target, 1, end)
    sql(
        "INSERT INTO resource_tokens (grant_id, resource, scope, ciphertext, version, expires_at, obtained_at)"
        " VALUES (%s, %s, '', %s, 1, %s, now())",
        grant, target.resource, KeyRing("access", [ACCESS_KEY]).encrypt(context, Secret("resource-token")), end,
    )  # fmt: skip
    with TokenVault(database_url, [ACCESS_KEY], cache=True) as vault:
        reads: dict[str, Callable[[], Token]] = {
            "token-of-u1": lambda: vault.user_token(USER, CONNECTION, account="u1"),
            "admin-token": lambda: vault.admin_token("corp-google", wait=0),
            "resource-token": lambda: vault.user_token(USER, CONNECTION, resource=target.resource, wait=0),
        }
        for value, read in reads.items():
            assert (await asyncio.to_thread(cached, read)).value == value
        for wrong in ("", None):
            with pytest.raises((ValueError, TypeError)):
                vault.user_token(wrong, "corp-google")  # type: ignore[arg-type]  # what an app may pass
        sql("UPDATE resource_tokens SET ciphertext = NULL, expires_at = NULL, version = 2")
        sql("DELETE FROM grants WHERE connection = 'corp-google'")
        for value in ("admin-token", "resource-token"):
            await until_async(lambda: outcome(reads[value]) != value, "the change is seen")  # noqa: B023  # awaited
        assert outcome(reads["token-of-u1"]) == "token-of-u1"


async def test_asyncio_has_a_cache_too(rows: Rows, database_url: Secret, sql: Sql) -> None:
    """The reader for asyncio serves from its cache, and sees a change."""
    await rows.add()
    async with AsyncTokenVault(database_url, [ACCESS_KEY], cache=True) as vault:
        for _ in range(1000):
            if await vault.user_token(USER, CONNECTION) is await vault.user_token(USER, CONNECTION):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("no read comes from the cache")
        sql("DELETE FROM grants")

        async def read_on() -> None:
            for _ in range(10_000):
                await vault.user_token(USER, CONNECTION)
                await asyncio.sleep(0.01)

        with pytest.raises(TokenNotFound):
            await read_on()


@pytest.mark.parametrize("audit", ["batched", "strict"])
async def test_cached_reads_are_recorded(rows: Rows, new_role: NewRole, sql: Sql, audit: str) -> None:
    """Each cached read is in the audit: counted in one record, or before the token is handed out where it is strict."""
    await rows.add()
    total = "SELECT coalesce(sum(reads), 0) AS n, count(*) AS records FROM audit_records"
    vault = TokenVault(new_role(), [ACCESS_KEY], cache=True, audit=audit)  # type: ignore[arg-type]
    try:
        reads = 0
        before = None
        while (token := vault.user_token(USER, CONNECTION)) is not before:
            before, reads = token, reads + 1
            await asyncio.sleep(0.05)
        for _ in range(20):
            vault.user_token(USER, CONNECTION)
        vault.user_token(USER, CONNECTION, request_id="r1")
        reads += 22
        if audit == "strict":
            assert [tuple(row.values()) for row in sql(total)] == [(reads, reads)]
    finally:
        vault.close()
    ((found, records),) = [tuple(row.values()) for row in sql(total)]
    assert found == reads
    assert (records < reads) is (audit == "batched")
    assert len(sql("SELECT 1 FROM audit_records WHERE request_id = 'r1' AND reads = 1")) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_process_checks_its_own_cache(rows: Rows, database_url: Secret, sql: Sql) -> None:
    """A forked process begins with an empty cache, and sees changes by checks of its own."""
    await rows.add()
    vault = TokenVault(database_url, [ACCESS_KEY], cache=True)

    def read() -> Token:
        return vault.user_token(USER, CONNECTION, wait=0)

    token = await asyncio.to_thread(cached, read)
    ready, told = os.pipe()

    def child() -> None:
        assert cached(read) is not token
        os.write(told, b"1")
        until(lambda: outcome(read) == "TokenNotFound")

    ended = in_child(child)
    await asyncio.to_thread(os.read, ready, 1)
    sql("DELETE FROM grants")
    assert await asyncio.to_thread(ended) == 0
    with pytest.raises(TokenNotFound):
        until(lambda: read().value == "")
    vault.close()


@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
async def test_behind_a_pooler(rows: Rows, database_url: Secret, sql: Sql, tmp_path: Path) -> None:
    """Behind a pooler that hands no wakeups on, each change is seen all the same."""
    await rows.add()
    with pgbouncer(database_url, tmp_path / "pooler", size=2) as url:

        def work() -> None:
            with TokenVault(url, [ACCESS_KEY], cache=True) as vault:
                cached(lambda: vault.user_token(USER, CONNECTION, wait=0))
                sql("DELETE FROM grants")
                until(lambda: outcome(lambda: vault.user_token(USER, CONNECTION, wait=0)) == "TokenNotFound")

        await asyncio.to_thread(work)


STATEMENTS: dict[str, tuple[str, list[object]]] = {
    "read": (SELECT_SERVED_HASHED, ["x", "x"]),
    "read of a target": (SELECT_SERVED_TARGET_HASHED, ["x", "", "x", "x"]),
    "check": (HASH_SERVED, [[1], ["x"], ["x"]]),
    "check of targets": (HASH_SERVED_TARGETS, [[1], ["x"], ["x"], ["x"], [""]]),
}


def scans(plan: Any) -> Iterator[Any]:
    """Yield each scan of an index or table in a plan."""
    if "Scan" in plan["Node Type"] and plan["Node Type"] not in (
        "Subquery Scan",
        "Function Scan",
        "Bitmap Heap Scan",
    ):
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


# Rows like the first one, of other users.
MORE_GRANTS = """
INSERT INTO grants OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(g, jsonb_build_object('id', g.id + n, 'user_id', 'u' || n, 'provider_user_id', n))).*
FROM grants g, generate_series(1, 2000) AS n
"""


@pytest.mark.parametrize("name", STATEMENTS)
async def test_reads_and_checks_use_the_index(rows: Rows, sql: Sql, name: str) -> None:
    """What a read and a check cost does not rise with the number of grants: none of them scans a table of grants."""
    statement, values = STATEMENTS[name]
    await rows.add()
    sql(MORE_GRANTS)
    sql("INSERT INTO resource_tokens (grant_id, resource, scope) SELECT id, 'r', '' FROM grants")
    sql("ANALYZE grants, resource_tokens")
    ((plan,),) = [tuple(row.values()) for row in sql(f"EXPLAIN (FORMAT JSON) {statement}", *values)]
    found = [
        each for each in scans(plan[0]["Plan"]) if each.get("Relation Name") in ("grants", "resource_tokens")
    ]
    assert found
    assert all("Index Cond" in each for each in found)
