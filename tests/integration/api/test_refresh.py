"""Forced refreshes, overload, and a database that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, ApiClient, serving
from tests.support.readers import Rows, Sql, on_demand_worker
from tests.support.wait import until_async
from worker.runtime import Runtime

OpenWorker = Callable[[], Awaitable[Runtime]]


def write(environment: Path, text: str) -> None:
    """Set the TOML file."""
    environment.write_text(text, encoding="utf-8")


async def test_a_forced_refresh_gives_a_new_token(
    api: ApiClient, api_key: str, tenant: Emulation, open_worker: OpenWorker, sql: Sql
) -> None:
    """One renewal brings a new token; one that is younger than a minute is not replaced again."""
    sql("UPDATE consumers SET refresh = true")
    tenant.add_connection("custom", "oauth2", "custom")
    (user_id,) = tenant.add_users("custom", 1)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due(runtime.tenants)
    sql("UPDATE grants SET obtained_at = now() - interval '10 min'")
    path = f"/v1/users/{user_id.replace('|', '%7C')}/tokens/custom"

    async def token(suffix: str, method: str) -> str:
        response = await asyncio.to_thread(api.call, path + suffix, api_key, method=method)
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    async with on_demand_worker(runtime) as results:
        first = await token("", "GET")
        second = await token("/refresh?wait=20", "POST")
        assert second != first
        assert await token("/refresh", "POST") == second
    assert len(results) == 1


async def test_the_request_s_id_goes_with_the_refresh_request(
    api: ApiClient, api_key: str, rows: Rows, sql: Sql
) -> None:
    """The worker's log can name the request of the HTTP API that a renewal is for."""
    await rows.add(expires_in=5)
    path = "/v1/users/oauth2%7Cu1/tokens/custom?wait=0.2"
    await asyncio.to_thread(api.call, path, api_key, headers={"x-request-id": "r-7"})
    assert sql("SELECT request_id FROM refresh_requests") == [{"request_id": "r-7"}]


async def test_too_many_requests_are_refused_at_once(
    environment: Path, api_key: str, rows: Rows, tmp_path: Path
) -> None:
    """Beyond ``max_concurrent`` a request is told to come again; health checks are answered all the same."""
    await rows.add(expires_in=5)
    write(environment, f"{SETTINGS}max_concurrent = 1\n")
    path = "/v1/users/oauth2%7Cu1/tokens/custom"
    with serving(tmp_path) as api:
        waiting = asyncio.create_task(asyncio.to_thread(api.call, f"{path}?wait=10", api_key))
        await until_async(lambda: "in_flight 2.0" in api.call("/metrics").text)
        status, code, detail = await asyncio.to_thread(api.problem, path, api_key)
        assert (status, code, detail) == (503, "temporarily-unavailable", "too many requests at a time")
        assert api.call("/healthz").status_code == 200
        assert (await waiting).status_code == 503


async def test_a_database_that_is_away(environment: Path, api_key: str, tmp_path: Path) -> None:
    """Without Postgres every read is a problem document that says when to come again."""
    write(environment, SETTINGS)
    with serving(tmp_path, DATABASE_URL="postgresql://nobody:secret-word@127.0.0.1:9/none") as api:
        status, code, detail = api.problem("/v1/users/u/tokens/custom", api_key)
        assert (status, code) == (503, "temporarily-unavailable")
        assert api.problem("/readyz")[:2] == (503, "temporarily-unavailable")
        assert api.call("/healthz").status_code == 200
        assert "secret-word" not in detail + api.process.log
