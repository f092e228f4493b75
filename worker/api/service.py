"""What the API's routes share: readers, consumers, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from token_vault import AsyncTokenVault
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.api.access_tokens import Verifier
from worker.api.callers import Authentication
from worker.api.consumers import Consumers
from worker.api.jwks import Jwks
from worker.api.metrics import Metrics
from worker.settings import Settings
from worker.vault.vault import Database, open_database

MAX_DATABASE_CONNECTIONS = 4  # beside the readers' own


@dataclass(frozen=True, slots=True)
class Service:
    """What is open while the API serves.

    Attributes:
        database: for consumers and lists.
        database_url: where the vault is.
        readers: by tenant; by None the one that reads of all tenants.
        authentication: finds out who calls.
    """

    settings: Settings
    database: Database
    database_url: Secret
    readers: dict[str | None, AsyncTokenVault]
    authentication: Authentication
    metrics: Metrics

    @property
    def tenants(self) -> tuple[str, ...]:
        """The configured tenants."""
        return tuple(self.settings.tenants)


@asynccontextmanager
async def open_service(settings: Settings, metrics: Metrics) -> AsyncIterator[Service]:
    """Open what the routes need; the access ring is enough.

    Raises:
        ConfigurationError: a setting or the access ring is missing or wrong.
    """
    url = settings.database_url
    if url is None:
        raise ConfigurationError("no database is running")
    # One reader serves all callers, so that they share its refreshes and connections.
    readers = {
        tenant: AsyncTokenVault(url, settings.access_keys, tenant=tenant)
        for tenant in (None, *settings.tenants)
    }
    async with open_database(url, connections=MAX_DATABASE_CONNECTIONS) as database:
        authentication = Authentication(Consumers(database), verifier_of(settings))
        try:
            yield Service(settings, database, url, readers, authentication, metrics)
        finally:
            for reader in readers.values():
                await reader.close()


def verifier_of(settings: Settings) -> Verifier | None:
    """Return the verifier of callers' access tokens.

    None where no audience is set.

    Raises:
        ConfigurationError: nobody said whose tokens they are.
    """
    api = settings.api
    if api.audience is None:
        return None
    issuer = api.issuer or _only_issuer(settings)
    return Verifier(Jwks(f"{issuer}.well-known/jwks.json"), issuer, api.audience)


def _only_issuer(settings: Settings) -> str:
    domains = [tenant.domain for tenant in settings.tenants.values()]
    if len(domains) != 1:
        raise ConfigurationError("[api] has an audience: set its issuer too, as there is not one tenant")
    domain = domains[0].rstrip("/")
    return f"{domain}/" if "://" in domain else f"https://{domain}/"


def service_of(request: Request) -> Service:
    """Return what the routes share."""
    service: Service = request.state.service
    return service
