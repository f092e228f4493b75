"""Applications that call a provider for a user whom they name."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.support.proxied_api import Proxied, problem
from tests.support.readers import Sql
from tests.support.scripted_upstream import http
from tests.support.synced_user import CONNECTION, USER
from worker.consumer_rules import hash_api_key, make_api_key

Keys = dict[str, str]


@pytest.fixture
def keys(proxied: Proxied, sql: Sql) -> Keys:
    """The API keys of applications: one that may call for users, and others that lack something."""
    consumers: dict[str, tuple[str, bool, str]] = {
        "sync": (CONNECTION, True, "batched"), "strict": (CONNECTION, True, "strict"),
        "reader": (CONNECTION, False, "batched"), "elsewhere": ("other", True, "batched"),
    }  # fmt: skip
    keys = {name: make_api_key() for name in consumers}
    for name, (connection, impersonate, audit) in consumers.items():
        sql(
            "INSERT INTO consumers (name, client_id, api_key_hash, connections, users, admins, refresh, impersonate,"
            " audit) VALUES (%s, %s, %s, %s, true, false, false, %s, %s)",
            name, f"{name}-app", hash_api_key(keys[name]), [connection], impersonate, audit,
        )  # fmt: skip
    return keys


def machine_token(proxied: Proxied, name: str = "sync", scope: str = "proxy:idp") -> str:
    return proxied.issuer.access_token(
        f"{name}-app@clients", azp=f"{name}-app", gty="client-credentials", scope=scope
    )


async def call(proxied: Proxied, credential: str, user: str | None = USER) -> httpx.Response:
    named = {} if user is None else {"X-Token-Vault-User": user}
    return await proxied.call(headers={"Authorization": f"Bearer {credential}", **named})


async def test_an_application_calls_for_a_user(proxied: Proxied, keys: Keys, sql: Sql) -> None:
    """The provider gets the named user's token and not the name; the audit says that it was impersonation."""
    proxied.upstream.answer = lambda _: http(200, b"events")
    for credential in (machine_token(proxied), keys["sync"]):
        for user in (USER, USER.replace("|", "%7C")):
            assert (await call(proxied, credential, user)).content == b"events"
    got = proxied.upstream.received[0]
    assert got.token not in ("", keys["sync"])
    assert not got.all("x-token-vault-user")
    for _ in range(500):
        found = sql("SELECT consumer, source, user_id, outcome FROM audit_records")
        if len(found) == 4:
            break
        await asyncio.sleep(0.02)
    expected = {"consumer": "sync", "source": "impersonation", "user_id": USER, "outcome": "served"}
    assert found == [expected] * 4


async def test_what_it_may_not_is_refused_in_words(proxied: Proxied, keys: Keys) -> None:
    """Without scope, name, entry or connection nothing is sent, and the caller learns why."""
    user_token = proxied.issuer.access_token(USER)
    refused: dict[str, tuple[str, str | None]] = {
        "the token has no scope proxy:idp": (machine_token(proxied, scope="read:idp_tokens"), USER),
        "an application names the user in the header x-token-vault-user": (keys["sync"], None),
        "no entry in [consumers.*]": (machine_token(proxied, "unknown"), USER),
        "a user's access token is for that user alone": (user_token, "oauth2|other"),
        "the proxy takes a user's access token, and this is an application's: the entry [consumers.reader] has no "
        "impersonate = true": (keys["reader"], USER),
        "the entry [consumers.elsewhere] does not allow users' tokens": (keys["elsewhere"], USER),
        "x-token-vault-user holds a NUL": (keys["sync"], "a%00"),
    }
    for words, (credential, user) in refused.items():
        answer = await call(proxied, credential, user)
        assert answer.json()["detail"].startswith(words)
    assert problem(await call(proxied, keys["sync"], "")) == "bad-request"
    assert problem(await call(proxied, keys["sync"], "oauth2|nobody")) == "not-connected"
    assert proxied.upstream.received == []


async def test_a_strict_audit_refuses_what_it_cannot_record(proxied: Proxied, keys: Keys, sql: Sql) -> None:
    """Nothing is sent to the provider where the read of its token cannot be recorded."""
    assert (await call(proxied, keys["strict"])).status_code == 200
    assert sql("SELECT consumer, source FROM audit_records") == [
        {"consumer": "strict", "source": "impersonation"}
    ]
    proxied.upstream.received.clear()
    sql("ALTER TABLE audit_records RENAME TO hidden_records")
    try:
        answer = await call(proxied, keys["strict"])
    finally:
        sql("ALTER TABLE hidden_records RENAME TO audit_records")
    assert problem(answer) == "temporarily-unavailable"
    assert "audit is strict" in answer.json()["detail"]
    assert proxied.upstream.received == []
