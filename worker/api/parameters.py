"""Reads query parameters, and refuses unknown ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request

from token_vault.reader import DEFAULT_WAIT_SECONDS
from token_vault.token_target import TokenTarget
from worker.api.callers import USER_HEADER
from worker.api.problems import ApiProblem

# Load balancers and clients give up on a request after about a minute.
MAX_WAIT_SECONDS = 30.0
MAX_MIN_TTL_SECONDS = 86_400.0
MAX_NAME_LENGTH = 500
MAX_SCOPES = 100
# Names one of several accounts of the user.
ACCOUNT_HEADER = "x-token-vault-account"
_TOKEN_PARAMETERS = frozenset(
    {"account", "min_ttl", "needs", "resource", "scopes", "tenant", "wait", "reason"}
)


@dataclass(frozen=True, slots=True)
class TokenParameters:
    """The token that a caller asks for.

    Attributes:
        user_id: empty for the connection's admin token.
        tenant: its name; needed if the vault has several.
        needs: scopes without which the token is of no use.
        min_ttl: seconds of life that it must have.
        wait: seconds that a refresh may take.
        reason: of the read, for the audit.
    """

    user_id: str
    connection: str
    tenant: str | None
    account: str | None
    resource: str | None
    scopes: tuple[str, ...] | None
    needs: tuple[str, ...]
    min_ttl: float | None
    wait: float
    reason: str | None

    @classmethod
    def of(cls, request: Request) -> TokenParameters:
        """Read path and query.

        Raises:
            ApiProblem: ``bad-request``.
        """
        pairs = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        query = dict(pairs)
        if unknown := query.keys() - _TOKEN_PARAMETERS:
            _refuse(f"there is no parameter {min(unknown)[:50]!r}: {', '.join(sorted(_TOKEN_PARAMETERS))}")
        if len(pairs) != len(query):
            _refuse("a parameter is given twice: separate several scopes by blanks")
        resource, scopes = _target(query)
        return cls(
            user_id=user_of(request) if "user_id" in request.path_params else "",
            connection=_name("connection", request.path_params["connection"]),
            tenant=_optional(query, "tenant"),
            account=_optional(query, "account"),
            resource=resource,
            scopes=scopes,
            needs=_scopes(query, "needs"),
            min_ttl=_number(query, "min_ttl", MAX_MIN_TTL_SECONDS),
            wait=_number(query, "wait", MAX_WAIT_SECONDS, DEFAULT_WAIT_SECONDS) or 0.0,
            reason=_optional(query, "reason"),
        )


def user_of(request: Request) -> str:
    """Return the user that the path names.

    Raises:
        ApiProblem: ``bad-request``, also for an empty id, which would mean the admin grant.
    """
    user_id: str = request.path_params["user_id"]
    if not user_id:
        _refuse("the user's id is empty")
    return _name("user_id", user_id)


def named_user(request: Request) -> str | None:
    """Return the user whom the caller names in a header.

    It is percent-encoded, as in a path. None without the header, or if it is empty.

    Raises:
        ApiProblem: ``bad-request``.
    """
    given = request.headers.getlist(USER_HEADER)
    if len(given) > 1:
        _refuse(f"{USER_HEADER} is given twice")
    return _name(USER_HEADER, unquote(given[0])) or None if given else None


def named_account(request: Request) -> str | None:
    """Return the user's account that the caller names.

    Raises:
        ApiProblem: ``bad-request``.
    """
    return _name(ACCOUNT_HEADER, request.headers.get(ACCOUNT_HEADER, "")) or None


def _refuse(detail: str) -> NoReturn:
    raise ApiProblem("bad-request", detail)


def _name(parameter: str, value: Any) -> str:
    if len(value) > MAX_NAME_LENGTH:
        _refuse(f"{parameter} is longer than {MAX_NAME_LENGTH} characters")
    if "\0" in value:
        _refuse(f"{parameter} holds a NUL")
    return str(value)


def _optional(query: Mapping[str, str], parameter: str) -> str | None:
    value = query.get(parameter)
    if value == "":
        _refuse(f"{parameter} is empty")
    return None if value is None else _name(parameter, value)


def _scopes(query: Mapping[str, str], parameter: str) -> tuple[str, ...]:
    found = tuple((_optional(query, parameter) or "").split())
    if len(found) > MAX_SCOPES or not all(each.isascii() and each.isprintable() for each in found):
        _refuse(f"{parameter} are scopes separated by blanks, {MAX_SCOPES} at most")
    return found


def _target(query: Mapping[str, str]) -> tuple[str | None, tuple[str, ...] | None]:
    """Read the resource or scopes of the token."""
    resource, scopes = _optional(query, "resource"), _scopes(query, "scopes") or None
    try:
        TokenTarget.of(resource, scopes)
    except ValueError as error:
        _refuse(str(error))
    return resource, scopes


def _number(
    query: Mapping[str, str], parameter: str, most: float, default: float | None = None
) -> float | None:
    if parameter not in query:
        return default
    try:
        value = float(query[parameter])
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        _refuse(f"{parameter} is a number of seconds from 0 to {most:.0f}")
    return value
