"""The users export job.

It writes all users as they are now to a file, which can be downloaded for a minute.
"""

import gzip
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from emulators.auth0.errors import ApiError
from emulators.auth0.events import TOKENS
from emulators.auth0.settings import DAY, Settings
from emulators.clock import Clock, iso

Json = dict[str, Any]
DEFAULT_FIELDS = ("user_id", "email", "name", "created_at", "updated_at", "last_login", "identities")
LINK_LIFE = 60.0  # seconds
KEPT = DAY
ALLOWED = {"connection_id", "format", "limit", "fields"}


@dataclass(slots=True)
class Job:
    """One export."""

    shown: Json
    begun: float
    users: list[Json]
    fields: list[tuple[str, str]]  # what to take, what to call it
    links: dict[str, float] = field(default_factory=dict)  # secret part of the location -> its end


class Jobs:
    """The tenant's export jobs."""

    def __init__(self, clock: Clock, settings: Settings, base_url: str) -> None:
        self._clock = clock
        self._settings = settings
        self._base_url = base_url
        self.clear()

    def clear(self) -> None:
        """Forget every job."""
        self._jobs: dict[str, Job] = {}

    def create(self, body: bytes, users: list[Json], connections: dict[str, Json]) -> Json:
        """Take an order for an export of `users`. Raises ApiError."""
        order = _order(body)
        names = {each["id"]: each["name"] for each in connections.values()}
        connection = order.get("connection_id")
        if connection is not None and connection not in names:
            raise ApiError(404, "The connection does not exist", "inexistent_connection")
        shown: Json = {**order, "type": "users_export", "status": "pending"}
        shown |= {"created_at": iso(self._clock.now()), "id": f"job_{secrets.token_hex(8)}"}
        if connection is not None:
            shown["connection"] = names[connection]
            users = [user for user in users if names[connection] in _connections(user)]
        wanted = order.get("fields") or [{"name": name} for name in DEFAULT_FIELDS]
        fields = [(each["name"], each.get("export_as", each["name"])) for each in wanted]
        self._jobs[shown["id"]] = Job(shown, self._clock.now(), users[: order.get("limit")], fields)
        return shown

    def job(self, job_id: str) -> Json:
        """Say how far a job is. Raises ApiError."""
        job, now = self._jobs.get(job_id), self._clock.now()
        if job is None or now - job.begun > KEPT:
            raise ApiError(404, "The job does not exist.", "inexistent_job")
        whole = self._settings.export_time
        part = 1.0 if whole <= 0 else (now - job.begun) / whole
        if part < 0.5:
            return job.shown
        if part < 1:
            left = {"percentage_done": int(part * 100), "time_left_seconds": round(whole * (1 - part))}
            return {**job.shown, "status": "processing", **left}
        if self._settings.export_fails:
            return {**job.shown, "status": "failed", "status_details": "The export could not be written."}
        link = secrets.token_hex(16)
        job.links[link] = now + LINK_LIFE
        location = (
            f"{self._base_url}/exports/{job_id}/emulated.json.gz?X-Amz-Expires=60&X-Amz-Signature={link}"
        )
        return {**job.shown, "status": "completed", "percentage_done": 100, "location": location}

    def download(self, request: Request) -> Response:
        """Answer the location as the object store does."""
        if "authorization" in request.headers:
            return _refused(400, "InvalidArgument", "Only one auth mechanism allowed.")
        job = self._jobs.get(request.path_params["id"])
        ends = 0.0 if job is None else job.links.get(request.query_params.get("X-Amz-Signature", ""), 0.0)
        if job is None or self._clock.now() >= ends:
            return _refused(403, "AccessDenied", "Request has expired")
        lines = "".join(json.dumps(_record(user, job.fields)) + "\n" for user in job.users)
        packed = gzip.compress(lines.encode(), compresslevel=1)
        if self._settings.export_encoding == "header":
            return Response(packed, headers={"content-encoding": "gzip"}, media_type="application/x-ndjson")
        return Response(packed, media_type="application/gzip")


def _order(body: bytes) -> Json:
    try:
        order = json.loads(body or b"{}")
        names = [each["name"] for each in order.get("fields") or ()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _invalid("the body is not an export") from None
    if unknown := set(order) - ALLOWED:
        raise _invalid(f"Additional properties not allowed: {', '.join(sorted(unknown))}")
    if order.setdefault("format", "json") != "json":
        raise _invalid("'format' is json in this emulation")
    limit = order.get("limit", 1)
    if not isinstance(limit, int) or limit < 1 or not all(isinstance(name, str) for name in names):
        raise _invalid("'limit' is a number from 1, a field's 'name' a string")
    return dict(order)


def _record(user: Json, fields: list[tuple[str, str]]) -> Json:
    record = {name: _at(user, path) for path, name in fields}
    return {name: value for name, value in record.items() if value is not None}


def _at(value: Any, path: str) -> Any:
    """Take `a.b` or `a[0].b` out of a user.

    Never a token.
    """
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, dict):
            value = None if step in TOKENS else value.get(step)
        elif isinstance(value, list) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return _bare(value)


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(each) for each in value]
    if isinstance(value, dict):
        return {name: _bare(each) for name, each in value.items() if name not in TOKENS}
    return value


def _connections(user: Json) -> set[Any]:
    return {each.get("connection") for each in user.get("identities") or () if isinstance(each, dict)}


def _invalid(message: str) -> ApiError:
    return ApiError(400, f"Payload validation error: {message}", "invalid_body")


def _refused(status: int, code: str, message: str) -> Response:
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(text, status, media_type="application/xml")
