"""Events about one refresh token find its grant, by what the provider's events name it by."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emulators.client import Emulation
from tests.integration.api.test_security_events import (
    AUDIENCE,
    CONNECTION,
    OpenWorker,
    claims,
    hook,
    post,
    states,
)
from tests.support.readers import Rows, Sql, on_demand_worker
from tests.support.wait import until_async
from token_vault.secret import Secret
from worker import tasks
from worker.process import Process
from worker.runtime import Runtime
from worker.settings import load
from worker.vault.grants.refresh_digests import TokenName, digest_refresh_tokens, digests_of

__all__ = ["hook"]

REVOKED = "https://schemas.openid.net/secevent/oauth/event-type/token-revoked"
TENANT = "default"
Subject = dict[str, Any]


def hashed(token: str) -> str:
    """As Google's ``hash_base64_sha512_sha512``."""
    return base64.b64encode(hashlib.sha512(hashlib.sha512(token.encode()).digest()).digest()).decode()


def subject(algorithm: str, value: str) -> Subject:
    return {
        "subject_type": "oauth_token",
        "token_type": "refresh_token",
        "token_identifier_alg": algorithm,
        "token": value,
    }


def by_hash(token: str) -> Subject:
    return subject("hash_base64_sha512_sha512", hashed(token))


def by_prefix(token: str) -> Subject:
    return subject("prefix", token[:16])


@pytest.fixture
async def runtime(tenant: Emulation, open_worker: OpenWorker, sql: Sql) -> Runtime:
    """A vault with fresh tokens of two users, whose refresh tokens are digested."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    tenant.add_users(CONNECTION, 2)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync(TENANT)).sync_all()).ok
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due([TENANT])
    sql("UPDATE grants SET obtained_at = obtained_at - interval '2 min'")
    assert await digest_refresh_tokens(runtime.vault, [TENANT], [CONNECTION]) == 2
    return runtime


def users(sql: Sql) -> list[str]:
    return [row["user_id"] for row in sql("SELECT user_id FROM grants ORDER BY id")]


def refresh_token(tenant: Emulation, user_id: str) -> str:
    return str(tenant.live(user_id, CONNECTION)["refresh_token"])


@pytest.mark.parametrize("name", [by_hash, by_prefix])
async def test_a_revoked_token_s_grant_is_told_dead(
    tenant: Emulation, runtime: Runtime, sql: Sql, hook: str, name: Callable[[str], Subject]
) -> None:
    """At once, by the provider's own answer; a token that is good stays so, as does the other user's."""
    revoked, good = users(sql)
    token = refresh_token(tenant, revoked)
    tenant.revoke(revoked, CONNECTION)
    for each in (refresh_token(tenant, good), token):  # the good one shows first that the client is
        async with on_demand_worker(runtime) as results:
            tenant.send_security_event(
                hook, "oauth/event-type/token-revoked", audience=AUDIENCE, details={"subject": name(each)}
            )
            await until_async(lambda results=results: len(results) == 1)  # type: ignore[misc]
    assert states(sql) == ["reauthorization_required", "active"]


async def test_a_name_of_no_token_finds_nothing(
    tenant: Emulation, runtime: Runtime, sql: Sql, hook: str
) -> None:
    """Nor does one of another kind of token, or in a form that is not known."""
    token = refresh_token(tenant, users(sql)[0])
    whole = by_hash(token)
    wrong: list[Any] = [
        by_hash(f"{token}x"),
        by_prefix(f"x{token}"),
        subject("prefix", token[:15]),
        subject("prefix", token),
        subject("prefix", ""),
        subject("plain", token),
        subject("hash_base64_sha512_sha512", hashed(token)[:-4]),
        subject("hash_base64_sha512_sha512", "?" * 88),
        subject("hash_base64_sha512_sha512", "\N{GREEK SMALL LETTER ALPHA}" * 88),
        {**whole, "token_type": "access_token"},
        {**whole, "subject_type": "opaque"},
        {**whole, "token": [whole["token"]]},
        {name: value for name, value in whole.items() if name != "token"},
    ]
    for each in wrong:
        token_of_event = tenant.issue_access_token(
            claims({REVOKED: {"subject": each}}), header={"typ": "secevent+jwt"}
        )
        assert post(hook, token_of_event).status_code == 202
        assert sql("SELECT 1 FROM refresh_requests") == [], each
    for form in (whole, {**whole, "format": "oauth_token", "subject_type": None}):
        taken = tenant.issue_access_token(
            claims({REVOKED: {"subject": form}}), header={"typ": "secevent+jwt"}
        )
        assert post(hook, taken).status_code == 202
        assert len(sql("DELETE FROM refresh_requests RETURNING grant_id")) == 1


async def test_digests_follow_the_tokens(tenant: Emulation, runtime: Runtime, rows: Rows, sql: Sql) -> None:
    """New and replaced tokens wait for theirs; an erased grant has none; nothing else costs anything."""
    vault = runtime.vault

    async def stored() -> dict[str, bytes]:
        rows = sql("SELECT user_id, hash FROM refresh_digests JOIN grants ON id = grant_id")
        return {row["user_id"]: bytes(row["hash"]) for row in rows}

    assert await digest_refresh_tokens(vault, [TENANT], [CONNECTION]) == 0
    first, second = users(sql)
    await rows.add(
        "another", CONNECTION, tenant="other"
    )  # no transmitter's connection, only of the same name
    assert len(sql("SELECT 1 FROM refresh_digests")) == 2
    [third] = tenant.add_users(CONNECTION, 1)
    tenant.login(first)
    sync = await runtime.tenant_sync(TENANT)
    assert (await sync.sync_all()).ok
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due([TENANT])
    await digest_refresh_tokens(vault, [TENANT], [CONNECTION])
    wanted = {each: digests_of(Secret(refresh_token(tenant, each)))[1] for each in (first, second, third)}
    assert await stored() == wanted
    eraser = await runtime.eraser(TENANT)
    await eraser.forget(second)
    assert sorted(await stored()) == sorted([first, third])


async def test_a_tick_digests(
    rows: Rows, sql: Sql, hook: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beat has workers look for what waits, where a provider sends events; elsewhere there is nothing to look for."""
    from worker.app import make_app

    await rows.add(connection=CONNECTION)
    conf = make_app(load()).conf
    tick = conf.beat_schedule["digests"]
    assert (tick["task"], tick["schedule"]) == (tasks.digest_refresh_tokens.name, 15)
    assert conf.task_routes[tick["task"]] == {"queue": "sync"}
    process = Process()
    monkeypatch.setattr(tasks, "process", process)
    try:
        await asyncio.to_thread(tasks.digest_refresh_tokens.run)
    finally:
        await asyncio.to_thread(process.close)
    [row] = sql("SELECT hash FROM refresh_digests")
    assert bytes(row["hash"]) == digests_of(Secret("refresh-of-u1"))[1]
    environment.write_text("", encoding="utf-8")  # noqa: ASYNC240  # a small file
    assert "digests" not in make_app(load()).conf.beat_schedule


def test_a_digest_says_little() -> None:
    """It is short of what an event says, and neither is a part of the token."""
    token = "1//0g-a-refresh-token-of-some-length-that-nobody-guesses"
    prefix, hash_ = digests_of(Secret(token))
    assert TokenName.of("prefix", token[:16]) == ("prefix", prefix)
    assert TokenName.of("hash_base64_sha512_sha512", hashed(token)) == ("hash", hash_)
    assert len(hash_) == len(prefix or b"") == 16
    assert (
        prefix == hashlib.sha512(token[:16].encode()).digest()[:16]
    )  # the vault keeps no letter of the token
    assert digests_of(Secret("short"))[0] is None
