"""Reads bodies of bounded size, in bounded time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from worker.api.problems import ApiProblem, slow_request

# For the whole body, even if it keeps arriving.
MAX_BODY_SECONDS = 10.0


async def read_body(request: Request, most: int) -> bytes:
    """Read a request's body.

    Args:
        most: how many bytes it may have.

    Raises:
        ApiProblem: ``too-large``, ``request-timeout``, or ``bad-request`` if it breaks off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise ApiProblem("too-large", f"the body has more than {most} bytes")
    except TimeoutError:
        raise slow_request(f"the body did not come within {MAX_BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise ApiProblem("bad-request", "the body broke off") from None
    return bytes(body)
