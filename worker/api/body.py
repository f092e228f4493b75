"""Reads bodies of bounded size, in bounded time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from worker.api.problems import ApiProblem

MAX_BODY_SECONDS = 10.0


async def read_body(request: Request, most: int) -> bytes:
    """Read a request's body.

    Args:
        most: bytes that it may have.

    Raises:
        ApiProblem: ``too-large``, or ``bad-request`` where it is slow.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise ApiProblem("too-large", f"the body has more than {most} bytes")
    except TimeoutError:
        raise ApiProblem("bad-request", "the body did not come in time") from None
    return bytes(body)
