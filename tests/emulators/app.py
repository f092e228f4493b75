"""The routes of everything on one port."""

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.emulators.controls import Controls
from tests.emulators.gate import Gate, Transports
from tests.emulators.world import World


def build(world: World, transports: Transports) -> Gate:
    """Put the tenant, the providers and the control plane behind the gate."""
    management = world.management

    async def user(request: Request) -> Response:
        request.scope["entry"]["template"] = "/api/v2/users/{id}"
        return await management.user(request)

    async def connection(request: Request) -> Response:
        request.scope["entry"]["template"] = "/api/v2/connections/{id}"
        return await management.connection(request)

    async def control(request: Request) -> Response:
        body = await request.body()
        try:
            result = controls.perform(request.path_params["name"], json.loads(body) if body else {})
        except ValueError as wrong:
            return JSONResponse({"error": str(wrong)}, 400)
        return JSONResponse({"result": result})

    async def endpoints(_: Request) -> Response:
        return JSONResponse(controls.endpoints())

    routes = [
        Route("/idp/userinfo", world.providers.userinfo),
        Route("/idp/{name}/{rest:path}", world.providers.handle, methods=["GET", "POST"]),
        Route("/api/v2/users/{id:path}", user),
        Route("/api/v2/users", management.list_users),
        Route("/api/v2/connections", management.list_connections),
        Route("/api/v2/connections/{id}", connection),
        Route("/oauth/token", world.tokens.handle, methods=["POST"]),
        Route("/control/endpoints", endpoints),
        Route("/control/{name}", control, methods=["POST"]),
    ]
    gate = Gate(Starlette(routes=routes), world.clock, world.journal, world.faults, transports)
    controls = Controls(world, gate)
    return gate
