"""What ``doctor`` looks at of Auth0: credentials and scopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from token_vault.errors import VaultError
from worker.cli import environment
from worker.cli.checks import Check, CheckResult

if TYPE_CHECKING:
    from worker.auth0 import ManagementClient
    from worker.settings import Settings


async def check_tenants(settings: Settings) -> Sequence[Check]:
    """Check each tenant with a new management token.

    The shared one in the vault has the scopes, and proves the credentials, of when it was minted.
    """
    from worker.auth0 import ManagementClient, MemoryTokenStore
    from worker.runtime import budget_of, credentials_of

    checks: list[Check] = []
    for tenant in environment.select_tenants(settings, None):
        try:
            client = ManagementClient(
                credentials_of(settings, tenant), MemoryTokenStore(), budget=budget_of(settings, tenant)
            )
        except VaultError as error:
            checks.append(Check(f"Auth0 {tenant}", CheckResult.FAIL, str(error)))
            continue
        async with client:
            checks += await _check_tenant(settings, tenant, client)
    return checks


async def _check_tenant(settings: Settings, tenant: str, auth0: ManagementClient) -> Sequence[Check]:
    from worker.auth0 import OPTIONAL_SCOPES, SCOPES
    from worker.auth0.errors import MissingScope

    name = f"Auth0 {tenant}"
    try:
        scopes = await auth0.scopes()
    except VaultError as error:
        return [Check(name, CheckResult.FAIL, str(error))]
    checks = [Check(name, CheckResult.OK, f"gives tokens to {settings.tenants[tenant].client_id}")]
    if scopes is None:
        return [*checks, Check("scopes", CheckResult.WARN, "Auth0 does not say which scopes it granted")]
    for scope in SCOPES:
        try:
            await auth0.require(scope)
            checks.append(Check(f"scope {scope}", CheckResult.OK, "granted"))
        except MissingScope as missing:
            checks.append(Check(f"scope {scope}", CheckResult.FAIL, str(missing)))
    return [*checks, *(_optional(scope, without, scopes) for scope, without in OPTIONAL_SCOPES.items())]


def _optional(scope: str, without: str, granted: frozenset[str]) -> Check:
    if scope in granted:
        return Check(f"scope {scope}", CheckResult.OK, "granted")
    return Check(f"scope {scope}", CheckResult.HINT, f"not granted, and not needed: without it {without}")
