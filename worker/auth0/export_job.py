"""The export job: all users of a tenant in one file, for a handful of calls.

Source: Auth0, "Bulk User Exports"; Management API v2, "Create export users job", "Get a job".
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from worker.auth0.errors import Auth0Error, Auth0Refused, Auth0Unreachable, MalformedAnswer
from worker.auth0.field_types import parse_text, parse_time
from worker.auth0.http import stream
from worker.auth0.http.responses import Endpoint
from worker.auth0.http.retries import Sleep
from worker.loopback import is_loopback

EXPORTED_FIELDS = ("user_id", "created_at", "updated_at")

# Errors speak of it so: its address is signed, and opens the file for whoever has it.
FILE = Endpoint("GET the exported file", "the address that Auth0 named")

# Between two looks at the job, in seconds: a small tenant is done at once, a large one takes many minutes.
FIRST_POLL_SECONDS, MAX_POLL_SECONDS = 1.0, 15.0
MAX_JOB_SECONDS = 2 * 3600.0

# The address lives a minute; each look at the job gives a fresh one.
MAX_DOWNLOADS = 3

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


class ExportJobs:
    """Makes exports, and reads them.

    Args:
        create: asks for a job.
        look: gets a job by its id.
        download: gets the file of a job.
        endpoint: of ``look``, for errors.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        create: Callable[[Mapping[str, Any]], Awaitable[Any]],
        look: Callable[[str], Awaitable[Any]],
        download: Callable[[str], Awaitable[httpx.Response]],
        endpoint: Endpoint,
        sleep: Sleep,
    ) -> None:
        self._create, self._look, self._download = create, look, download
        self._endpoint, self._sleep = endpoint, sleep

    async def begin(
        self, fields: Sequence[str] = EXPORTED_FIELDS, *, connection_id: str | None = None
    ) -> str:
        """Ask for a job; returns its id, which is good for a day.

        Args:
            fields: the fields to export, ``user_id`` among them.
            connection_id: only the users of this connection, by its id.

        Raises:
            MalformedAnswer: the job has no id.
        """
        wanted: dict[str, Any] = {"format": "json", "fields": [{"name": name} for name in fields]}
        job = await self._create(wanted | ({"connection_id": connection_id} if connection_id else {}))
        name = parse_text(job.get("id")) if isinstance(job, dict) else None
        if not name:
            raise MalformedAnswer(f"{self._endpoint}: the new job has no id", status=200)
        return name

    async def is_done(self, job: str, *, patience: float) -> bool:
        """Wait for a job for so many seconds; returns whether it is done.

        Raises:
            Auth0NotFound: Auth0 does not know the job (any more).
            Auth0Refused: it failed.
            MalformedAnswer: it does not read as documented.
        """
        return await self._location(job, patience) is not None

    async def users(self, job: str) -> AsyncGenerator[ExportedUser, None]:
        """Wait for a job, and yield what its file holds; unreadable lines are counted.

        Raises:
            Auth0NotFound: Auth0 does not know the job (any more).
            Auth0Refused: it failed.
            Auth0Unreachable: it takes for ever, or the file cannot be got or broke off.
            MalformedAnswer: the job or the file does not read as documented.
        """
        malformed = 0
        async with aclosing(await self._file(job)) as response:
            raw = stream.read_chunks(response, FILE)
            # Zipped as a file, or by the server on the way, or both.
            plain = stream.unzip(stream.unzip(raw, FILE), FILE)
            async with aclosing(raw), aclosing(plain), aclosing(stream.split_lines(plain, FILE)) as lines:
                async for line in lines:
                    if user := _read(line):
                        yield user
                    elif line.strip():
                        malformed += 1
        if malformed:
            _log.warning("auth0.export_malformed", domain=self._endpoint.host, malformed=malformed)

    async def _file(self, job: str) -> httpx.Response:
        for _ in range(MAX_DOWNLOADS):
            location = await self._location(job, MAX_JOB_SECONDS)
            problem: Auth0Error
            if location is None:
                raise Auth0Unreachable(
                    f"{self._endpoint}: the export is not done after {MAX_JOB_SECONDS / 60:.0f} minutes"
                )
            try:
                response = await self._download(location)
            except Auth0Unreachable as error:
                problem = error
                continue
            if response.status_code == 200:
                return response
            problem = Auth0Unreachable(f"{FILE}: refused", status=response.status_code)
        raise problem

    async def _location(self, job: str, patience: float) -> str | None:
        """Look at a job until it names its file; None when the patience is at its end."""
        waited, wait = 0.0, FIRST_POLL_SECONDS
        while True:
            seen = await self._look(job)
            status = seen.get("status") if isinstance(seen, dict) else None
            if status == "completed":
                return _checked(seen.get("location"), self._endpoint)
            if status == "failed":
                raise Auth0Refused(
                    f"{self._endpoint}: the export failed at Auth0; its job says why", status=200
                )
            if not isinstance(status, str):
                raise MalformedAnswer(f"{self._endpoint}: the job has no status", status=200)
            if waited >= patience:
                return None
            await self._sleep(wait)
            waited, wait = waited + wait, min(MAX_POLL_SECONDS, wait * 1.5)


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
    user_id = parse_text(raw.get("user_id")) if isinstance(raw, dict) else None
    if not user_id:
        return None
    return ExportedUser(user_id, parse_time(raw.get("updated_at")), parse_time(raw.get("created_at")))
