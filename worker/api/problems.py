"""Problem documents: all errors of the API (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from token_vault.errors import (
    AccessDenied,
    AmbiguousAccount,
    MissingScopes,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    TokenNotFound,
    VaultError,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:token-vault:problem:"
# No answer may be cached, as most contain a token or facts about one.
NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem; callers recognize it by ``type``."""

    code: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The stable name of the type."""
        return TYPE_PREFIX + self.code


PROBLEM_TYPES: dict[str, ProblemType] = {
    each.code: each
    for each in (
        ProblemType("bad-request", 400, "The request is not understood"),
        ProblemType("invalid-token", 401, "The caller's own credential is missing or refused"),
        ProblemType("not-allowed", 403, "The caller may not do this"),
        ProblemType("not-connected", 404, "The vault holds no such grant"),
        ProblemType("not-found", 404, "There is no such route"),
        ProblemType("method-not-allowed", 405, "The route has no such method"),
        ProblemType("request-timeout", 408, "The request did not come in time"),
        ProblemType("consent-needed", 409, "The user must consent again"),
        ProblemType("token-expired", 409, "The token has ended and cannot be renewed"),
        ProblemType("ambiguous-account", 409, "The user has several accounts"),
        ProblemType("too-large", 413, "The request is too large"),
        ProblemType("headers-too-large", 431, "The request's headers are too large"),
        ProblemType("internal-error", 500, "The vault made a mistake"),
        ProblemType("bad-gateway", 502, "The provider's answer cannot be passed on"),
        ProblemType("temporarily-unavailable", 503, "There is no answer right now"),
    )
}


class ApiProblem(Exception):
    """A problem that answers a request.

    Attributes:
        type: one of ``PROBLEM_TYPES``.
        detail: what is wrong, and who can fix it. Never a secret.
        members: further members of the document.
        headers: further headers of the response.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.type = PROBLEM_TYPES[code]
        self.detail = detail
        self.members = members
        self.headers = dict(headers or {})


def problem_response(problem: ApiProblem, request_id: str | None = None) -> Response:
    """Return a response with the problem document."""
    document: dict[str, Any] = {
        "type": problem.type.uri,
        "title": problem.type.title,
        "status": problem.type.status,
        "detail": problem.detail,
        **{name: value for name, value in problem.members.items() if value is not None},
    }
    if request_id is not None:
        document["request_id"] = request_id
    return JSONResponse(
        document, problem.type.status, headers={**NO_STORE, **problem.headers}, media_type=MEDIA_TYPE
    )


def raw_problem(problem: ApiProblem) -> bytes:
    """Return a whole HTTP response that closes its connection."""
    response = problem_response(problem)
    lines = [f"HTTP/1.1 {problem.type.status} {problem.type.title}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"connection: close", b"", bytes(response.body)])


def unavailable(detail: str, retry_after: float) -> ApiProblem:
    """Return the problem of a failure that will pass."""
    seconds = max(1, round(retry_after))
    return ApiProblem(
        "temporarily-unavailable", detail, headers={"Retry-After": str(seconds)}, retry_after=seconds
    )


def of_error(error: VaultError) -> ApiProblem:
    """Return the problem for an error of the vault."""
    return _of_grant(error) or _of_vault(error)


def _of_grant(error: VaultError) -> ApiProblem | None:
    match error:
        case ReauthorizationRequired():
            since = error.since.isoformat() if error.since else None
            return ApiProblem("consent-needed", str(error), reason=error.reason, since=since)
        case MissingScopes():
            return ApiProblem(
                "consent-needed", str(error), reason="missing_scopes", missing_scopes=list(error.missing)
            )
        case TokenExpired():
            return ApiProblem("token-expired", str(error), reason="expired")
        case AmbiguousAccount():
            return ApiProblem("ambiguous-account", str(error), accounts=list(error.accounts))
        case TokenNotFound():
            return ApiProblem("not-connected", str(error))
    return None


def _of_vault(error: VaultError) -> ApiProblem:
    error.server = None  # callers need not know the operator's servers
    if isinstance(error, TemporarilyUnavailable):
        return unavailable(str(error), error.retry_after)
    if isinstance(error, AccessDenied):  # the API's own role lacks the right, not the caller
        return unavailable("the API's own database role lacks a right: the operator has to grant it", 60)
    # The message names settings, which callers need not know.
    log.error("api.misconfigured", error=str(error))
    return unavailable("the vault is not set up correctly: the operator finds the cause in its log", 60)


def slow_request(detail: str) -> ApiProblem:
    """Return the problem of a request that is too slow.

    The connection is closed, as nothing reads the rest of the request (RFC 9110, 15.5.9).
    """
    return ApiProblem("request-timeout", detail, headers={"Connection": "close"})


async def on_problem(request: Request, error: Exception) -> Response:
    """Answer with a problem that was raised."""
    assert isinstance(error, ApiProblem)  # noqa: S101  # registered for it alone
    return problem_response(error, request.scope.get("request_id"))


async def on_vault_error(request: Request, error: Exception) -> Response:
    """Answer an error of the vault with its problem."""
    assert isinstance(error, VaultError)  # noqa: S101  # registered for it alone
    return problem_response(of_error(error), request.scope.get("request_id"))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer a request that the framework refuses."""
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for it alone
    codes = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
    code = codes.get(error.status_code, "bad-request")
    detail = {"not-found": "see /openapi.json for the routes"}.get(code, HTTPStatus(error.status_code).phrase)
    problem = ApiProblem(code, detail, headers=error.headers)
    return problem_response(problem, request.scope.get("request_id"))


async def on_unforeseen(request: Request, error: Exception) -> Response:
    """Answer an unforeseen error, without its text.

    The text may contain a secret.
    """
    del error
    return problem_response(
        ApiProblem("internal-error", "unforeseen: the operator finds the cause in the log, by request_id"),
        request.scope.get("request_id"),
    )


def log_unforeseen(error: Exception, request_id: str | None) -> None:
    """Log where an unforeseen error was raised, without its text."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    at = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else None
    log.error("request.failed", error=type(error).__name__, at=at, request_id=request_id)
