"""``POST /v1/hooks/auth0``: Auth0's log streams and event streams.

A post is a hint: it says which users to read from Auth0, and nothing else in it is believed.
"""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from worker.api.hooks.request import find_sender, read_event_body
from worker.api.problems import NO_STORE, ApiProblem
from worker.api.service import service_of
from worker.auth0.pushed_events import read_pushed_events
from worker.sync.change_feeds import may_change_tokens
from worker.vault.changed_users import queue
from worker.vault.db.errors import explained

log = structlog.get_logger(__name__)

# Auth0 posts single events or small batches; an event is some kilobytes.
MAX_BODY_BYTES = 2_000_000
HOOK = "auth0"


async def take_auth0_events(request: Request) -> Response:
    """Queue the users whom events name, to be synced.

    If they cannot be stored, the answer is 503, and Auth0 sends the events again.
    """
    service = service_of(request)
    secrets = {tenant: hook.secret for tenant, hook in service.settings.hooks.auth0.items()}
    if not secrets:
        raise ApiProblem("not-found", "the operator has set no secret for Auth0's hooks")
    tenant = find_sender(request, secrets)
    if tenant is None:
        raise ApiProblem("invalid-token", "the header Authorization has no secret of a tenant's hook")
    body = await read_event_body(request, MAX_BODY_BYTES)
    try:
        events = read_pushed_events(body, may_change_tokens)
    except ValueError as error:
        raise ApiProblem("too-large", str(error)) from None
    count = service.metrics.count_hook_events
    count(HOOK, "passed_over", events.passed_over)
    count(HOOK, "malformed", len(events.malformed))
    if events.malformed:
        # Only their positions are logged, as events name people.
        log.warning("hook.events_malformed", tenant=tenant, events=list(events.malformed[:10]))
    if events.malformed and len(events.malformed) == events.number:
        raise ApiProblem(
            "bad-request", f"event {events.malformed[0]} is neither a log event nor a CloudEvent"
        )
    async with explained():
        connections = [queue.CONNECTIONS] if events.names_connections else []
        await queue.record(service.database, tenant, [*events.user_ids, *connections])
    count(HOOK, "queued", len(events.user_ids))
    return JSONResponse(
        {
            "queued": len(events.user_ids),
            "passed_over": events.passed_over,
            "malformed": list(events.malformed),
        },
        202,
        headers=NO_STORE,
    )
