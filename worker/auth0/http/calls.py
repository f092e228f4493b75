"""Makes calls over one connection pool, with retries and budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import structlog

from token_vault.secret import Secret
from worker import instruments, traces
from worker.auth0.credentials import Credentials
from worker.auth0.errors import Auth0Unreachable, MalformedAnswer
from worker.auth0.field_types import parse_seconds
from worker.auth0.http.responses import Endpoint, api_error, read_error_code, read_json, token_error
from worker.auth0.http.retries import Clock, Retrier
from worker.auth0.http.timeouts import Timeouts
from worker.auth0.management_token import ManagementToken
from worker.auth0.ratelimit.budget import RateLimitBudget
from worker.http.client import make_http_client, read_body, without_frames
from worker.http.transport import HttpTransport, OutgoingProxyFailed

# Far more than a page of a hundred users with profiles of the average size that Auth0 allows.
MAX_ANSWER_BYTES = 32 * 2**20

log = structlog.get_logger(__name__)


class ApiCalls:
    """Sends requests to one domain, and retries where that helps.

    Attributes:
        host: the domain.
    """

    def __init__(
        self,
        credentials: Credentials,
        transport: httpx.AsyncBaseTransport | None,
        retrier: Retrier,
        timeouts: Timeouts,
        budget: RateLimitBudget | None = None,
    ) -> None:
        self.host = credentials.host
        self._retrier = retrier
        self._budget = budget
        self._total = timeouts.total
        self._transport = transport or HttpTransport()
        self.request = make_http_client(
            transport=self._transport,
            base_url=credentials.base_url,
            headers={"Accept": "application/json"},
            timeout=timeouts.for_httpx(),
        ).build_request
        self.aclose = self._transport.aclose

    async def send(
        self,
        endpoint: Endpoint,
        build: Callable[[], httpx.Request],
        *,
        stream: bool = False,
        urgent: bool = False,
    ) -> httpx.Response:
        """Make a call; the answer is neither 429 nor 5xx.

        Args:
            endpoint: named in errors.
            build: builds the request, for each attempt.
            stream: the caller reads the body of a 200, and closes the answer.
            urgent: whether it takes precedence in the budget.

        Raises:
            Auth0Unreachable: no answer, or 5xx, after the retries.
            Auth0RateLimited: 429, after waiting; or the budget is used up for longer than a call waits.
        """
        async for attempt in self._retrier.attempts(endpoint.host, endpoint.name):
            with attempt:
                await self._retrier.wait_for_pause(str(endpoint))
                response = await self._send_in_budget(endpoint, build, stream=stream, urgent=urgent)
                if response.status_code == 429:
                    number = attempt.retry_state.attempt_number
                    limited = self._retrier.record_rate_limit(
                        str(endpoint), response, number, read_error_code(response)
                    )
                    if self._budget is not None:
                        await self._budget.pause(endpoint.group, limited.retry_after)
                    raise limited
                if response.is_server_error:
                    raise api_error(response, endpoint)
                return response
        raise AssertionError("the attempts end with an answer or an error")

    async def _send_in_budget(
        self, endpoint: Endpoint, build: Callable[[], httpx.Request], *, stream: bool, urgent: bool
    ) -> httpx.Response:
        if self._budget is None or self._budget.is_unlimited:
            return await self.send_once(endpoint, build(), stream=stream)
        permit = await self._budget.acquire(endpoint.group, urgent=urgent, where=str(endpoint))
        response = await self.send_once(endpoint, build(), stream=stream)
        self._budget.record_answer(permit, response.headers, endpoint.group)
        return response

    async def send_once(
        self, endpoint: Endpoint, request: httpx.Request, *, stream: bool = False
    ) -> httpx.Response:
        """Make one attempt without budget; return any answer.

        Raises:
            Auth0Unreachable: no answer.
        """
        status, began, problem = "none", time.perf_counter(), ""
        unexpected: Exception | None = None
        try:
            with traces.span(endpoint.name, "client", method=request.method, host=endpoint.host) as span:
                async with asyncio.timeout(self._total):
                    # Past the client, whose redirects, cookies and authentication nothing here uses.
                    response = await self._transport.handle_async_request(request)
                    response.request = request
                    status = str(response.status_code)
                    span.set_status(response.status_code)
                    if stream and response.status_code == 200:
                        return response
                    return await _read(response)
        except OutgoingProxyFailed as error:
            problem = str(error)
        except (httpx.HTTPError, OSError) as error:
            problem = f"no answer ({describe_failure(error)}); check AUTH0_DOMAIN and the network"
        except Exception as error:  # of an unexpected kind
            unexpected = without_frames(error)
        finally:
            instruments.auth0_calls.labels(endpoint.host, endpoint.group, status).observe(
                time.perf_counter() - began
            )
        # Raised outside the except: those errors contain the request with its credentials, and must not be chained.
        if unexpected is not None:
            raise unexpected
        raise Auth0Unreachable(f"{endpoint}: {problem}")


async def _read(response: httpx.Response) -> httpx.Response:
    """Read a whole answer, within a limit, and close it."""
    try:
        body = await read_body(response, MAX_ANSWER_BYTES)
    finally:
        await response.aclose()
    headers = [
        (name, value)
        for name, value in response.headers.multi_items()
        if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
    ]
    return httpx.Response(
        response.status_code,
        headers=headers,
        content=body,
        request=response.request,
        extensions=response.extensions,
    )


async def mint_token(calls: ApiCalls, credentials: Credentials, clock: Clock) -> ManagementToken:
    """Get a new management token by client credentials.

    Source: Auth0, "Get Management API Access Tokens for Production"; RFC 6749 section 4.4.

    Raises:
        Auth0Refused: wrong id, secret, key or audience, or no client grant.
        ConfigurationError: the private key cannot be used.
    """
    endpoint = Endpoint("POST /oauth/token", credentials.host)

    def build() -> httpx.Request:  # for each attempt, as an assertion may be used only once
        return calls.request("POST", "/oauth/token", json=credentials.token_request(clock()))

    response = await calls.send(endpoint, build)
    if response.status_code != 200:
        raise token_error(response, endpoint)
    token = _read_token(read_json(response, endpoint), endpoint, clock)
    log.info(
        "management_token.minted",
        domain=endpoint.host,
        expires_at=token.expires_at.isoformat(),
        scopes=None if token.scopes is None else sorted(token.scopes),
    )
    return token


def _read_token(answer: Any, endpoint: Endpoint, clock: Clock) -> ManagementToken:
    answer = answer if isinstance(answer, dict) else {}
    value, life, scope = (
        _read_bearer(answer.get("access_token")),
        parse_seconds(answer.get("expires_in")),
        answer.get("scope"),
    )
    if value is None:
        raise MalformedAnswer(f"{endpoint}: the answer has no usable access_token", status=200)
    if not life:
        raise MalformedAnswer(f"{endpoint}: the answer has no usable expires_in", status=200)
    return ManagementToken(
        value,
        clock() + timedelta(seconds=life),
        frozenset(scope.split()) if isinstance(scope, str) else None,
    )


def _read_bearer(value: object) -> Secret | None:
    """Return a token fit for a header (RFC 6750 §2.1), or None."""
    usable = isinstance(value, str) and value.isascii() and value.isprintable() and value.strip()
    return Secret(str(value)) if usable else None


def describe_failure(error: Exception) -> str:
    """Describe a failure below HTTP, e.g. a refused connection.

    It contains no text from the other side.
    """
    cause = error.__cause__
    # The system's text is precise; the transport calls every failure to connect a ConnectTimeout.
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else type(error).__name__
