"""A user's calls that take long leave places to others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest

from tests.support.proxied_api import PATH, Proxied, problem
from tests.support.synced_user import USER

UPLOADS = 25  # an eighth of what one process serves by default


@pytest.fixture
def proxy_limits() -> str:
    """Nothing ends a slow call within a test."""
    return "timeout = 600\n"


async def test_a_user_leaves_places_to_others(proxied: Proxied) -> None:
    """Slow uploads of one user are bounded, and end with their callers; another user's call goes on."""
    place = urlsplit(proxied.url)
    other = {"Authorization": f"Bearer {proxied.issuer.access_token('oauth2|other')}"}
    head = f"POST {PATH}/calendar/v3/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {proxied.issuer.access_token(USER)}\r\n"
    async with AsyncExitStack() as uploads:
        answers = []
        for _ in range(UPLOADS + 1):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            uploads.push_async_callback(writer.wait_closed)
            uploads.callback(writer.close)
            writer.write(f"{head}Content-Length: 9\r\n\r\nhalf".encode())
            answers.append(asyncio.ensure_future(reader.readline()))
        # One is refused, as soon as the others have taken their places.
        answered, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert [b"503" in await each for each in answered] == [True]
        refused = await proxied.call()
        assert problem(refused) == "temporarily-unavailable"
        assert refused.headers["retry-after"] == "1"
        assert problem(await proxied.call(headers=other)) == "not-connected"
    while await in_flight(proxied):
        pass
    assert (await proxied.call()).status_code == 200


async def in_flight(proxied: Proxied) -> int:
    """How many requests are under way beside this one."""
    shown = (await proxied.http.get(f"{proxied.url}/metrics")).text
    (line,) = [each for each in shown.splitlines() if each.startswith("token_vault_api_requests_in_flight ")]
    return int(float(line.split()[1])) - 1
