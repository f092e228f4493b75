"""Makes HTTP clients without state, and reads their answers."""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from worker import __version__
from worker.http_transport import HttpTransport

DEFAULT_HEADERS: Mapping[str, str] = {
    "User-Agent": f"idp-token-vault/{__version__}",
    "Accept-Encoding": "identity",
}


def make_http_client(
    *,
    timeout: httpx.Timeout,
    headers: Mapping[str, str] | None = None,
    base_url: str = "",
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Make a client without cookies, redirects or ``.netrc``.

    Args:
        timeout: what httpx enforces.
        headers: of every request, besides the user agent.
        base_url: what paths are relative to.
        transport: sends the requests; by default an ``HttpTransport``.
    """
    return httpx.AsyncClient(
        transport=transport or HttpTransport(),
        base_url=base_url,
        timeout=timeout,
        headers={**DEFAULT_HEADERS, **(headers or {})},
        # What is set in answer to one call must not go out with the next, which may be another user's.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


def without_frames(error: Exception) -> Exception:
    """Return an error with its place, without its frames.

    Those of HTTP clients hold the request with its credentials and the answer with its tokens, and error reporters send
    the variables of each.
    """
    if frames := traceback.extract_tb(error.__traceback__):
        error.add_note(f"raised at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}")
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Read a streamed body as it was sent, within bounds.

    httpx itself unpacks whatever comes, as often as it is told: kilobytes become gigabytes.

    Raises:
        httpx.DecodingError: it is longer, packed in an unknown way, or damaged.
        httpx.TransportError: it broke off.
    """
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise httpx.DecodingError("the body is too long", request=response.request)
    unpacked = unpack(bytes(body), response.headers.get("content-encoding", ""), max_bytes)
    if unpacked is None:
        raise httpx.DecodingError("the body is packed in no known way", request=response.request)
    if len(unpacked) > max_bytes:
        raise httpx.DecodingError("the body is too long", request=response.request)
    return unpacked


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Unpack one layer of a body that was packed unasked.

    Returns:
        At most a byte more than ``max_bytes``; None where it does not unpack, or several layers are named.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    unpacking = zlib.decompressobj(wbits=47 if "gzip" in encoding else 15)
    try:
        return unpacking.decompress(body, max_bytes + 1)
    except zlib.error:
        return None
