"""`GET …/reconnect/{connection}`: where users consent again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from token_vault.grant_key import GrantKey
from worker.api.parameters import TokenParameters
from worker.api.problems import NO_STORE, ApiProblem
from worker.api.service import Service, service_of
from worker.vault.db.errors import explained
from worker.vault.grants import queries
from worker.vault.grants.consent_link import consent_link

# After these a user has to act.
LINKED_PROBLEMS = frozenset({"consent-needed", "token-expired", "not-connected"})


async def reauthorize_url(
    service: Service, tenant: str | None, user_id: str, connection: str, needs: Iterable[str] = ()
) -> str | None:
    """Return the link that renews a user's consent.

    None where the operator has set no ``[reconnect]`` for the tenant, and for an administrator's grant.
    """
    if service.settings.reconnect is None or not user_id:
        return None
    tenant = tenant or await _only_tenant(service)
    application = service.settings.reconnect_application(tenant) if tenant else None
    if tenant is None or application is None:
        return None
    async with explained():
        return await consent_link(
            service.database,
            application,
            tenant=tenant,
            connection=connection,
            user_id=user_id,
            needs=needs,
            now=datetime.now(UTC),
        )


async def _only_tenant(service: Service) -> str | None:
    """Return the tenant that is meant where nobody says which."""
    async with explained():
        known = service.tenants or await queries.list_tenants(service.database)
    return known[0] if len(known) == 1 else None


async def add_link(
    service: Service, problem: ApiProblem, tenant: str | None, user_id: str, connection: str
) -> ApiProblem:
    """Add the link where the user has to act."""
    if problem.type.code in LINKED_PROBLEMS:
        missing = problem.members.get("missing_scopes") or ()
        problem.members["reauthorize_url"] = await reauthorize_url(
            service, tenant, user_id, connection, missing
        )
    return problem


async def reconnect(request: Request) -> Response:
    """Return the link, to a consumer or to the user."""
    service = service_of(request)
    caller = await service.authentication.caller(request)
    wanted = TokenParameters.of(request)
    if caller.is_user:
        if caller.user_id() != wanted.user_id:
            raise ApiProblem("not-allowed", "this is another user's link")
    elif not caller.reading().may_read(GrantKey(wanted.tenant or "", wanted.connection, wanted.user_id)):
        raise ApiProblem("not-allowed", "the consumer may not read this user's tokens of this connection")
    link = await reauthorize_url(service, wanted.tenant, wanted.user_id, wanted.connection, wanted.needs)
    if link is None:
        raise ApiProblem("not-found", "the operator has set no [reconnect], or the tenant has to be named")
    found = {"reauthorize_url": link, "user_id": wanted.user_id, "connection": wanted.connection}
    return JSONResponse(found, headers=NO_STORE)
