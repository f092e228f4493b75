"""``GET …/reconnect/{connection}``: the link for a new consent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from token_vault.grant_key import GrantKey
from worker.api.callers import Caller
from worker.api.parameters import TokenParameters
from worker.api.problems import NO_STORE, ApiProblem
from worker.api.service import Service, service_of
from worker.vault.db.errors import explained
from worker.vault.grants.consent_link import consent_link

# Problems that the user can solve by a new consent.
LINKED_PROBLEMS = frozenset({"consent-needed", "token-expired", "not-connected"})


async def reauthorize_url(
    service: Service, tenant: str | None, user_id: str, connection: str, needs: Iterable[str] = ()
) -> str | None:
    """Return the link by which a user consents again.

    None if the operator has set no ``[reconnect]`` for the tenant, and for an admin grant.

    Args:
        tenant: its name; None to take the one of ``[reconnect]``, or the vault's only one.
        user_id: empty for an admin grant.
        needs: scopes to ask consent for.
    """
    if service.settings.reconnect is None or not user_id:
        return None
    tenant = tenant or _configured_tenant(service) or await service.tenants.only()
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


async def add_link(
    service: Service, problem: ApiProblem, tenant: str | None, user_id: str, connection: str
) -> ApiProblem:
    """Add the reconnect link, if the user has to act."""
    if problem.type.code in LINKED_PROBLEMS:
        missing = problem.members.get("missing_scopes") or ()
        problem.members["reauthorize_url"] = await reauthorize_url(
            service, tenant, user_id, connection, missing
        )
    return problem


async def reconnect(request: Request) -> Response:
    """Answer a consumer or the user with the link."""
    service = service_of(request)
    caller = await service.authentication.caller(request)
    wanted = TokenParameters.of(request)
    tenant = await (_tenant_of_user if caller.is_user else _tenant_of_consumer)(service, caller, wanted)
    link = await reauthorize_url(service, tenant, wanted.user_id, wanted.connection, wanted.needs)
    if link is None:
        raise ApiProblem(
            "not-found", "the operator has set no [reconnect], or no tenant in it, and there are several"
        )
    found = {"reauthorize_url": link, "user_id": wanted.user_id, "connection": wanted.connection}
    return JSONResponse(found, headers=NO_STORE)


async def _tenant_of_user(service: Service, caller: Caller, wanted: TokenParameters) -> str | None:
    """Return the tenant of a user who calls.

    It is not the caller's choice: at another tenant the same id may be somebody else's.

    Raises:
        ApiProblem: ``not-allowed``.
    """
    if caller.user_id() != wanted.user_id:
        raise ApiProblem("not-allowed", "this is another user's link")
    tenant = _configured_tenant(service) or await service.tenants.only()
    if wanted.tenant not in (None, tenant):
        raise ApiProblem("not-allowed", "a user's access token is for the user of one tenant")
    return tenant


async def _tenant_of_consumer(service: Service, caller: Caller, wanted: TokenParameters) -> str | None:
    """Return the tenant that a consumer means.

    Raises:
        ApiProblem: ``not-allowed``, or ``bad-request`` if it has to name one.
    """
    consumer = caller.reading()
    tenant = await service.tenants.choose(consumer, wanted.tenant or _configured_tenant(service))
    if not consumer.may_read(GrantKey(tenant or "", wanted.connection, wanted.user_id)):
        raise ApiProblem("not-allowed", "the consumer may not read this user's tokens of this connection")
    return tenant


def _configured_tenant(service: Service) -> str | None:
    reconnect = service.settings.reconnect
    return reconnect.tenant if reconnect else None
