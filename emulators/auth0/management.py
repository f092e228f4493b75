"""The Management API: users and connections, read only."""

import base64
import binascii
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from emulators.auth0.errors import ApiError, invalid_query
from emulators.auth0.limits import Limits
from emulators.auth0.parameters import chosen, flag, number
from emulators.auth0.query import MalformedQuery, parse
from emulators.auth0.settings import Settings
from emulators.auth0.token import ManagementToken, ManagementTokens
from emulators.auth0.users import Users

Json = dict[str, Any]
TOKEN_FIELDS = {"access_token", "refresh_token", "access_token_secret", "expires_in"}
LIST_USERS = {
    "page",
    "per_page",
    "include_totals",
    "sort",
    "connection",
    "fields",
    "include_fields",
    "q",
    "search_engine",
    "primary_order",
}
LIST_CONNECTIONS = {
    "page",
    "per_page",
    "include_totals",
    "strategy",
    "name",
    "domain_alias",
    "fields",
    "include_fields",
    "from",
    "take",
}
OFFSET_CONNECTIONS = 1000  # offset paging stops here


class Management:
    """Answers for one tenant."""

    def __init__(self, settings: Settings, tokens: ManagementTokens, users: Users) -> None:
        self._settings = settings
        self._tokens = tokens
        self.users = users
        self.connections: dict[str, Json] = {}  # by name, in the order of creation
        self.limits: Limits

    async def user(self, request: Request) -> Response:
        """GET /api/v2/users/{id}."""
        return self.answer(request, "read:users", "read_users", {"fields", "include_fields"}, self._user)

    async def list_users(self, request: Request) -> Response:
        """GET /api/v2/users."""
        return self.answer(request, "read:users", "read_users", LIST_USERS, self._list_users)

    async def connection(self, request: Request) -> Response:
        """GET /api/v2/connections/{id}."""
        known = {"fields", "include_fields"}
        return self.answer(request, "read:connections", "connections", known, self._connection)

    async def list_connections(self, request: Request) -> Response:
        """GET /api/v2/connections."""
        return self.answer(
            request, "read:connections", "connections", LIST_CONNECTIONS, self._list_connections
        )

    def answer(self, request: Request, scope: str, group: str, known: set[str] | None, act: Any) -> Response:
        """Let `act` answer an admitted request.

        `known` are its parameters, None: any.
        What `act` gives is sent as JSON unless it is a response already.
        """
        headers: dict[str, str] = {}
        try:
            caller = self._tokens.check(request)
            endpoint = f"{request.method} {request.scope['entry']['template']}"
            request.scope["entry"]["query"] = request.url.query
            allowed, request.scope["entry"]["bucket"], headers = self.limits.take(group, endpoint)
            _admit(request, caller, scope, known, allowed)
            result = act(request, caller)
        except ApiError as error:
            request.scope["entry"]["error"] = error.code or str(error.status)
            return error.response(headers)
        response = result if isinstance(result, Response) else JSONResponse(result)
        response.headers.update(headers)
        return response

    def _user(self, request: Request, caller: ManagementToken) -> Json:
        # From the raw path: a slash inside an id arrives percent-encoded.
        _, _, name = request.scope["raw_path"].decode().partition("/api/v2/users/")
        user = self.users.ingest_by_id.get(unquote(name)) if "/" not in name else None
        if user is None:
            raise ApiError(404, "The user does not exist.", "inexistent_user")
        return chosen(_seen(user, "read:user_idp_tokens" in caller.scopes), request)

    def _list_users(self, request: Request, caller: ManagementToken) -> Any:
        params = request.query_params
        if params.get("search_engine", "v3") != "v3":
            raise invalid_query("'search_engine' must be v3.")
        page, size = number(request, "page", 0, None), number(request, "per_page", 50, 100)
        window = self._settings.window
        if window is not None and (page + 1) * size > window:
            raise ApiError(400, f"You can only page through the first {window} records.", "invalid_paging")
        try:
            query = parse(params.get("q", ""))
        except MalformedQuery as wrong:
            raise invalid_query(f"'q' is malformed: {wrong}.") from None
        totals = flag(request, "include_totals", False)
        found, total = self.users.search(query, _sort(request), page * size, size, totals)
        tokens = self._settings.list_tokens and "read:user_idp_tokens" in caller.scopes
        users = [chosen(_seen(user, tokens), request) for user in found]
        if not totals:
            return users
        return {"start": page * size, "limit": size, "length": len(users), "total": total, "users": users}

    def _connection(self, request: Request, caller: ManagementToken) -> Json:
        wanted = request.path_params["id"]
        for connection in self.connections.values():
            if connection["id"] == wanted:
                return chosen(_visible(connection, caller), request)
        raise ApiError(404, "The connection does not exist", "inexistent_connection")

    def _list_connections(self, request: Request, caller: ManagementToken) -> Any:
        params = request.query_params
        strategies, name = set(params.getlist("strategy")), params.get("name")
        found = [
            connection
            for connection in self.connections.values()
            if (not strategies or connection["strategy"] in strategies) and name in (None, connection["name"])
        ]
        checkpoint = "take" in params or "from" in params
        if checkpoint and "page" in params:
            raise invalid_query("'page' cannot be used together with 'from' or 'take'.")
        start, size = self._from(request, found) if checkpoint else self._offset(request)
        shown = [chosen(_visible(each, caller), request) for each in found[start : start + size]]
        if checkpoint:
            more = start + size < len(found)
            body: Json = {"connections": shown}
            return {**body, "next": _mark(found[start + size - 1]["id"])} if more else body
        if not flag(request, "include_totals", False):
            return shown
        return {
            "start": start,
            "limit": size,
            "length": len(shown),
            "total": len(found),
            "connections": shown,
        }

    def _from(self, request: Request, found: list[Json]) -> tuple[int, int]:
        size, mark = number(request, "take", 50, 100), request.query_params.get("from")
        if size < 1:
            raise invalid_query("'Value 0 is less than minimum 1' on property take.")
        if mark is None:
            return 0, size
        try:
            last = base64.urlsafe_b64decode(mark).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise invalid_query("'from' is not a checkpoint.") from None
        places = [place for place, connection in enumerate(found) if connection["id"] == last]
        if not places:
            raise invalid_query("'from' is not a checkpoint.")
        return places[0] + 1, size

    def _offset(self, request: Request) -> tuple[int, int]:
        page, size = number(request, "page", 0, None), number(request, "per_page", 50, 100)
        if (page + 1) * size > OFFSET_CONNECTIONS:
            text = f"You can only page through the first {OFFSET_CONNECTIONS} records."
            raise ApiError(400, text, "invalid_paging")
        return page * size, size


def _admit(
    request: Request, caller: ManagementToken, scope: str, known: set[str] | None, allowed: bool
) -> None:
    if not allowed:
        raise ApiError(429, "Global limit has been reached", "too_many_requests")
    if planted := request.scope.get("planted_error"):
        raise ApiError(400, planted[1], planted[0])
    if scope not in caller.scopes:
        raise ApiError(403, f"Insufficient scope, expected any of: {scope}", "insufficient_scope")
    if known is not None and (unknown := set(request.query_params) - known):
        raise invalid_query(f"'Additional properties not allowed: {', '.join(sorted(unknown))}'.")


def _seen(user: Json, tokens: bool) -> Json:
    """Show a user with or, silently, without the token fields."""
    if tokens or "identities" not in user:
        return user
    bare = [
        {name: value for name, value in identity.items() if name not in TOKEN_FIELDS}
        if isinstance(identity, dict)
        else identity
        for identity in user["identities"]
    ]
    return {**user, "identities": bare}


def _visible(connection: Json, caller: ManagementToken) -> Json:
    if "read:connections_options" in caller.scopes:
        return connection
    return {name: value for name, value in connection.items() if name != "options"}


def _sort(request: Request) -> tuple[str, bool]:
    text = request.query_params.get("sort")
    if text is None:
        return "created_at", False
    field, _, direction = text.partition(":")
    if not field or direction not in ("1", "-1"):
        raise invalid_query("'sort' must be field:1 or field:-1.")
    return field, direction == "-1"


def _mark(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode()
