"""When a call is made again, and how long it waits."""

import asyncio
import gzip
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.auth0_server import Answer, FakeTime, Request, client_of, running
from tests.support.wait import WAIT_SECONDS
from token_vault.secret import Secret
from worker.auth0 import Credentials, ManagementClient, MemoryTokenStore, RetryPolicy, Timeouts
from worker.auth0.errors import Auth0RateLimited, Auth0Unreachable
from worker.auth0.http import calls
from worker.auth0.http.retries import MAX_ANNOUNCED_SECONDS, Retrier, read_retry_after

OK = Answer(200, {"user_id": "auth0|1"})
NO_JITTER = RetryPolicy(base_seconds=0)


def limited(**headers: str) -> Answer:
    return Answer(429, {"statusCode": 429}, {k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_failures_that_may_pass_are_tried_again(status: int) -> None:
    """A 5xx is tried again after a jittered wait that grows, up to five attempts."""
    async with running() as server:
        time = FakeTime()
        server.api = lambda _: Answer(status, b"")
        async with client_of(server, time) as client:
            with pytest.raises(Auth0Unreachable) as failed:
                await client.user("auth0|1")
        assert failed.value.status == status
        assert len(server.calls) == 5
        assert all(wait < bound for wait, bound in zip(time.is_dormant, (0.5, 1, 2, 4), strict=True))


async def test_a_failure_that_passed_is_forgotten() -> None:
    """A call that succeeds after a 503 and a 429 gives its answer."""
    async with running() as server:
        server.script = [Answer(503), limited(), OK]
        async with client_of(server, FakeTime()) as client:
            assert (await client.user("auth0|1")).user_id == "auth0|1"


@pytest.mark.parametrize("status", [400, 403, 404, 409, 414, 501])
async def test_other_failures_are_final(status: int) -> None:
    """What waiting does not fix is not tried again."""
    async with running() as server:
        time = FakeTime()
        server.api = lambda _: Answer(status, {"statusCode": status})
        async with client_of(server, time) as client:
            with pytest.raises(Exception, match=r"127\.0\.0\.1"):
                await client.user("auth0|1")
        assert len(server.calls) == 1
        assert not time.is_dormant


async def test_a_refused_connection_is_retried_and_explained() -> None:
    """Where nobody listens, the error says so after the retries."""
    with socket.socket() as bound:  # bound, but not listening
        bound.bind(("127.0.0.1", 0))
        time = FakeTime()
        who = Credentials(f"http://127.0.0.1:{bound.getsockname()[1]}", "id", Secret("s"))
        client = ManagementClient(who, MemoryTokenStore(), clock=time, sleep=time.sleep)
        async with client:
            with pytest.raises(
                Auth0Unreachable, match=r"no answer \((Connection refused|Connect call failed)"
            ):
                await client.scopes()
    assert len(time.is_dormant) == 4


@pytest.mark.parametrize(
    ("timeouts", "problem"), [(Timeouts(read=0.05), "ReadTimeout"), (Timeouts(total=0.05), "TimeoutError")]
)
async def test_silence_ends_in_a_time_out(timeouts: Timeouts, problem: str) -> None:
    """An answer that does not come in time is a failure like any other."""
    async with running() as server:
        silence = asyncio.Event()

        async def hang(_: Request) -> Answer:
            await silence.wait()
            return OK

        server.api = hang
        async with client_of(
            server, FakeTime(), timeouts=timeouts, retries=RetryPolicy(max_attempts=2)
        ) as client:
            with pytest.raises(Auth0Unreachable, match=problem):
                await client.user("auth0|1")
        assert len(server.calls) == 2


async def test_a_slow_connection_is_tried_again() -> None:
    """A connect time-out, which the loopback does not give, is retried as well."""
    tries = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        raise httpx.ConnectTimeout("slow")

    time = FakeTime()
    client = ManagementClient(
        Credentials("tenant.eu.auth0.com", "id", Secret("s")),
        MemoryTokenStore(),
        transport=httpx.MockTransport(answer),
        clock=time,
        sleep=time.sleep,
    )
    async with client:
        with pytest.raises(Auth0Unreachable, match="ConnectTimeout"):
            await client.scopes()
    assert len(tries) == 5


NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
IN_TEN = NOW + timedelta(seconds=10)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": format_datetime(IN_TEN, usegmt=True)}, 10),
        ({"Retry-After": format_datetime(NOW - timedelta(hours=1), usegmt=True)}, 0),
        ({"Retry-After": "7", "X-RateLimit-Reset": str(IN_TEN.timestamp())}, 7),
        ({"X-RateLimit-Reset": str(int(IN_TEN.timestamp()))}, 10),
        ({"X-RateLimit-Reset": "1"}, 0),
        ({"Retry-After": "soon", "X-RateLimit-Reset": str(int(IN_TEN.timestamp()))}, 10),
        ({"X-RateLimit-Reset": str(int(IN_TEN.timestamp() * 1000))}, None),
        ({"Retry-After": str(int(MAX_ANNOUNCED_SECONDS) + 1)}, None),
        ({}, None),
    ],
)
def test_the_announced_wait(headers: dict[str, str], wait: float | None) -> None:
    """``Retry-After`` counts first, in seconds or as a date, then the reset; a misread unit counts as nothing."""
    assert read_retry_after(httpx.Headers(headers), NOW) == wait


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_header_is_a_wait_or_none(after: str, reset: str) -> None:
    """No header value raises, or announces a negative or endless wait."""
    headers = httpx.Headers({b"Retry-After": after.encode(), b"X-RateLimit-Reset": reset.encode()})
    wait = read_retry_after(headers, NOW)
    assert wait is None or 0 <= wait <= MAX_ANNOUNCED_SECONDS


async def test_a_429_waits_as_announced() -> None:
    """The call comes back when Auth0 said, not before."""
    async with running() as server:
        time = FakeTime()
        server.script = [limited(Retry_After="7"), OK]
        async with client_of(server, time, retries=NO_JITTER) as client:
            await client.user("auth0|1")
        assert time.is_dormant == [7]


async def test_many_short_waits_do_not_exhaust_the_attempts() -> None:
    """A 429 costs patience, not attempts: the tenant's budget is shared with many."""
    async with running() as server:
        time = FakeTime()
        server.script = [limited(Retry_After="5") for _ in range(12)] + [OK]
        async with client_of(server, time, retries=NO_JITTER) as client:
            await client.user("auth0|1")
        assert sum(time.is_dormant) == 60


@pytest.mark.parametrize("header", [{"Retry_After": "5"}, {"Retry_After": "0"}, {}])
async def test_patience_ends_after_a_minute(header: dict[str, str]) -> None:
    """Waits of one call add up to a minute at most; then the error says how long to stay away."""
    async with running() as server:
        time = FakeTime()
        server.api = lambda _: limited(**header)
        async with client_of(server, time) as client:
            with pytest.raises(Auth0RateLimited) as over:
                await client.user("auth0|1")
        assert sum(time.is_dormant) <= 60
        assert over.value.retry_after > 0
        assert len(server.calls) < 60


async def test_a_long_wait_is_not_begun_and_spares_auth0() -> None:
    """An announced hour is reported at once, and until it is over no call is made."""
    async with running() as server:
        time = FakeTime()
        start = time.now
        server.script = [limited(Retry_After="3600"), OK]
        async with client_of(server, time) as client:
            for age, left in ((0, 3600), (600, 3000)):
                time.now = start + timedelta(seconds=age)
                with pytest.raises(Auth0RateLimited) as over:
                    await client.user("auth0|1")
                assert over.value.retry_after == left
            assert len(server.calls) == 1
            time.now = start + timedelta(seconds=3600)
            await client.user("auth0|1")
        assert not time.is_dormant


async def test_one_pause_for_all_calls() -> None:
    """A 429 to one call holds all others of the client back, which do not earn one each."""
    async with running() as server:
        time = FakeTime()
        asked_at: list[datetime] = []

        def api(_: Request) -> Answer:
            asked_at.append(time.now)
            return OK

        server.api = api
        async with client_of(server, time, retries=NO_JITTER) as client, asyncio.timeout(WAIT_SECONDS):
            server.script = [limited(Retry_After="9")]
            time.passes.clear()
            calls = [asyncio.create_task(client.user("auth0|1"))]
            await time.asleep.get()
            calls += [asyncio.create_task(client.user("auth0|1")) for _ in range(8)]
            for _ in calls[1:]:
                assert await time.asleep.get() == 9
            time.passes.set()
            await asyncio.gather(*calls)
        assert asked_at == [NOW + timedelta(seconds=9)] * 9
        assert len(server.calls) == 10


async def test_a_pause_that_grows_holds_the_waiting_longer() -> None:
    """Who waits while another 429 prolongs the pause waits for the rest as well."""
    pace = Retrier(NO_JITTER, time := FakeTime(), time.sleep)
    pace.record_rate_limit("here", httpx.Response(429, headers={"Retry-After": "5"}), 1, None)
    time.passes.clear()
    waiting = asyncio.create_task(pace.wait_for_pause("here"))
    await time.asleep.get()
    pace.record_rate_limit("here", httpx.Response(429, headers={"Retry-After": "20"}), 1, None)
    time.passes.set()
    await waiting
    assert time.is_dormant == [5, 15]


async def test_a_pause_is_never_shortened() -> None:
    """A 429 that announces less does not cut the pause that another has begun."""
    pace = Retrier(NO_JITTER, time := FakeTime(), time.sleep)
    for wait in ("20", "1"):
        pace.record_rate_limit("here", httpx.Response(429, headers={"Retry-After": wait}), 1, None)
    await pace.wait_for_pause("here")
    assert time.is_dormant == [20]


async def test_an_answer_beyond_measure_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than any answer of Auth0's, or packed so that it is, is not read on; packed once it is read."""
    monkeypatch.setattr(calls, "MAX_ANSWER_BYTES", 1000)
    user = json.dumps({"user_id": "auth0|1"}).encode()
    for body, headers in (
        (b"x" * 1001, {}),
        (gzip.compress(bytes(2000)), {"Content-Encoding": "gzip"}),
        (gzip.compress(gzip.compress(user)), {"Content-Encoding": "gzip, gzip"}),
    ):
        async with running() as server:
            server.api = lambda _, body=body, headers=headers: Answer(200, body, headers)  # type: ignore[misc]
            async with client_of(server, FakeTime(), retries=NO_JITTER) as client:
                with pytest.raises(Auth0Unreachable, match="DecodingError"):
                    await client.user("auth0|1")
    async with running() as server:
        server.api = lambda _: Answer(200, gzip.compress(user), {"Content-Encoding": "gzip"})
        async with client_of(server, FakeTime()) as client:
            assert (await client.user("auth0|1")).user_id == "auth0|1"
