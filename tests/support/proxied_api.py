"""A served vault with a provider behind its proxy, for tests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.support.scripted_upstream import Upstream
from tests.support.served_api import Issuer
from tests.support.synced_user import CONNECTION, USER
from token_vault.secret import Secret
from worker.runtime import Runtime

PATH = f"/v1/proxy/{CONNECTION}"
ORIGIN = "https://app.acme.example"
RECONNECT_SECRET = Secret("s" * 32)


@dataclass(frozen=True)
class Proxied:
    """A running API with a provider behind it."""

    url: str
    issuer: Issuer
    upstream: Upstream
    runtime: Runtime
    http: httpx.AsyncClient

    async def call(self, path: str = "/calendar/v3/a", method: str = "GET", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.issuer.access_token(USER)}"} | options.pop("headers", {})
        return await self.http.request(method, f"{self.url}{PATH}{path}", headers=headers, **options)

    async def raw(self, target: str, method: str = "GET", *headers: str) -> bytes:
        """Send a target that no client would send, byte for byte."""
        place = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
        lines.append(f"Authorization: Bearer {self.issuer.access_token(USER)}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        try:
            return await reader.read()
        finally:
            writer.close()


def problem(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    found: str = answer.json()["type"].removeprefix("urn:token-vault:problem:")
    return found
