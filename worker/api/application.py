"""The ASGI application: its routes and error handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from token_vault.errors import VaultError
from worker.api import health, openapi, problems, reconnect, tokens
from worker.api.cors import allow_origins
from worker.api.hooks.auth0 import take_auth0_events
from worker.api.hooks.security_events import take_security_events
from worker.api.metrics import Metrics
from worker.api.middleware import Gate
from worker.api.proxy.routes import proxy_route
from worker.api.service import Service, open_service
from worker.settings import Settings


class State(TypedDict):
    """The contents of ``request.state``."""

    service: Service


def create_app(settings: Settings) -> Gate:
    """Make the application.

    Args:
        settings: with the database's URL and the access ring.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        del app
        async with open_service(settings, metrics) as service:
            yield {"service": service}

    app = Starlette(
        routes=routes(settings.api.origins),
        lifespan=lifespan,
        exception_handlers={
            problems.ApiProblem: problems.on_problem,
            VaultError: problems.on_vault_error,
            HTTPException: problems.on_http_exception,
            Exception: problems.on_unforeseen,
        },
    )
    # A path with a slash too many is not found. A redirect would carry credentials along.
    app.router.redirect_slashes = False
    return Gate(app, metrics=metrics, max_concurrent=settings.api.max_concurrent)


def routes(origins: Sequence[str] = ()) -> Sequence[BaseRoute]:
    """Return all routes, the most frequently called ones first.

    Args:
        origins: of the front ends that browsers may call the users' routes from.
    """
    return (
        # Ids of users of enterprise connections may contain slashes.
        Route("/v1/users/{user_id:path}/tokens/{connection}", tokens.get_token, methods=["GET"]),
        proxy_route(origins),
        Route("/v1/users/{user_id:path}/tokens/{connection}/refresh", tokens.refresh_token, methods=["POST"]),
        Route("/v1/users/{user_id:path}/tokens/{connection}/rejected", tokens.reject_token, methods=["POST"]),
        Route("/v1/users/{user_id:path}/tokens", tokens.list_grants, methods=["GET"]),
        Route("/v1/connections/{connection}/token", tokens.get_token, methods=["GET"]),
        Route("/v1/connections/{connection}/token/refresh", tokens.refresh_token, methods=["POST"]),
        Route("/v1/connections/{connection}/token/rejected", tokens.reject_token, methods=["POST"]),
        Route(
            "/v1/users/{user_id:path}/reconnect/{connection}",
            reconnect.reconnect,
            methods=["GET", "OPTIONS"] if origins else ["GET"],
            middleware=allow_origins(origins, ["GET"]),
        ),
        Route("/v1/hooks/events/{name}", take_security_events, methods=["POST"]),
        Route("/v1/hooks/auth0", take_auth0_events, methods=["POST"]),
        Route("/healthz", health.healthz),
        Route("/readyz", health.Readiness().__call__),
        Route("/metrics", health.metrics),
        Route("/openapi.json", openapi.openapi),
    )
