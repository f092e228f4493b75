"""The export job: all users of a tenant in one file, for a handful of calls.

Source: Auth0, "Bulk User Exports"; Management API v2, "Create export users job", "Get a job".
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from worker.auth0 import streaming
from worker.auth0.answers import Endpoint
from worker.auth0.credentials import is_loopback
from worker.auth0.models import moment, text
from worker.auth0.pace import Sleep
from worker.errors import Auth0Error, Auth0Refused, Auth0Unreachable, MalformedAnswer

FIELDS = ("user_id", "created_at", "updated_at")

# Errors speak of it so: its address is signed, and opens the file for whoever has it.
FILE = Endpoint("GET the exported file", "the address that Auth0 named")

# Between two looks at the job, in seconds: a small tenant is done at once, a large one takes many minutes.
FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0
PATIENCE = 2 * 3600.0

# The address lives a minute; each look at the job gives a fresh one.
DOWNLOADS = 3

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExportedUser:
    """A user as the export shows it: without identities and tokens.

    Attributes:
        user_id: Auth0's id.
        updated_at: last change of the profile (UTC); None where absent or unreadable.
        created_at: when the user came to be (UTC); None where absent or unreadable.
    """

    user_id: str
    updated_at: datetime | None
    created_at: datetime | None


def job_of(fields: Sequence[str], connection_id: str | None) -> dict[str, Any]:
    """Return the body of the request for a job."""
    job: dict[str, Any] = {"format": "json", "fields": [{"name": name} for name in fields]}
    return job | ({"connection_id": connection_id} if connection_id else {})


async def run(
    create: Callable[[], Awaitable[Any]],
    look: Callable[[str], Awaitable[Any]],
    download: Callable[[str], Awaitable[httpx.Response]],
    endpoint: Endpoint,
    sleep: Sleep,
) -> AsyncGenerator[ExportedUser, None]:
    """Create a job, wait until it is done, and yield what its file holds; unreadable lines are counted.

    Raises:
        Auth0Refused: the job failed.
        Auth0Unreachable: it takes for ever, or the file cannot be got or broke off.
        MalformedAnswer: the job or the file does not read as documented.
    """
    job = await create()
    name = text(job.get("id")) if isinstance(job, dict) else None
    if not name:
        raise MalformedAnswer(f"{endpoint}: the new job has no id", status=200)
    malformed = 0
    async with aclosing(await _file(name, look, download, endpoint, sleep)) as response:
        raw = streaming.pieces(response, FILE)
        # Zipped as a file, or by the server on the way, or both.
        plain = streaming.unzipped(streaming.unzipped(raw, FILE), FILE)
        async with aclosing(raw), aclosing(plain), aclosing(streaming.lines(plain, FILE)) as lines:
            async for line in lines:
                if user := _read(line):
                    yield user
                elif line.strip():
                    malformed += 1
    if malformed:
        _log.warning("auth0.export_malformed", domain=endpoint.host, malformed=malformed)


async def _file(
    job: str,
    look: Callable[[str], Awaitable[Any]],
    download: Callable[[str], Awaitable[httpx.Response]],
    endpoint: Endpoint,
    sleep: Sleep,
) -> httpx.Response:
    for _ in range(DOWNLOADS):
        location = await _location(job, look, endpoint, sleep)
        problem: Auth0Error
        try:
            response = await download(location)
        except Auth0Unreachable as error:
            problem = error
            continue
        if response.status_code == 200:
            return response
        problem = Auth0Unreachable(f"{FILE}: refused", status=response.status_code)
    raise problem


async def _location(job: str, look: Callable[[str], Awaitable[Any]], endpoint: Endpoint, sleep: Sleep) -> str:
    waited, wait = 0.0, FIRST_WAIT
    while waited < PATIENCE:
        seen = await look(job)
        status = seen.get("status") if isinstance(seen, dict) else None
        if status == "completed":
            return _checked(seen.get("location"), endpoint)
        if status == "failed":
            raise Auth0Refused(f"{endpoint}: the export failed at Auth0; its job says why", status=200)
        if not isinstance(status, str):
            raise MalformedAnswer(f"{endpoint}: the job has no status", status=200)
        await sleep(wait)
        waited, wait = waited + wait, min(LONGEST_WAIT, wait * 1.5)
    raise Auth0Unreachable(f"{endpoint}: the export is not done after {waited / 60:.0f} minutes")


def _checked(location: object, endpoint: Endpoint) -> str:
    """Return an address that may be asked: encrypted, or on this machine."""
    try:
        parts = urlsplit(location if isinstance(location, str) else "")
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    sound = host and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
    if not sound or "@" in parts.netloc:
        raise MalformedAnswer(f"{endpoint}: the job names no https:// address of its file", status=200)
    return parts.geturl()


def _read(line: bytes) -> ExportedUser | None:
    """Read one line; None where it cannot be read.

    Raises:
        MalformedAnswer: the file ends in the middle of it.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raw = None
    if raw is None and line.strip() and not line.endswith(b"\n"):
        raise MalformedAnswer(f"{FILE}: the file is cut off", status=200)
    user_id = text(raw.get("user_id")) if isinstance(raw, dict) else None
    if not user_id:
        return None
    return ExportedUser(user_id, moment(raw.get("updated_at")), moment(raw.get("created_at")))
