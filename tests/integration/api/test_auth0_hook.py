"""Auth0's log streams and event streams, from the tenant's event to the row in the vault."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from emulators.client import Emulation
from tests.integration.sync.test_changed_users import working
from tests.support.api_server import ApiClient
from tests.support.readers import Sql
from tests.support.served_api import served
from tests.support.wait import until_async
from worker.runtime import Runtime
from worker.settings import Deletion, load
from worker.vault.changed_users import queue

SECRET, OLD_SECRET = "s" * 32, "o" * 40
CONNECTION = "google-oauth2"
LOGIN = {"log_id": "900", "data": {"type": "s", "user_id": "google-oauth2|1", "user_name": "ann@example.com"}}
FORMATS = ["JSONLINES", "CLOUDEVENTS"]


@pytest.fixture
def hook(environment: Path, tenant: Emulation, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The hook's address, where two secrets are good."""
    monkeypatch.setenv("AUTH0_HOOK_SECRET", f"{SECRET} {OLD_SECRET}")
    environment.write_text(tenant.config_toml(), encoding="utf-8")
    with served(load()) as url:
        yield f"{url}/v1/hooks/auth0"


def post(url: str, content: bytes | str = json.dumps(LOGIN), **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False) as http:
        return http.post(url, content=content, headers={"Authorization": SECRET} | headers)


def queued(sql: Sql) -> list[str]:
    return [row["user_id"] for row in sql("SELECT user_id FROM changed_users ORDER BY user_id")]


@pytest.mark.parametrize("form", FORMATS)
async def test_a_login_is_in_the_vault_and_a_deleted_user_is_gone(
    tenant: Emulation,
    open_worker: Callable[[], Awaitable[Runtime]],
    sql: Sql,
    hook: str,
    form: str,
) -> None:
    """Both by the tenant's own posts: no sync by schedule is running."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    known, deleted = tenant.add_users(CONNECTION, 2)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    runtime.settings = runtime.settings.model_copy(update={"deletion": Deletion(settle=0)})
    tenant.configure_tenant(login_events=True)
    tenant.add_stream(hook, SECRET, form=form)
    versions = {row["user_id"]: row["access_version"] for row in sql("SELECT * FROM grants")}
    async with working(runtime.vault, runtime.sync_users):
        [user_id] = tenant.add_users(CONNECTION, 1)
        await until_async(lambda: sql("SELECT 1 FROM grants WHERE user_id = %s", user_id))
        tenant.login(known)
        await until_async(
            lambda: sql(
                "SELECT 1 FROM grants WHERE access_version > %s AND user_id = %s", versions[known], known
            )
        )
        tenant.delete_user(deleted)
        await until_async(lambda: sql("SELECT 1 FROM grants WHERE state = 'erased'"))
    assert set(tenant.delivered()) == {202}
    assert sorted(row["user_id"] for row in sql("SELECT * FROM grants WHERE state = 'active'")) == [
        known,
        user_id,
    ]


async def test_a_deleted_user_has_no_token_any_more(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Sql, hook: str, api_key: str
) -> None:
    """As soon as Auth0 has told it, and long before the erasure is settled."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    deleted, *_ = tenant.add_users(CONNECTION, 3)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due(runtime.tenants)
    tenant.add_stream(hook, SECRET, form="JSONLINES")
    api = ApiClient(hook.removesuffix("/v1/hooks/auth0"))
    user = f"/v1/users/{quote(deleted)}/tokens"
    assert api.call(f"{user}/{CONNECTION}", api_key).status_code == 200
    async with working(runtime.vault, runtime.sync_users):
        tenant.delete_user(deleted)
        await until_async(lambda: api.call(f"{user}/{CONNECTION}", api_key).status_code == 404)
    assert api.problem(f"{user}/{CONNECTION}", api_key)[1] == "not-connected"
    assert api.call(user, api_key).json()["grants"] == []
    assert sql("SELECT 1 FROM grants WHERE state = 'erased'") == []
    api.close()


def test_each_way_to_send_a_secret_is_taken(sql: Sql, hook: str) -> None:
    """A log stream sends it as it is, an event stream as a bearer token or a password."""
    password = base64.b64encode(f"anybody:{SECRET}".encode()).decode()
    for sent in (SECRET, OLD_SECRET, f"Bearer {SECRET}", f"bearer  {OLD_SECRET}", f"Basic {password}"):
        answer = post(hook, Authorization=sent)
        assert answer.json() == {"queued": 1, "passed_over": 0, "malformed": []}, sent
        assert queued(sql) == ["google-oauth2|1"]


def test_a_changed_connection_is_queued(sql: Sql, hook: str) -> None:
    """An event stream's event about a connection has the connections read again."""
    event = {"specversion": "1.0", "type": "connection.updated", "id": "1", "data": {"object": {"name": "c"}}}
    assert post(hook, json.dumps(event)).json() == {"queued": 0, "passed_over": 0, "malformed": []}
    assert queued(sql) == [queue.CONNECTIONS]


def test_without_the_secret_nothing_is_read(sql: Sql, hook: str) -> None:
    """Who has no secret learns nothing but that."""
    wrong = (
        "",
        "Bearer",
        SECRET[:-1],
        f"{SECRET}s",
        f"Basic {SECRET}",
        "Basic Og==",
        f"Digest {SECRET}",
        "Bearer x",
    )
    for sent in wrong:
        refused = post(hook, "no JSON", Authorization=sent)
        assert refused.status_code == 401, sent
        assert refused.json()["type"] == "urn:token-vault:problem:invalid-token"
    assert queued(sql) == []


def test_two_secrets_are_none(sql: Sql, hook: str) -> None:
    """Which of two headers a proxy in front of it has judged nobody knows."""
    with httpx.Client(trust_env=False) as http:
        sent = http.post(hook, content=b"[]", headers=[("Authorization", "x"), ("Authorization", SECRET)])
    assert sent.status_code == 401


def test_a_hook_without_a_secret_does_not_exist(environment: Path, tenant: Emulation) -> None:
    """Nothing is open by default."""
    with served(load()) as url:
        assert post(f"{url}/v1/hooks/auth0").status_code == 404


def test_what_is_too_large_is_refused(sql: Sql, hook: str) -> None:
    """Bytes and events are bounded, and a compressed body is not unpacked."""
    assert post(hook, b" " * 2_000_001).status_code == 413
    assert post(hook, json.dumps([LOGIN] * 2_001)).status_code == 413
    assert post(hook, b"x", **{"Content-Encoding": "gzip"}).status_code == 400
    assert queued(sql) == []


def test_a_malformed_line_is_named_without_its_content(
    sql: Sql, hook: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines around it are taken, and neither the log nor the answer shows what it held."""
    answer = post(hook, f'{{"email": "eve@example.com"\n{json.dumps(LOGIN)}\n')
    assert answer.json() == {"queued": 1, "passed_over": 0, "malformed": [1]}
    refused = post(hook, '{"email": "eve@example.com"')
    assert refused.status_code == 400
    assert "event 1" in refused.json()["detail"]
    shown = capsys.readouterr()
    assert "eve@example.com" not in refused.text + shown.out + shown.err
    assert "ann@example.com" not in shown.out + shown.err + str(sql("SELECT * FROM changed_users"))


def test_what_becomes_of_events_is_counted(hook: str) -> None:
    """The metrics say how many were queued, passed over and malformed."""
    post(hook, json.dumps([LOGIN, {"log_id": "1", "data": {"type": "ssa"}}, 7]))
    with httpx.Client(trust_env=False) as http:
        shown = http.get(hook.replace("/v1/hooks/auth0", "/metrics")).text
    for outcome in ("queued", "passed_over", "malformed"):
        assert f'token_vault_api_hook_events_total{{hook="auth0",outcome="{outcome}"}} 1.0' in shown


def test_what_cannot_be_stored_is_sent_again(hook: str, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 tells Auth0 to try again: no event is lost in silence."""
    monkeypatch.setattr(queue, "MAX_PENDING_USERS", 0)
    refused = post(hook)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "30"
    monkeypatch.undo()
    sql("ALTER TABLE changed_users RENAME TO away")
    try:
        assert post(hook).status_code == 503
    finally:
        sql("ALTER TABLE away RENAME TO changed_users")
