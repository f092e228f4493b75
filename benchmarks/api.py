"""The HTTP API: reads against a constant, beside a busy worker, through the proxy, and over time."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from benchmarks.memory import share
from benchmarks.stage import Result, Stage, celery, fill
from tests.support.api_server import AUDIENCE, ApiClient, ApiProcess, serving
from tests.support.served import in_thread
from tests.support.wait import until

GRANTS = 1000
TOKEN = "t" * 1800
CLIENT_ID = "calendar-app"
# Requests of each kind in a round, over so many connections in turn.
REQUESTS, CONNECTIONS, ROUNDS = 2000, 4, 5
RATE, RATE_SECONDS = 200, 20.0
PROXIED = 500
MEMORY_READS = int(os.environ.get("READS", "1_000_000"))


def measure(stage: Stage) -> list[Result]:
    """Measure one serving process by callers over loopback."""
    stage.empty()
    asyncio.run(fill(stage, GRANTS, TOKEN))
    with provider() as provider_url, ExitStack() as stack:
        keys = {"VAULT_ACCESS_KEYS": stage.access_key.reveal()}
        reads = _reads(stage)
        _configure(stage, provider_url, cache=False)
        with serving(_folder(stage, "uncached"), **keys) as uncached:
            without = _ratio(uncached, reads, ", with `cache = false`")
        _configure(stage, provider_url)
        api = stack.enter_context(serving(_folder(stage, "cached"), **keys))
        return [
            _ratio(api, reads, ""),
            without,
            _proxy(stage, api, provider_url),
            *_beside(stage, api, reads),
        ]


def measure_memory(stage: Stage) -> list[Result]:
    """Measure one serving process over a million reads, or READS of the environment."""
    stage.empty()
    asyncio.run(fill(stage, GRANTS, TOKEN))
    _configure(stage, "http://127.0.0.1")
    folder = _folder(stage, "memory")
    with serving(folder, VAULT_ACCESS_KEYS=stage.access_key.reveal()) as api:
        return [_memory(api, _reads(stage))]


def _folder(stage: Stage, name: str) -> Path:
    """Make a folder for a server's log."""
    folder = stage.home / name
    folder.mkdir(exist_ok=True)
    return folder


def _configure(stage: Stage, provider_url: str, *, cache: bool = True) -> None:
    config = f"""{stage.emulation.config_toml()}
[api]
audience = "{AUDIENCE}"
cache = {str(cache).lower()}
[proxy.partner]
base_url = "{provider_url}"
allow = ["GET /*"]
[schedule]
renew = 1
changes = 86400
full = 86400
connections = 86400
"""
    (stage.home / "vault.toml").write_text(config, encoding="utf-8")
    stage.sql(
        "INSERT INTO consumers (name, client_id, connections, users, admins, refresh)"
        " VALUES ('calendar', %s, '{*}', true, false, false) ON CONFLICT DO NOTHING",
        CLIENT_ID,
    )


def _reads(stage: Stage) -> list[bytes]:
    """Requests for each user's token."""
    token = stage.emulation.issue_access_token({"exp": 4_000_000_000})
    return [_get(f"/v1/users/auth0%7C{number}/tokens/partner?min_ttl=60", token) for number in range(GRANTS)]


def _get(path: str, token: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


class Connection:
    """A connection that is kept alive, with as little of a client as there can be."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((str(place.hostname), int(place.port or 0)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._socket.sendall(request)

    def receive(self) -> None:
        """Read a whole answer, which must be a good one."""
        answer = self._socket.recv(65_536)
        while b"\r\n\r\n" not in answer or not _is_whole(answer):
            answer += self._socket.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200"), answer[:300]


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")


def _rate(connections: Sequence[Connection], requests: Sequence[bytes]) -> float:
    """Send requests, one under way on each connection; return how many a second."""
    began = time.perf_counter()
    for first in range(0, len(requests), len(connections)):
        batch = list(zip(connections, requests[first : first + len(connections)], strict=False))
        for connection, request in batch:
            connection.send(request)
        for connection, _ in batch:
            connection.receive()
    return len(requests) / (time.perf_counter() - began)


def _ratio(api: ApiClient, reads: Sequence[bytes], how: str) -> Result:
    connections = [Connection(api.url) for _ in range(CONNECTIONS)]
    constants = [_get("/healthz")] * REQUESTS
    wanted = (list(reads) * (REQUESTS // len(reads)))[:REQUESTS]
    _rate(connections, wanted[:200])
    rates = [(_rate(connections, wanted), _rate(connections, constants)) for _ in range(ROUNDS)]
    read, constant = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(mine / theirs for mine, theirs in rates)
    return Result(
        f"reads a second, authenticated and audited{how}", f"{read:.0f}/s", f"{constant:.0f}/s of the same server's `/healthz`",
        f"{ratio:.2f}", "≥ 0.5", ratio >= 0.5,
    )  # fmt: skip


def _beside(stage: Stage, api: ApiProcess, reads: Sequence[bytes]) -> list[Result]:
    """Send at a steady rate while a worker renews; a late answer delays none of the next requests' clocks."""
    with (
        celery("worker", "-Q", "renew,sync", "-c", "4", "-n", "bulk@%h", log=stage.home / "celery.log"),
        celery("beat", log=stage.home / "beat.log"),
    ):
        until(lambda: _is_working(stage), "the worker works")
        before = _processor_seconds(api.process.pid)
        latencies = asyncio.run(_paced(stage, api.url, reads))
        after = _processor_seconds(api.process.pid)
    p99 = statistics.quantiles(latencies, n=100)[98]
    median = statistics.median(latencies)
    ran, waited = ((end - start) / len(latencies) for start, end in zip(before, after, strict=True))
    return [Result(
        f"a read's 99th percentile at {RATE}/s beside a busy worker", f"{p99 * 1000:.1f} ms",
        f"{median * 1000:.1f} ms at the median", "", "< 10 ms", p99 < 0.010,
    ), Result(
        "… for which the API waits for a processor, at the mean", f"{waited * 1000:.2f} ms",
        f"{ran * 1000:.2f} ms for which it runs", "",
    )]  # fmt: skip


def _processor_seconds(pid: int) -> tuple[float, float]:
    """Return for how long a process has run, and has waited to run (proc_pid_schedstat)."""
    ran, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text("ascii").split()
    return int(ran) / 1e9, int(waited) / 1e9


def _is_working(stage: Stage) -> bool:
    with psycopg.connect(stage.servers.database_url.reveal()) as connection:
        return connection.execute("SELECT 1 FROM worker_heartbeats").fetchone() is not None


async def _paced(stage: Stage, url: str, reads: Sequence[bytes]) -> list[float]:
    place = urlsplit(url)
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(50):
        idle.put_nowait(await asyncio.open_connection(place.hostname, place.port))
    latencies: list[float] = []

    async def read(due: float, request: bytes) -> None:
        reader, writer = await idle.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        latencies.append(time.perf_counter() - due)
        idle.put_nowait((reader, writer))

    began, tasks = time.perf_counter(), []
    for number in range(int(RATE * RATE_SECONDS)):
        due = began + number / RATE
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if number % (2 * RATE) == 0:
            await asyncio.to_thread(
                stage.sql, "UPDATE grants SET due_at = now() WHERE claim_owner IS NULL AND id %% 2 = %s", 1
            )
        tasks.append(asyncio.create_task(read(due, reads[number % len(reads)])))
    await asyncio.gather(*tasks)
    return latencies


def _proxy(stage: Stage, api: ApiClient, provider_url: str) -> Result:
    user = stage.emulation.issue_access_token(
        {"sub": "auth0|1", "scope": "proxy:idp", "gty": None, "exp": 4_000_000_000}
    )
    direct, through = Connection(provider_url), Connection(api.url)
    kinds = ((direct, _get("/v1/x")), (through, _get("/v1/proxy/partner/v1/x", user)))
    times: list[list[float]] = [[], []]
    for _ in range(PROXIED):
        for (connection, request), kept in zip(kinds, times, strict=True):
            began = time.perf_counter()
            connection.send(request)
            connection.receive()
            kept.append(time.perf_counter() - began)
    bare, proxied = (statistics.median(column[50:]) for column in times)
    added = proxied - bare
    return Result(
        "what the proxy adds to a call, at the median", f"{added * 1000:.1f} ms",
        f"{bare * 1000:.1f} ms for the call alone", "", "< 3 ms", added < 0.003,
    )  # fmt: skip


def _memory(api: ApiProcess, reads: Sequence[bytes]) -> Result:
    connections = [Connection(api.url) for _ in range(CONNECTIONS)]
    early = late = 0
    for done in range(0, MEMORY_READS, len(reads)):
        _rate(connections, reads)
        late = share(api.process.pid)
        if done >= MEMORY_READS // 10 and not early:
            early = late
    growth = late / early
    return Result(
        f"memory of the API after {MEMORY_READS:,} reads", f"{late / 1024:.0f} MB",
        f"{early / 1024:.0f} MB after {MEMORY_READS // 10:,}", f"{growth:.2f}", "flat (≤ 1.05)", growth <= 1.05,
    )  # fmt: skip


@contextmanager
def provider() -> Iterator[str]:
    """A provider's API that answers a constant over connections that stay open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
            )

        def log_message(self, *_: object) -> None:
            pass

    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as origin:
        yield origin
