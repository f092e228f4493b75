"""What one process needs to work on the vault."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

import structlog

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker import embedded, traces
from worker.auth0 import PLANS, Credentials, Limit, ManagementClient, Plan, RateLimitBudget
from worker.erasure import Eraser
from worker.renewal.engine import MAX_RENEWALS, RenewalEngine
from worker.renewal.http import HttpClient, http_client
from worker.renewal.on_demand import OnDemand
from worker.resolved_connections import ConnectionResolver
from worker.settings import Settings, TenantSettings
from worker.sync.tenant_sync import TenantSync
from worker.sync.token_store import VaultTokenStore
from worker.vault import pauses
from worker.vault.changed_users.queue import CONNECTIONS
from worker.vault.claims.spool import Spool
from worker.vault.vault import Vault, open_vault
from worker.webhooks.dispatcher import Dispatcher
from worker.webhooks.http import http_client as webhook_client

log = structlog.get_logger(__name__)

# For each kind of work, the number of tenants served at a time. Each holds one or two connections for its locks and
# needs one more: without this bound, lock holders could exhaust the pool and deadlock.
MAX_TENANTS_AT_A_TIME = 5


@dataclass(slots=True)
class Runtime:
    """An open vault with everything that works on it.

    Attributes:
        tenants: the names of the configured tenants.
        tenant_slots: a semaphore for each kind of work, which bounds the tenants served at a time.
    """

    settings: Settings
    vault: Vault
    connections: ConnectionResolver
    engine: RenewalEngine
    on_demand: OnDemand
    http: HttpClient
    dispatcher: Dispatcher
    _open: AsyncExitStack
    tenant_slots: defaultdict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(MAX_TENANTS_AT_A_TIME))
    )
    _auth0: dict[str, ManagementClient] = field(default_factory=dict)

    @property
    def tenants(self) -> list[str]:
        """The names of the configured tenants."""
        return list(self.settings.tenants)

    async def auth0(self, tenant: str) -> ManagementClient:
        """Return a tenant's Management API client.

        Raises:
            ConfigurationError: the tenant is not configured, its credentials are malformed, or the vault is a copy.
        """
        await self.vault.check_location()
        if tenant not in self._auth0:
            credentials = credentials_of(self.settings, tenant)
            store = VaultTokenStore(self.vault, tenant, credentials)
            client = ManagementClient(credentials, store, budget=budget_of(self.settings, tenant))
            self._auth0[tenant] = await self._open.enter_async_context(client)
        return self._auth0[tenant]

    async def tenant_sync(self, tenant: str, *, urgent: bool = False) -> TenantSync:
        """Return the sync of a tenant.

        Args:
            urgent: somebody waits for it, so its calls take precedence in the tenant's rate limit budget.

        Raises:
            ConfigurationError: as ``auth0``.
            TemporarilyUnavailable: the tenant is paused.
        """
        auth0 = await self.auth0(tenant)
        await pauses.check_tenant(self.vault, tenant)
        retention = timedelta(seconds=self.settings.tenants[tenant].log_retention)
        return TenantSync(
            tenant, self.vault, self.connections, auth0.urgent if urgent else auth0, retention=retention
        )

    async def eraser(self, tenant: str) -> Eraser:
        """Return the eraser of a tenant's grants.

        Raises:
            ConfigurationError: as ``auth0``.
        """
        return Eraser(
            tenant, self.vault, self.connections, await self.auth0(tenant), self.http, self.settings.deletion
        )

    async def sync_users(self, tenant: str, user_ids: list[str], urgent: bool) -> None:
        """Sync users by id; withdraw and erase missing ones.

        Args:
            user_ids: ``CONNECTIONS`` among them stands for the connections, which are synced first, as renewal needs
                their clients.
            urgent: as for ``tenant_sync``.

        Raises:
            Auth0Error, ConfigurationError: as ``TenantSync.sync_users``.
        """
        sync = await self.tenant_sync(tenant, urgent=urgent)
        if CONNECTIONS in user_ids:
            await sync.sync_connections()
        report = await sync.sync_users([user_id for user_id in user_ids if user_id != CONNECTIONS])
        log.info("sync.users_finished", tenant=tenant, users=len(user_ids), gone=report.gone)
        if report.absent:
            await (await self.eraser(tenant)).withdraw(report.absent)
        if report.gone:
            await (await self.eraser(tenant)).sweep()


@asynccontextmanager
async def open_runtime(settings: Settings, *, connections: int = 10) -> AsyncIterator[Runtime]:
    """Open the settings' vault, and everything that works on it.

    Args:
        connections: the most connections to Postgres.

    Raises:
        ConfigurationError, TemporarilyUnavailable: as ``open_vault``.
    """
    async with AsyncExitStack() as stack:
        traces.start("token-vault-worker")
        stack.callback(traces.flush)
        vault = await stack.enter_async_context(
            open_vault(
                database_url(settings),
                settings.access_keys,
                settings.refresh_keys,
                connections=connections,
                direct_url=settings.database_direct_url,
            )
        )
        http = await stack.enter_async_context(
            http_client(connections=4 * MAX_RENEWALS, named=_token_hosts(settings))
        )
        resolver = ConnectionResolver(vault, settings)
        engine = RenewalEngine(vault, resolver, http, Spool(settings.spool, vault.refresh))
        on_demand = OnDemand(vault, resolver, engine, listeners=max(1, connections // 2))
        webhook_http = await stack.enter_async_context(
            webhook_client(named=_hosts(each.url for each in settings.webhooks.values()))
        )
        dispatcher = Dispatcher(
            vault,
            settings.webhooks,
            settings.events,
            webhook_http,
            application_of=settings.reconnect_application,
        )
        yield Runtime(settings, vault, resolver, engine, on_demand, http, dispatcher, stack)


def _token_hosts(settings: Settings) -> frozenset[str]:
    """Return the hosts that the operator's settings name for tokens."""
    endpoints = [
        *(url for each in settings.connections.values() for url in (each.token_url, each.revocation_url)),
        *(url for each in settings.providers.values() for url in (each.token_url, each.refresh_url)),
    ]
    return _hosts(url for url in endpoints if url)


def _hosts(urls: Iterable[str]) -> frozenset[str]:
    return frozenset((urlsplit(url).hostname or "").removesuffix(".") for url in urls)


def database_url(settings: Settings) -> Secret:
    """Return the configured address of Postgres, or the embedded one's.

    Raises:
        ConfigurationError: none is configured, and no embedded one runs.
    """
    if settings.database_url is not None:
        return settings.database_url
    return embedded.running(settings.home).database_url


def redis_url(settings: Settings) -> Secret | None:
    """Return the configured address of Redis, or the embedded one's.

    None if no embedded one runs.
    """
    if settings.redis_url is not None:
        return settings.redis_url
    # A command beside a running `up` knows the address of Postgres, but not of Redis.
    found = embedded.find(settings.home) if settings.embedded or embedded.is_up(settings.home) else None
    return (found.redis_url or None) if found else None


def plan_of(configured: TenantSettings) -> Plan | None:
    """Return the tenant's plan; None if it has no limits.

    The default is the smallest plan: too small a plan costs time, too large a one takes calls from other programs.

    Raises:
        ConfigurationError: the limits name no group for the rest.
    """
    if configured.plan == "unlimited":
        return None
    if configured.limits is not None:
        given = configured.limits.given()
        return Plan("custom", {name: Limit(limit.rate, limit.burst) for name, limit in given.items()})
    return PLANS[configured.plan or "free"]


def budget_of(settings: Settings, tenant: str) -> RateLimitBudget | None:
    """Return the tenant's rate limit budget; None without limits."""
    configured = settings.tenants[tenant]
    plan = plan_of(configured)
    if plan is None:
        return None
    presumed = configured.plan is None and configured.limits is None
    return RateLimitBudget(
        tenant, plan, share=configured.share, presumed=presumed, redis_url=redis_url(settings)
    )


def credentials_of(settings: Settings, tenant: str) -> Credentials:
    """Return a tenant's machine-to-machine credentials.

    Raises:
        ConfigurationError: the tenant is not configured, or its credentials are malformed.
    """
    configured: TenantSettings | None = settings.tenants.get(tenant)
    if configured is None:
        raise ConfigurationError(
            "no Auth0 tenant is configured: set AUTH0_DOMAIN, AUTH0_CLIENT_ID and AUTH0_CLIENT_SECRET "
            "(or AUTH0_PRIVATE_KEY)"
        )
    try:
        return Credentials(
            domain=configured.domain,
            client_id=configured.client_id,
            client_secret=configured.client_secret,
            private_key=configured.private_key,
            audience=configured.audience,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"tenant {tenant}: {error}") from None
