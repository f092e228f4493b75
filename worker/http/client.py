"""HTTP clients without state, and reading of their answers."""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from worker import __version__
from worker.http.transport import HttpTransport

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
        timeout: of each request.
        headers: of every request, besides the user agent.
        base_url: what paths are relative to.
        transport: sends the requests; by default an ``HttpTransport``.
    """
    return httpx.AsyncClient(
        transport=transport or HttpTransport(),
        base_url=base_url,
        timeout=timeout,
        headers={**DEFAULT_HEADERS, **(headers or {})},
        # A cookie from one answer must not be sent with the next request, which may be another user's.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


def without_frames(error: Exception) -> Exception:
    """Return an error without its frames, noting its place.

    The frames of HTTP clients hold requests with credentials and answers with tokens, and error reporters send the
    variables of each frame.
    """
    if frames := traceback.extract_tb(error.__traceback__):
        error.add_note(f"raised at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}")
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Read and unpack a streamed body, within a limit.

    httpx itself would unpack any number of layers, and turn kilobytes into gigabytes.

    Raises:
        httpx.DecodingError: the body is longer, packed in an unknown way, or damaged.
        httpx.TransportError: the connection broke.
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
    """Unpack one layer of a body, though unasked.

    Returns:
        At most one byte more than ``max_bytes``; None if it cannot be unpacked, or has several layers.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    # Some servers send "deflate" without zlib's header (RFC 9110 §8.4.1.2).
    for wbits in (47,) if "gzip" in encoding else (15, -15):
        try:
            return zlib.decompressobj(wbits=wbits).decompress(body, max_bytes + 1)
        except zlib.error:
            continue
    return None
