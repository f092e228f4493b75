"""Export jobs: all users in one file, for few calls.

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
from worker.http.loopback import is_https

EXPORTED_FIELDS = ("user_id", "created_at", "updated_at")

# Errors do not quote the file's address: it is signed, and anybody who has it can read the file.
FILE = Endpoint("GET the exported file", "the address that Auth0 named")

# Between two polls of the job: a small tenant's is done at once, a large one's takes many minutes.
FIRST_POLL_SECONDS, MAX_POLL_SECONDS = 1.0, 15.0
MAX_JOB_SECONDS = 2 * 3600.0

# The file's address is valid for a minute; each poll of the job returns a new one.
MAX_DOWNLOADS = 3

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExportedUser:
    """A user of an export, without identities and tokens.

    Attributes:
        user_id: Auth0's id.
        updated_at: last change of the profile (UTC); None if absent or unreadable.
        created_at: when the user was created (UTC); None if absent or unreadable.
    """

    user_id: str
    updated_at: datetime | None
    created_at: datetime | None


class ExportJobs:
    """Creates export jobs, and reads their files.

    Args:
        create: creates a job.
        get: gets a job by its id.
        download: gets the file of a job.
        endpoint: of ``get``, for errors.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        create: Callable[[Mapping[str, Any]], Awaitable[Any]],
        get: Callable[[str], Awaitable[Any]],
        download: Callable[[str], Awaitable[httpx.Response]],
        endpoint: Endpoint,
        sleep: Sleep,
    ) -> None:
        self._create, self._get, self._download = create, get, download
        self._endpoint, self._sleep = endpoint, sleep

    async def create(
        self, fields: Sequence[str] = EXPORTED_FIELDS, *, connection_id: str | None = None
    ) -> str:
        """Create a job and return its id (valid for a day).

        Args:
            fields: the fields to export, including ``user_id``.
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

    async def is_done(self, job: str, *, max_seconds: float) -> bool:
        """Wait for a job; return whether it has ended.

        Args:
            max_seconds: how long to wait.

        Raises:
            Auth0NotFound: Auth0 does not have the job (any more).
            Auth0Refused: it failed.
            MalformedAnswer: it is not as documented.
        """
        return await self._wait_for_file(job, max_seconds) is not None

    async def users(self, job: str) -> AsyncGenerator[ExportedUser, None]:
        """Wait for a job, and yield its file's users.

        Unreadable lines are counted and logged.

        Raises:
            Auth0NotFound: Auth0 does not have the job (any more).
            Auth0Refused: it failed.
            Auth0Unreachable: it takes too long, or the file cannot be downloaded completely.
            MalformedAnswer: the job or the file is not as documented.
        """
        malformed = 0
        async with aclosing(await self._open_file(job)) as response:
            raw = stream.read_chunks(response, FILE)
            # The file may be compressed, the transfer may be, or both.
            plain = stream.unzip(stream.unzip(raw, FILE), FILE)
            async with aclosing(raw), aclosing(plain), aclosing(stream.split_lines(plain, FILE)) as lines:
                async for line in lines:
                    if user := _read_line(line):
                        yield user
                    elif line.strip():
                        malformed += 1
        if malformed:
            log.warning("export.lines_skipped", domain=self._endpoint.host, malformed=malformed)

    async def _open_file(self, job: str) -> httpx.Response:
        for _ in range(MAX_DOWNLOADS):
            location = await self._wait_for_file(job, MAX_JOB_SECONDS)
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

    async def _wait_for_file(self, job: str, max_seconds: float) -> str | None:
        """Poll a job until it names its file."""
        waited, wait = 0.0, FIRST_POLL_SECONDS
        while True:
            job_state = await self._get(job)
            status = job_state.get("status") if isinstance(job_state, dict) else None
            if status == "completed":
                return _check_address(job_state.get("location"), self._endpoint)
            if status == "failed":
                raise Auth0Refused(
                    f"{self._endpoint}: the export failed at Auth0; its job says why", status=200
                )
            if not isinstance(status, str):
                raise MalformedAnswer(f"{self._endpoint}: the job has no status", status=200)
            if waited >= max_seconds:
                return None
            await self._sleep(wait)
            waited, wait = waited + wait, min(MAX_POLL_SECONDS, wait * 1.5)


def _check_address(location: object, endpoint: Endpoint) -> str:
    """Check that an address is https, or on this machine."""
    try:
        parts = urlsplit(location if isinstance(location, str) else "")
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or not is_https(parts) or "@" in parts.netloc:
        raise MalformedAnswer(f"{endpoint}: the job names no https:// address of its file", status=200)
    return parts.geturl()


def _read_line(line: bytes) -> ExportedUser | None:
    """Parse one line; None if it is malformed.

    Raises:
        MalformedAnswer: the file ends in the middle of the line.
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
