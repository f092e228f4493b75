"""Export jobs: all users of a tenant, ids and times alone, for the price of a few calls.

Source: Auth0 Management API v2, "Create export users job", "Get a job": newline-delimited JSON, compressed, at an
address that lives for a minute.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import structlog

from worker.auth0.answers import Endpoint
from worker.auth0.models import moment
from worker.errors import Auth0Error, MalformedAnswer

JOB = {"format": "json", "fields": [{"name": name} for name in ("user_id", "created_at", "updated_at")]}
# An export of millions of users takes minutes; after two hours it is given up.
FIRST_WAIT, LONGEST_WAIT, PATIENCE = 1.0, 30.0, 7200.0
MAX_LINE = 1 << 20

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExportedUser:
    """A user as an export shows one: without identities and tokens."""

    user_id: str
    created_at: datetime | None
    updated_at: datetime | None


def waits() -> Iterator[float]:
    """Yield how long to wait before each further look, in seconds."""
    wait, waited = FIRST_WAIT, 0.0
    while waited < PATIENCE:
        yield wait
        waited, wait = waited + wait, min(wait * 1.5, LONGEST_WAIT)


def job_id(job: Any, endpoint: Endpoint) -> str:
    """Return the id of a job that was begun.

    Raises:
        MalformedAnswer: it has none.
    """
    found = job.get("id") if isinstance(job, dict) else None
    if not isinstance(found, str) or not found:
        raise MalformedAnswer(f"{endpoint}: the answer names no job", status=200)
    return found


def location(job: Any, endpoint: Endpoint) -> str | None:
    """Return where the result is, None while the job runs.

    Raises:
        Auth0Error: the job failed.
        MalformedAnswer: it is done and says not where its result is.
    """
    status = job.get("status") if isinstance(job, dict) else None
    if status in ("pending", "processing"):
        return None
    if status == "failed":
        raise Auth0Error(f"{endpoint}: the export job failed")
    found = job.get("location") if isinstance(job, dict) else None
    if status != "completed" or not isinstance(found, str):
        raise MalformedAnswer(f"{endpoint}: the job's state does not read", status=200)
    return found


def checked(url: str, loopback: bool, endpoint: Endpoint) -> str:
    """Return the address of a result, which is on another host than the tenant's and gets no token.

    Raises:
        MalformedAnswer: it is not https, and not on this machine beside an emulated tenant.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if loopback and parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
        return url
    raise MalformedAnswer(f"{endpoint}: the result's address is not https", status=200)


async def read_export(chunks: AsyncIterator[bytes], endpoint: Endpoint) -> AsyncIterator[ExportedUser]:
    """Yield the users of a result, compressed or not, line by line; lines that do not read are left out.

    Raises:
        MalformedAnswer: it is cut off, or damaged.
    """
    malformed = 0
    async for line in _lines(chunks, endpoint):
        user = _user(line)
        if user is None:
            malformed += 1
        else:
            yield user
    if malformed:
        _log.warning("auth0.export_malformed", domain=endpoint.host, lines=malformed)


async def _lines(chunks: AsyncIterator[bytes], endpoint: Endpoint) -> AsyncIterator[bytes]:
    rest, inflating, first = b"", None, True
    async for chunk in chunks:
        if first and chunk:
            first = False
            # Whether the transport says so or not: a gzip file begins with these bytes, a line of JSON does not.
            inflating = zlib.decompressobj(zlib.MAX_WBITS | 16) if chunk.startswith(b"\x1f\x8b") else None
        *whole, rest = (rest + _inflated(inflating, chunk, endpoint)).split(b"\n")
        if len(rest) > MAX_LINE:
            raise MalformedAnswer(f"{endpoint}: a line of the export has no end", status=200)
        for line in whole:
            if line.strip():
                yield line
    if inflating is not None and not inflating.eof:
        raise MalformedAnswer(f"{endpoint}: the export is cut off", status=200)
    if rest.strip():
        yield rest


def _inflated(inflating: Any, chunk: bytes, endpoint: Endpoint) -> bytes:
    if inflating is None:
        return chunk
    try:
        plain: bytes = inflating.decompress(chunk)
    except zlib.error:
        raise MalformedAnswer(f"{endpoint}: the export is damaged", status=200) from None
    return plain


def _user(line: bytes) -> ExportedUser | None:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    user_id = raw.get("user_id") if isinstance(raw, dict) else None
    if not isinstance(user_id, str) or not user_id:
        return None
    return ExportedUser(user_id, moment(raw.get("created_at")), moment(raw.get("updated_at")))
