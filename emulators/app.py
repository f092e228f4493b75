"""The routes of everything on one port."""

import asyncio
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emulators.control_plane.handlers import ControlPlane
from emulators.gate import Gate, Transports
from emulators.idp import security_events
from emulators.sign_in import SignIn
from emulators.world import World


def build(world: World, transports: Transports) -> Gate:
    """Put tenant, providers and control plane behind the gate."""
    management, sign_in = world.management, SignIn(world)

    async def user(request: Request) -> Response:
        request.scope["entry"]["template"] = "/api/v2/users/{id}"
        return await management.user(request)

    async def connection(request: Request) -> Response:
        request.scope["entry"]["template"] = "/api/v2/connections/{id}"
        return await management.connection(request)

    async def logs(request: Request) -> Response:
        return management.answer(request, "read:logs", "logs", None, world.log.answer)

    async def stats(request: Request) -> Response:
        return management.answer(request, "read:stats", "other", {"from", "to"}, world.log.daily)

    async def events(request: Request) -> Response:
        known = {"event_type", "from", "from_timestamp"}
        return management.answer(request, "read:events", "other", known, world.events.answer)

    async def export(request: Request) -> Response:
        body = await request.body()

        def act(*_: Any) -> Any:
            return world.jobs.create(body, list(world.users.ingest_by_id.values()), world.connections)

        return management.answer(request, "read:users", "other", set(), act)

    async def job(request: Request) -> Response:
        request.scope["entry"]["template"] = "/api/v2/jobs/{id}"
        job_id = request.path_params["id"]
        return management.answer(request, "read:users", "other", set(), lambda *_: world.jobs.job(job_id))

    async def download(request: Request) -> Response:
        request.scope["entry"]["template"] = "/exports/{id}"
        return await asyncio.to_thread(world.jobs.download, request)

    async def control(request: Request) -> Response:
        body = await request.body()
        try:
            result = controls.perform(request.path_params["name"], json.loads(body) if body else {})
        except ValueError as wrong:
            return JSONResponse({"error": str(wrong)}, 400)
        return JSONResponse({"result": result})

    async def token(request: Request) -> Response:
        return await sign_in.exchange(request) or await world.tokens.handle(request)

    async def jwks(_: Request) -> Response:
        world.jwks_fetches += 1
        return JSONResponse(world.signing_keys.jwks())

    async def endpoints(_: Request) -> Response:
        return JSONResponse(controls.endpoints())

    routes = [
        Route("/idp/userinfo", world.providers.userinfo),
        Route("/idp/google/calendar/v3/calendars/{calendar}/events", world.providers.calendar),
        Route("/idp/{name}/{rest:path}", world.providers.handle, methods=["GET", "POST"]),
        Route("/api/v2/users/{id:path}", user),
        Route("/api/v2/users", management.list_users),
        Route("/api/v2/connections", management.list_connections),
        Route("/api/v2/connections/{id}", connection),
        Route("/api/v2/logs", logs),
        Route("/api/v2/stats/daily", stats),
        Route("/api/v2/events", events),
        Route("/api/v2/jobs/users-exports", export, methods=["POST"]),
        Route("/api/v2/jobs/{id}", job),
        Route("/exports/{id}/{file}", download),
        Route("/.well-known/jwks.json", jwks),
        Route("/.well-known/ssf-configuration", security_events.configuration(world.base_url)),
        Route("/.well-known/risc-configuration", security_events.configuration(world.base_url)),
        Route("/authorize", sign_in.authorize, methods=["GET", "POST"]),
        Route("/oauth/token", token, methods=["POST", "OPTIONS"]),
        Route("/control/endpoints", endpoints),
        Route("/control/{name}", control, methods=["POST"]),
    ]
    gate = Gate(Starlette(routes=routes), world.clock, world.calls, world.faults, transports)
    controls = ControlPlane(world, gate)
    return gate
