"""The export job, from its request to the last line of its file."""

import asyncio
import gzip
import json
import traceback
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from tests.support.auth0_server import Answer, FakeTime, Request, Server, client_of, running
from tests.support.wait import WAIT_SECONDS
from worker.auth0 import ExportedUser
from worker.auth0.errors import Auth0Error, Auth0Refused, Auth0Unreachable, MalformedAnswer

MOMENT = datetime(2026, 3, 15, 7, 14, 32, 451_000, tzinfo=UTC)
SIGNED = "signature-hunter2"


def line(number: int) -> bytes:
    user = {"user_id": f"auth0|{number}", "created_at": "2026-03-15T07:14:32.451Z", "updated_at": None}
    return json.dumps(user).encode() + b"\n"


def exporting(content: bytes, *statuses: str, file: Callable[[Request], Answer] | None = None) -> Server:
    """A tenant whose job goes through these states and names a file of its own."""
    server = Server()
    left = list(statuses or ["completed"])

    def api(request: Request) -> Answer:
        if request.method == "POST":
            return Answer(201, {"id": "job_1", "status": "pending"})
        if request.path == "/api/v2/jobs/job_1":
            status = left.pop(0) if len(left) > 1 else left[0]
            location = f"http://127.0.0.1:{server.port}/file?{SIGNED}"
            return Answer(200, {"status": status} | ({"location": location} if status == "completed" else {}))
        return file(request) if file else Answer(200, content)

    server.api = api
    return server


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    left = iter(answers)
    return lambda _: next(left)


async def exported(server: Server, time: FakeTime | None = None) -> list[ExportedUser]:
    async with client_of(server, time or FakeTime()) as client, asyncio.timeout(WAIT_SECONDS):
        return [user async for user in client.export.users(await client.export.create())]


async def failing(server: Server, kind: type[Auth0Error], match: str) -> None:
    with capture_logs() as logs, pytest.raises(kind, match=match) as error:
        await exported(server)
    assert SIGNED not in "".join(traceback.format_exception(error.value)) + str(logs)


TWO = line(1) + line(2)


@pytest.mark.parametrize(
    "content",
    [
        TWO,
        TWO[:-1],
        gzip.compress(TWO, mtime=0),
        gzip.compress(gzip.compress(TWO, mtime=0), mtime=0),
        gzip.compress(line(1), mtime=0) + gzip.compress(line(2), mtime=0),
        b"\n" + TWO + b"\n",
    ],
    ids=["plain", "no last newline", "zipped", "zipped twice", "two members", "empty lines"],
)
async def test_a_file_is_read_zipped_or_not(content: bytes) -> None:
    """The users of a file come one by one, whether and however it is zipped."""
    async with running(exporting(content)) as server:
        assert await exported(server) == [ExportedUser(f"auth0|{i}", None, MOMENT) for i in (1, 2)]
        created, looked, file = server.calls
        assert (created.method, created.path) == ("POST", "/api/v2/jobs/users-exports")
        assert json.loads(created.body) == {
            "format": "json",
            "fields": [{"name": "user_id"}, {"name": "created_at"}, {"name": "updated_at"}],
        }
        assert "authorization" in looked.headers
        assert file.target == f"/file?{SIGNED}"


async def test_our_token_stays_with_auth0() -> None:
    """The file is fetched without our token."""
    async with running(exporting(TWO)) as server:
        await exported(server)
        assert "authorization" not in server.calls[-1].headers
        assert "token-1" not in str(server.calls[-1])


async def test_an_empty_tenant() -> None:
    """A file without lines has no users."""
    async with running(exporting(b"")) as server:
        assert await exported(server) == []


async def test_one_connection() -> None:
    """A job may be of one connection, with other fields."""
    async with running(exporting(TWO)) as server, client_of(server, FakeTime()) as client:
        await client.export.create(["user_id"], connection_id="con_1")
        body = json.loads(server.calls[0].body)
        assert (body["connection_id"], body["fields"]) == ("con_1", [{"name": "user_id"}])


async def test_looks_grow_apart() -> None:
    """While the job is pending or worked on, the waits between two looks grow to a bound."""
    async with running(exporting(TWO, *["pending"] * 3, *["processing"] * 7, "completed")) as server:
        time = FakeTime()
        assert len(await exported(server, time)) == 2
        assert time.is_dormant[:3] == [1, 1.5, 2.25]
        assert time.is_dormant == sorted(time.is_dormant)
        assert time.is_dormant[-1] == 15


async def test_a_job_is_waited_for_a_while() -> None:
    """Whether a job is done can be asked with a bound; a job that is done is read without another."""
    async with running(exporting(TWO, *["pending"] * 4, "completed")) as server:
        async with client_of(server, time := FakeTime()) as client:
            job = await client.export.create()
            assert not await client.export.is_done(job, max_seconds=2)
            assert sum(time.is_dormant) == 2.5
            assert await client.export.is_done(job, max_seconds=60)
            assert len([user async for user in client.export.users(job)]) == 2
        assert [call.method for call in server.calls].count("POST") == 1


async def test_a_failed_job() -> None:
    """A job that failed at Auth0, and one that is never done, are errors of their own."""
    async with running(exporting(b"", "pending", "failed")) as server:
        await failing(server, Auth0Refused, "failed at Auth0")
    async with running(exporting(b"", "pending")) as server:
        await failing(server, Auth0Unreachable, "not done after 12. minutes")


async def test_an_address_that_ended_is_asked_for_again() -> None:
    """A refused address is replaced by a fresh one from the job, three times at the most."""
    for failure in (Answer(403, b"<Error>expired"), Answer(raw=b"no HTTP\r\n\r\n")):
        async with running(exporting(b"", file=in_turn(failure, Answer(200, TWO)))) as server:
            assert len(await exported(server)) == 2
            assert sum(call.path == "/api/v2/jobs/job_1" for call in server.calls) == 2
    async with running(exporting(b"", file=lambda _: Answer(403, SIGNED))) as server:
        await failing(server, Auth0Unreachable, "the exported file at .*: refused")
        assert sum(call.path == "/file" for call in server.calls) == 3
    async with running(exporting(b"", file=lambda _: Answer(raw=b"no HTTP\r\n\r\n"))) as server:
        await failing(server, Auth0Unreachable, "no answer")


@pytest.mark.parametrize(
    "location",
    [
        None,
        7,
        "",
        f"http://files.example/{SIGNED}",
        f"ftp://files.example/{SIGNED}",
        f"https://me:{SIGNED}@files.example/",
        f"https://[{SIGNED}",
        f"/file?{SIGNED}",
        f"https:///{SIGNED}",
    ],
)
async def test_an_address_that_must_not_be_asked(location: object) -> None:
    """Only https:// is asked, and http:// on this machine."""
    async with running() as server:
        server.script = [
            Answer(201, {"id": "job_1"}),
            Answer(200, {"status": "completed", "location": location}),
        ]
        await failing(server, MalformedAnswer, "no https:// address")


@pytest.mark.parametrize("answer", [{}, [], {"id": 7}])
async def test_a_job_without_an_id(answer: object) -> None:
    """A job that cannot be asked for is an error."""
    async with running() as server:
        server.script = [Answer(201, answer)]
        await failing(server, MalformedAnswer, "no id")


async def test_unreadable_lines_are_counted() -> None:
    """What cannot be read is counted in the log, and the rest is kept."""
    odd = b'7\n[]\n{"user_id":7}\n{"user_id":"a\\u0000"}\n{"user\n\xff\n' + b"[" * 100_000 + b"\n"
    async with running(exporting(line(1) + odd + line(2))) as server:
        with capture_logs() as logs:
            assert len(await exported(server)) == 2
        assert [log["malformed"] for log in logs if log["event"] == "export.lines_skipped"] == [7]


def broken_off(_: Request) -> Answer:
    return Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + TWO)


@pytest.mark.parametrize(
    ("file", "kind", "match"),
    [
        (TWO[:-9], MalformedAnswer, "cut off"),
        (gzip.compress(TWO, mtime=0)[:-9], MalformedAnswer, "cut off"),
        (gzip.compress(TWO, mtime=0)[:3], MalformedAnswer, "cut off"),
        (gzip.compress(TWO, mtime=0)[:20] + b"\xff" * 40, MalformedAnswer, "damaged|cut off"),
        (b"x" * (2**22 + 2**17), MalformedAnswer, "no end"),
        (broken_off, Auth0Unreachable, "broke off"),
    ],
    ids=[
        "cut off",
        "cut off in its last member",
        "cut off in its header",
        "damaged",
        "endless",
        "broken off",
    ],
)
async def test_a_file_that_is_not_whole(
    file: bytes | Callable[[Request], Answer], kind: type[Auth0Error], match: str
) -> None:
    """A file that is cut off or damaged is an error, never a smaller tenant."""
    server = exporting(file) if isinstance(file, bytes) else exporting(b"", file=file)
    async with running(server):
        await failing(server, kind, match)


async def test_a_large_file_costs_no_memory() -> None:
    """Many users are read in the memory of a few."""
    content = gzip.compress(b"".join(line(i) for i in range(100_000)))
    async with running(exporting(content)) as server, client_of(server, FakeTime()) as client:
        users = client.export.users(await client.export.create())
        await anext(users)
        tracemalloc.start()
        number = 1
        async for _ in users:
            number += 1
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert number == 100_000
    assert peak < 5 * 2**20  # of a file of 9 MB


async def test_an_export_that_is_a_bomb_takes_little_memory() -> None:
    """A file that unpacks to hundreds of megabytes is read in pieces, and given up where a line has no end."""
    bomb = gzip.compress(gzip.compress(bytes(256 << 20)))
    tracemalloc.start()
    try:
        async with running(exporting(bomb)) as server:
            with pytest.raises(MalformedAnswer, match="no end"):
                await exported(server)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
