"""Sends an allowed call to the provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import structlog
from starlette.responses import Response
from yarl import URL

from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker import traces
from worker.api import problems
from worker.api.problems import ApiProblem
from worker.api.proxy.answer import answer_caller
from worker.api.proxy.call import ProxyCall
from worker.api.proxy.headers import request_headers
from worker.api.proxy.request_body import BodyCut, BodyRefused, BodyTimeout, RequestBody
from worker.api.proxy.scrub import TokenScrubber
from worker.api.proxy.session import ProviderSession
from worker.http.client import without_frames
from worker.proxy_rules import encode_path
from worker.settings import ProxySettings

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 5.0
# To get a connection: the wait for a free one and an outgoing proxy's tunnel included.
CONNECTION_WAIT_SECONDS = 15.0
# After so long a caller may try again if the provider did not answer.
RETRY_SECONDS = 5.0


class Tokens(Protocol):
    """The user's tokens at the provider."""

    async def current(self) -> Secret:
        """Return a fresh token."""

    async def replace(self) -> Secret:
        """Return a new token: the provider refused the last one."""

    async def report_rejected(self) -> None:
        """Report that the provider refused the token.

        It is replaced for the next call, and not waited for.
        """


async def forward(
    session: ProviderSession,
    settings: ProxySettings,
    call: ProxyCall,
    body: RequestBody,
    tokens: Tokens,
) -> Response:
    """Call the provider, after a 401 with a new token.

    A request with a long body is not repeated.

    Raises:
        ApiProblem: the call cannot be made, or its answer cannot be passed on.
        VaultError: there is no token.
    """
    try:
        begun = await body.begin()
    except BodyRefused as error:
        raise _refusal(error) from None
    is_repeatable = body.is_complete
    used = [await tokens.current()]
    request = _ProviderRequest(session, settings, call, begun, body)
    answer = await request.send(used[-1])
    if answer.status == 401 and is_repeatable:
        if replacement := await _replace(tokens, answer):
            used.append(replacement)
            answer = await request.send(replacement)
    elif answer.status == 401:
        await tokens.report_rejected()
    try:
        return answer_caller(settings, call, answer, TokenScrubber([each.reveal() for each in used]))
    except BaseException:
        answer.close()
        raise


def _refusal(refused: BodyRefused) -> ApiProblem:
    if isinstance(refused, BodyTimeout):
        return problems.slow_request(str(refused))
    if isinstance(refused, BodyCut):
        return ApiProblem("bad-request", str(refused))
    return ApiProblem("too-large", str(refused))


async def _replace(tokens: Tokens, refused: aiohttp.ClientResponse) -> Secret | None:
    """Return a new token, and close the provider's refusal.

    None if no token comes in time: then the refusal is passed on.
    """
    try:
        replacement = await tokens.replace()
    except TemporarilyUnavailable:
        return None
    except BaseException:
        refused.close()
        raise
    refused.close()
    return replacement


@dataclass(frozen=True, slots=True)
class _ProviderRequest:
    """The request to the provider.

    Attributes:
        begun: the body's beginning, or all of it if it is short.
    """

    session: ProviderSession
    settings: ProxySettings
    call: ProxyCall
    begun: bytes
    body: RequestBody

    async def send(self, token: Secret) -> aiohttp.ClientResponse:
        """Send the request; return the answer, its body still unread.

        Raises:
            ApiProblem: the provider does not answer, or the caller's body cannot be read.
        """
        call = self.call
        name = f"{call.method} provider API"
        with traces.span(name, "client", method=call.method, connection=call.connection) as span:
            answer = await self._request(token)
            span.set_status(answer.status)
        return answer

    async def _request(self, token: Secret) -> aiohttp.ClientResponse:
        answer = await self._try_request(token)
        if isinstance(answer, aiohttp.ClientResponse):
            return answer
        # Raised here, as the frames where it failed hold the request's headers, and the token among them.
        if isinstance(answer, Exception):
            raise answer
        if self.body.refused is not None:
            raise _refusal(self.body.refused)
        connection = self.call.connection
        log.warning("proxy.call_failed", connection=connection, error=answer)
        raise problems.unavailable(f"the API behind connection {connection} does not answer", RETRY_SECONDS)

    async def _try_request(self, token: Secret) -> aiohttp.ClientResponse | str | Exception:
        """Return the answer, an error's name, or an unexpected error.

        Nothing is raised, see ``_request``.
        """
        call, settings, body = self.call, self.settings, self.body
        headers = request_headers(call.headers, token.reveal())
        if not body.is_complete:
            headers += [(name, value) for name, value in call.headers if name.lower() == "content-length"]
        url = _url(settings, call)
        outgoing = self.session.proxies.of(str(url))
        try:
            async with asyncio.timeout(None) as stall:
                return await self.session.http.request(
                    call.method,
                    url,
                    proxy=outgoing.url if outgoing else None,
                    proxy_headers=outgoing.headers if outgoing else None,
                    headers=headers,
                    data=(self.begun or None) if body.is_complete else _upload(body, stall, settings.timeout),
                    skip_auto_headers=("User-Agent", "Content-Type"),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=call.seconds_left,
                        connect=CONNECTION_WAIT_SECONDS,
                        sock_connect=CONNECT_SECONDS,
                        sock_read=settings.timeout,
                    ),
                )
        except (
            aiohttp.ClientHttpProxyError,
            aiohttp.ClientProxyConnectionError,
            aiohttp.ClientSSLError,
        ) as error:
            blamed = outgoing if outgoing and not outgoing.is_beyond(error) else None
            return blamed.explain(error) if blamed else type(error).__name__
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return type(error).__name__
        except Exception as error:
            return without_frames(error)


async def _upload(body: RequestBody, stall: asyncio.Timeout, seconds: float) -> AsyncIterator[bytes]:
    """Yield a body; abort if the provider stops reading it.

    The HTTP client itself would wait without a limit.

    Args:
        body: the caller's.
        stall: the timeout around the call.
        seconds: within which the provider has to take a piece.
    """
    now = asyncio.get_running_loop().time
    async for piece in body.stream():
        with suppress(RuntimeError):  # the call is over: the provider has answered before the body's end
            stall.reschedule(now() + seconds)
        yield piece
        with suppress(RuntimeError):
            stall.reschedule(None)  # while waiting for the caller's next piece


def _url(settings: ProxySettings, call: ProxyCall) -> URL:
    query = f"?{call.query}" if call.query else ""
    # Already encoded: encoded anew it might mean something else than what was allowed.
    return URL(f"{settings.base_url}{encode_path(call.path)}{query}", encoded=True)
