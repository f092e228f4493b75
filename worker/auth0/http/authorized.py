"""Calls to the Management API with the shared token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import structlog

from worker.auth0.errors import MissingScope
from worker.auth0.http.calls import ApiCalls
from worker.auth0.http.responses import Endpoint, api_error, consequence_without, read_json
from worker.auth0.management_token import ManagementToken, SharedToken

log = structlog.get_logger(__name__)


class AuthorizedCalls:
    """Makes calls with the management token, and reads their answers.

    Args:
        calls: sends the requests.
        token: the shared management token.
        urgent: whether the calls take precedence in the rate limit budget.
    """

    def __init__(self, calls: ApiCalls, token: SharedToken, *, urgent: bool = False) -> None:
        self._calls, self._token, self._urgent = calls, token, urgent

    @property
    def urgent(self) -> AuthorizedCalls:
        """The same with precedence in the rate limit budget."""
        return AuthorizedCalls(self._calls, self._token, urgent=True)

    async def scopes(self) -> frozenset[str] | None:
        """Return the token's scopes (None if Auth0 does not name them)."""
        return (await self._token.get()).scopes

    async def require_scopes(self, *needed: str) -> None:
        """Check that the token has these scopes.

        If it lacks one, this process mints a new token once, as the operator may have granted the scope meanwhile.

        Raises:
            MissingScope: it names the missing scopes, and what does not work without them.
        """
        token = await self._token.get()
        if _lacking(token, needed) and not self._token.has_minted:
            token = await self._token.get(instead_of=token)
        if token.scopes is None:
            log.warning("management_token.scopes_omitted", domain=self._calls.host)
        if missing := _lacking(token, needed):
            self._token.forget()  # by the next call, another process may have shared a token with the scope
            consequences = (consequence_without(scope, f"{scope} is needed") for scope in missing)
            raise MissingScope(missing, "; ".join(consequences))

    async def get(self, endpoint: Endpoint, path: str, query: Mapping[str, str]) -> Any:
        """Return the JSON of an answer; raises as ``require_success``."""
        return self.read(await self.send(endpoint, path, query), endpoint)

    async def send(
        self,
        endpoint: Endpoint,
        path: str,
        query: Mapping[str, Any],
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> httpx.Response:
        """Make a call, again with a new token after 401.

        Args:
            endpoint: its name begins with the method.
            path, query: of the URL.
            stream: leave the body of a 200 to the caller.
            headers: besides the authorization.
            request: further arguments for httpx, such as ``json``.
        """

        async def send(token: ManagementToken) -> httpx.Response:
            def build() -> httpx.Request:
                sent = {**(headers or {}), "Authorization": f"Bearer {token.value.reveal()}"}
                method = endpoint.name.partition(" ")[0]
                return self._calls.request(method, path, params=query, headers=sent, **request)

            return await self._calls.send(endpoint, build, stream=stream, urgent=self._urgent)

        token = await self._token.get()
        response = await send(token)
        if response.status_code == 401:
            log.warning("management_token.refused", domain=endpoint.host, endpoint=endpoint.name)
            response = await send(await self._token.get(instead_of=token))
        return response

    def read(self, response: httpx.Response, endpoint: Endpoint) -> Any:
        """Return a successful answer's JSON; raises as ``require_success``."""
        return read_json(self.require_success(response, endpoint), endpoint)

    def require_success(self, response: httpx.Response, endpoint: Endpoint) -> httpx.Response:
        """Return a successful answer.

        Raises:
            Auth0Error, MissingScope: the answer is not successful.
        """
        if not response.is_success:
            error = api_error(response, endpoint)
            if isinstance(error, MissingScope):
                self._token.forget()
            raise error
        return response


def _lacking(token: ManagementToken, needed: tuple[str, ...]) -> list[str]:
    return [] if token.scopes is None else [scope for scope in needed if scope not in token.scopes]
