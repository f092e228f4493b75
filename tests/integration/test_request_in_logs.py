"""One search for the app's request id shows the way from the app to the provider's answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulators.client import Emulation
from tests.support.processes import site
from tests.support.readers import Rows, Sql
from tests.support.wait import until
from token_vault.read_model import OF_REQUEST, REQUEST_REFRESH
from token_vault.secret import Secret
from worker.embedded import Servers
from worker.vault.vault import Vault

CONNECTION = "custom"

SEND = """
import json, os, sys
from celery import Celery
app = Celery("foreign", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
given = json.load(sys.stdin)
app.send_task("worker.refresh_token", kwargs=given, queue="interactive", headers={"request_id": "of-celery-1"})
print(json.dumps(None))
"""


def lines(log: str, request_id: str) -> list[dict[str, Any]]:
    """The log lines that name a request."""
    return [json.loads(line) for line in log.splitlines() if f'"{request_id}"' in line]


async def test_a_request_is_followed_to_the_provider(
    tenant: Emulation,
    open_worker: Callable[[], Any],
    sql: Sql,
    database_url: Secret,
    redis_url: Secret,
    tmp_path: Path,
) -> None:
    """A reader's id and that of a Celery message are in the worker's lines of the provider's answer."""
    tenant.add_connection(CONNECTION, "oauth2", "custom")
    (user,) = tenant.add_users(CONNECTION, 1)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    stale = "UPDATE grants SET expires_at = now() + interval '1 s', obtained_at = now() - interval '1 h'"
    sql(stale)
    with site(Servers(database_url, redis_url), tenant, tmp_path, schedule="") as made:
        worker = made.worker("interactive", "interactive")
        made.read({"user_id": user, "connection": CONNECTION, "wait": 30, "request_id": "of-the-app-1"})
        until(lambda: "refresh_request.finished" in worker.log)
        found = {line["event"]: line for line in lines(worker.log, "of-the-app-1")}
        assert found["provider.answered"]["answer"] == "pair"
        assert found["provider.answered"]["tenant"] == "default"
        assert found["refresh_request.finished"]["outcome"] == "renewed"

        sql(stale)
        made.run(SEND, {"user_id": user, "connection": CONNECTION})
        (answered,) = until(
            lambda: [
                each for each in lines(worker.log, "of-celery-1") if each["event"] == "provider.answered"
            ]
        )
        assert answered["task"] == "worker.refresh_token"
        assert answered["task_id"]


async def test_a_request_without_a_name_takes_no_other_s(vault: Vault, sql: Sql) -> None:
    """The id lasts as long as the statement that names it, and what could not stand in a log is left out."""
    rows = Rows(vault, sql)
    for name in ("a", "b", "c"):
        await rows.add(f"oauth2|{name}", subject=name)
    first, second, third = (row["id"] for row in sql("SELECT id FROM grants ORDER BY id"))
    sql(REQUEST_REFRESH + OF_REQUEST, first, None, 60, "mine-1")
    sql(REQUEST_REFRESH, second, None, 60)
    sql(REQUEST_REFRESH + OF_REQUEST, third, None, 60, "two\nlines")
    named = sql("SELECT request_id FROM refresh_requests ORDER BY grant_id")
    assert [row["request_id"] for row in named] == ["mine-1", None, None]
