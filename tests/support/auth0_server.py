"""An HTTP server that records raw Management API requests.

The test says what it answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote

from token_vault.secret import Secret
from worker.auth0 import (
    Credentials,
    ManagementClient,
    MemoryTokenStore,
    RateLimitBudget,
    RetryPolicy,
    Timeouts,
    TokenStore,
)

ALL_SCOPES = "read:users read:user_idp_tokens read:connections read:connections_options"


class FakeTime:
    """A clock that moves only when somebody sleeps.

    ``passes`` is cleared to keep sleepers asleep; ``asleep`` has an item for each who fell asleep.
    """

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 15, 12, tzinfo=UTC)
        self.is_dormant: list[float] = []
        self.asleep: asyncio.Queue[float] = asyncio.Queue()
        self.passes = asyncio.Event()
        self.passes.set()

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + timedelta(seconds=seconds)
        self.is_dormant.append(seconds)
        self.asleep.put_nowait(seconds)
        await self.passes.wait()
        self.now = max(self.now, until)


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2]))

    @property
    def last_segment(self) -> str:
        return unquote(self.path.rpartition("/")[2])


@dataclass(frozen=True)
class Answer:
    """JSON with a status, or an answer of ``raw`` bytes.

    A raw answer ends the connection, after ``until`` where that is given.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    until: asyncio.Event | None = None

    def bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        lines = [f"HTTP/1.1 {self.status} X", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


Handler = Callable[[Request], Answer | Awaitable[Answer]]


class Server:
    """The server: token requests get ``token-1``, ``token-2``, ….

    ``script`` answers everything else while it has answers, then ``api``.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.arrived: asyncio.Queue[Request] = asyncio.Queue()
        self.script: list[Answer] = []
        self.token_script: list[Answer] = []
        self.api: Handler = lambda _: Answer(200, {})
        self.scope: str | None = ALL_SCOPES
        self.life = 86_400
        self.port = 0

    @property
    def mints(self) -> list[Request]:
        return [request for request in self.requests if request.path == "/oauth/token"]

    @property
    def calls(self) -> list[Request]:
        return [request for request in self.requests if request.path != "/oauth/token"]

    async def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        self.arrived.put_nowait(request)
        if request.path == "/oauth/token":
            return self.token_script.pop(0) if self.token_script else self._token()
        if self.script:
            return self.script.pop(0)
        answer = self.api(request)
        return answer if isinstance(answer, Answer) else await answer

    def _token(self) -> Answer:
        body = {"access_token": f"token-{len(self.mints)}", "token_type": "Bearer", "expires_in": self.life}
        return Answer(200, body if self.scope is None else body | {"scope": self.scope})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").strip().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = first.split(" ")
                answer = await self.answer(Request(method, target, headers, body))
                writer.write(answer.bytes())
                await writer.drain()
                if answer.until:
                    await answer.until.wait()
                if answer.raw is not None:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(server: Server | None = None) -> AsyncIterator[Server]:
    server = server or Server()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(server.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def credentials(server: Server) -> Credentials:
    return Credentials(f"http://127.0.0.1:{server.port}", "the-client", Secret("the-client-secret"))


def client_of(
    server: Server,
    time: FakeTime,
    *,
    store: TokenStore | None = None,
    retries: RetryPolicy | None = None,
    timeouts: Timeouts | None = None,
    who: Credentials | None = None,
    budget: RateLimitBudget | None = None,
) -> ManagementClient:
    return ManagementClient(
        who or credentials(server),
        store or MemoryTokenStore(),
        clock=time,
        sleep=time.sleep,
        retries=retries,
        timeouts=timeouts,
        budget=budget,
    )
