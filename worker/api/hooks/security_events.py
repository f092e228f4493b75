"""``POST /v1/hooks/events/{name}``: security events of providers.

They are pushed as RFC 8935 says. A security event is a hint: the grants of its subject are renewed at once, and the
provider's answer decides what becomes of them.
"""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from worker.api.access_tokens import MAX_TOKEN_BYTES
from worker.api.hooks.request import find_sender, read_event_body
from worker.api.hooks.security_event_token import (
    DEATH_SIGNALS,
    VERIFICATIONS,
    SecurityEventToken,
    SetRefused,
    Transmitter,
    refuse,
)
from worker.api.problems import NO_STORE, ApiProblem
from worker.api.service import Service, service_of
from worker.vault.db.errors import explained
from worker.vault.db.names import is_name
from worker.vault.refresh_requests.security_events import report_security_event

log = structlog.get_logger(__name__)


async def take_security_events(request: Request) -> Response:
    """Request renewals of the grants that a token names.

    If that cannot be stored, the answer is 503, and the transmitter sends the token again.
    """
    service, name = service_of(request), request.path_params["name"]
    transmitter = service.transmitters.get(name)
    if transmitter is None:
        raise ApiProblem("not-found", "no transmitter has this name in [hooks.events]")
    try:
        token = await _verify(request, name, transmitter)
    except SetRefused as refused:
        service.metrics.count_hook_events(name, refused.code)
        log.warning("security_event.refused", transmitter=name, code=refused.code, error=refused.description)
        document = {"err": refused.code, "description": refused.description}
        return JSONResponse(document, 400, headers={**NO_STORE, "Content-Language": "en"})
    for kind, event in token.events.items():
        outcome = await _handle(service, name, transmitter, token, kind, event)
        service.metrics.count_hook_events(name, outcome)
    return Response(status_code=202, headers=NO_STORE)


async def _verify(request: Request, name: str, transmitter: Transmitter) -> SecurityEventToken:
    secrets = transmitter.settings.secret
    if secrets and find_sender(request, {name: secrets}) is None:
        refuse("authentication_failed", "the header Authorization has no secret of this transmitter's")
    body = await read_event_body(request, MAX_TOKEN_BYTES)
    return await transmitter.verify(body.decode("ascii", "replace").strip())


async def _handle(
    service: Service, name: str, transmitter: Transmitter, token: SecurityEventToken, kind: str, event: object
) -> str:
    """Handle one event; return its outcome for the metric."""
    if kind in VERIFICATIONS:
        log.info("security_event.stream_verified", transmitter=name)
        return "verified"
    if kind not in DEATH_SIGNALS:
        return "passed_over"
    account, refresh_token = transmitter.account(token, event), transmitter.refresh_token(token, event)
    if not (account and is_name(account)) and refresh_token is None:
        return "unknown_subject"
    settings = transmitter.settings
    async with explained():
        grants = await report_security_event(
            service.database,
            tenants=settings.tenants,
            connections=settings.connections,
            account=account,
            refresh_token=refresh_token,
        )
    log.info("security_event.followed", transmitter=name, kind=kind.rpartition("/")[2], grants=grants)
    return "tried" if grants else "unknown_subject"
