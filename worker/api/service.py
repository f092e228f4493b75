"""Everything that the API's routes share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from token_vault import AsyncTokenVault, Token
from token_vault.errors import ConfigurationError
from token_vault.postgres_address import PostgresAddress
from token_vault.read_records import ReadRecord, ReadRecorder
from token_vault.secret import Secret
from worker import traces
from worker.api.access_tokens import Verifier
from worker.api.callers import Authentication
from worker.api.consumers import Consumers
from worker.api.dpop import ProofVerifier
from worker.api.hooks.security_event_token import Transmitter
from worker.api.jwks import Jwks
from worker.api.metrics import Metrics
from worker.api.proxy.call_limits import CallLimits
from worker.api.proxy.session import ProviderSession, open_session
from worker.api.tenants import Tenants
from worker.consumer_rules import ConsumerRules
from worker.settings import Settings
from worker.settings.hooks import TransmitterSettings
from worker.vault.vault import Database, open_database

MAX_DATABASE_CONNECTIONS = 4  # besides those of the readers


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that the API's routes share, while it is open.

    Attributes:
        database: the vault's, for consumers, tenants and lists of grants.
        database_url: the vault's address.
        recorder: records reads for the audit.
        authentication: verifies callers' credentials.
        provider_session: the proxy's connections to providers.
        call_limits: how many calls the proxy makes at a time.
        transmitters: verify security events, by the transmitter's name.
        tenants: the tenants that callers may name.
    """

    settings: Settings
    database: Database
    database_url: Secret
    recorder: ReadRecorder
    authentication: Authentication
    metrics: Metrics
    provider_session: ProviderSession
    call_limits: CallLimits
    transmitters: Mapping[str, Transmitter]
    tenants: Tenants
    _readers: dict[tuple[str | None, bool], AsyncTokenVault] = field(default_factory=dict)

    def reader(self, tenant: str | None, *, refreshing: bool = False) -> AsyncTokenVault:
        """Return the reader that all callers share.

        Args:
            tenant: its name; None to read of all tenants.
            refreshing: whether to return the reader of callers who replace tokens. It does not return a token that was
                rejected through it; the other reader does so until the token is replaced.
        """
        key = (tenant, refreshing)
        if key not in self._readers:
            # Reads are recorded by ``record``, as the database knows only this process's role, not the consumer.
            self._readers[key] = AsyncTokenVault(
                self.database_url,
                self.settings.access_keys,
                tenant=tenant,
                audit="off",
                direct_url=self.settings.database_direct_url,
                cache=self.settings.api.cache and not refreshing,
            )
        return self._readers[key]

    def forget(self, token: Token) -> None:
        """Remove a replaced token from all readers' caches."""
        for reader in self._readers.values():
            reader.forget(token)

    async def record(self, consumer: ConsumerRules, **read: Any) -> None:
        """Record a read.

        Raises:
            TemporarilyUnavailable: the consumer's audit is strict, and the read cannot be recorded.
        """
        record = ReadRecord(**read, consumer=consumer.name, source="api", at=time.monotonic())
        await self.write_record(record, strict=consumer.audit == "strict")

    async def write_record(self, record: ReadRecord, *, strict: bool) -> None:
        """Write a record of a read.

        Args:
            record: what was read, and by whom.
            strict: whether to wait until it is written; otherwise it is written in the background.

        Raises:
            TemporarilyUnavailable: it is strict, and the record cannot be written.
        """
        self.metrics.count_read(record.outcome)
        if strict:
            await asyncio.to_thread(self.recorder.record_now, record)
        else:
            self.recorder.record(record)

    async def close(self) -> None:
        """Close the readers, and write the pending records."""
        for reader in self._readers.values():
            await reader.close()
        await asyncio.to_thread(self.recorder.close)


@asynccontextmanager
async def open_service(settings: Settings, metrics: Metrics) -> AsyncIterator[Service]:
    """Open everything that the routes share.

    Of the key rings only the access ring is needed.

    Raises:
        ConfigurationError: a setting or the access ring is missing or wrong.
    """
    url = settings.database_url
    if url is None:
        raise ConfigurationError("no database is running")
    traces.start("token-vault-api")
    call_limits = CallLimits(settings.api.max_concurrent)
    async with (
        open_database(url, connections=MAX_DATABASE_CONNECTIONS) as database,
        open_session(call_limits.max_calls) as provider_session,
    ):
        public_url = settings.api.public_url
        proofs = ProofVerifier(public_url) if public_url else None
        authentication = Authentication(Consumers(database), verifier_of(settings), proofs)
        transmitters = {name: transmitter_of(each) for name, each in settings.hooks.events.items()}
        service = Service(
            settings,
            database,
            url,
            ReadRecorder(PostgresAddress.parse(url)),
            authentication,
            metrics,
            provider_session,
            call_limits,
            transmitters,
            Tenants(tuple(settings.tenants), database),
        )
        service.reader(None)  # so that malformed keys fail at the start
        try:
            yield service
        finally:
            await service.close()
            await asyncio.to_thread(traces.flush)


def verifier_of(settings: Settings) -> Verifier | None:
    """Return the verifier of callers' access tokens.

    None if no audience is set.

    Raises:
        ConfigurationError: the issuer is not set, and there is not exactly one tenant.
    """
    api = settings.api
    if api.audience is None:
        return None
    issuer = api.issuer or _only_issuer(settings)
    return Verifier(Jwks(f"{issuer}.well-known/jwks.json"), issuer, api.audience)


def transmitter_of(settings: TransmitterSettings) -> Transmitter:
    """Return the verifier of a transmitter's security events."""
    urls = [settings.issuer, settings.discovery_url, settings.jwks_uri or ""]
    named = frozenset(urlsplit(url).hostname or "" for url in urls)
    if settings.jwks_uri is not None:
        return Transmitter(settings, Jwks(settings.jwks_uri, named=named))
    return Transmitter(settings, Jwks(settings.discovery_url, issuer=settings.issuer, named=named))


def _only_issuer(settings: Settings) -> str:
    domains = [tenant.domain for tenant in settings.tenants.values()]
    if len(domains) != 1:
        raise ConfigurationError(
            "[api] has an audience: set its issuer too, such as https://acme.eu.auth0.com/, as this process knows "
            f"{len(domains)} tenants"
        )
    domain = domains[0].rstrip("/")
    return f"{domain}/" if "://" in domain else f"https://{domain}/"


def service_of(request: Request) -> Service:
    """Return the service that a request belongs to."""
    service: Service = request.scope["state"]["service"]  # request.state would be built anew at each access
    return service
