"""The HTTP API, served here or by ``token-vault serve``, and calls to it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.keys import ACCESS_KEY
from tests.support.processes import Process
from tests.support.served_api import served
from tests.support.wait import until
from worker.api.problems import TYPE_PREFIX
from worker.settings import Settings

AUDIENCE = "https://vault.example"
# Tests see at once what they change.
SETTINGS = f'[api]\naudience = "{AUDIENCE}"\ncache = false\n'


class ApiClient:
    """Calls a server as other programs do: over HTTP.

    Attributes:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=40, trust_env=False)

    def call(
        self,
        path: str,
        credential: str | None = None,
        *,
        method: str = "GET",
        headers: Mapping[str, str | bytes] | None = None,
        body: Any = None,
    ) -> httpx.Response:
        """Send one request."""
        sent: dict[str, Any] = dict(headers or {})
        if credential is not None:
            sent["Authorization"] = f"Bearer {credential}"
        content = None if body is None else json.dumps(body)
        return self._http.request(method, path, headers=sent, content=content)

    def problem(self, path: str, credential: str | None = None, **sent: Any) -> tuple[int, str, str]:
        """Send one that is refused; return status, code and detail."""
        response = self.call(path, credential, **sent)
        assert response.headers["content-type"] == "application/problem+json", response.text
        assert response.headers["cache-control"] == "no-store"
        document = response.json()
        assert document["status"] == response.status_code
        assert document["request_id"] == response.headers["x-request-id"]
        return response.status_code, document["type"].removeprefix(TYPE_PREFIX), document["detail"]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class ApiProcess(ApiClient):
    """A client of a server in a process of its own.

    Attributes:
        process: that serves.
    """

    def __init__(self, url: str, process: Process) -> None:
        super().__init__(url)
        self.process = process


@contextmanager
def serving_here(settings: Settings) -> Iterator[ApiClient]:
    """Serve in a thread; a process of its own takes a second of CPU to start."""
    with served(settings.model_copy(update={"refresh_keys": (), "redis_url": None})) as url:
        client = ApiClient(url)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def serving(folder: Path, **changed: str) -> Iterator[ApiProcess]:
    """Serve in the environment at hand, with the access ring alone.

    Args:
        folder: for the log.
        changed: variables that differ.
    """
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VAULT_REFRESH_KEYS", "REDIS_URL")
    }
    environment |= {"VAULT_ACCESS_KEYS": ACCESS_KEY.reveal(), "TOKEN_VAULT_LOG_LEVEL": "INFO", **changed}
    command = [sys.executable, "-m", "worker.cli", "serve", "--port", "0"]
    process = Process("serve", command, environment, folder / "serve.log")
    until(lambda: "serving at " in process.log or not process.running, "the API answers")
    found = re.search(r"serving at (\S+)", process.log)
    assert found, process.log
    client = ApiProcess(found[1], process)
    try:
        yield client
    finally:
        client.close()
        process.kill()
