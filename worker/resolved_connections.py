"""A connection made ready for renewal: what Auth0 shows of it, under what the operator's configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from token_vault.errors import CannotDecrypt
from worker import providers, renewal_policy
from worker.loopback import is_loopback
from worker.settings import ConnectionSettings, ProviderSettings, Settings
from worker.vault.connections import stored as table
from worker.vault.connections.stored import StoredConnection
from worker.vault.db.database import Vault
from worker.vault.schedule import EAGER, RenewalPolicy

DELETED = providers.Problem("deleted", "Auth0 does not have this connection any more")


@dataclass(frozen=True, slots=True)
class ResolvedConnection:
    """A connection and its client at the provider.

    Attributes:
        client: what a renewal needs; None where ``problem`` says why there is none.
        fingerprint: of the client; a circuit is opened only for the client that was refused.
        provider: as the operator declares it and answers have shown it; None without a client.
        policy: how the connection's grants are kept.
        stored: as the vault has it: circuit, suspicion, and what answers have shown.
    """

    tenant: str
    name: str
    strategy: str
    client: providers.Client | None
    problem: providers.Problem | None
    fingerprint: bytes | None
    circuit_opened_at: datetime | None
    circuit_until: datetime | None
    circuit_code: str | None
    circuit_blame: str | None
    stored: StoredConnection = field(repr=False)
    provider: providers.Provider | None = None
    policy: RenewalPolicy = EAGER
    suspect_grant: int | None = None
    away: int = 0


class ConnectionResolver:
    """Reads connections from the vault and resolves their clients, opening sealed options once each."""

    def __init__(self, vault: Vault, settings: Settings) -> None:
        self._vault = vault
        self._settings = settings
        self._declared = renewal_policy.declared(settings)
        self._options: dict[tuple[str, str], tuple[bytes | None, Mapping[str, Any] | None]] = {}

    async def load(
        self, tenants: list[str], name: str | None = None, *, now: datetime | None = None
    ) -> dict[tuple[str, str], ResolvedConnection]:
        """Return the connections by tenant and name, and record in the vault what became of them.

        Args:
            now: the time, by default the database's.
        """
        found = await table.stored(self._vault, tenants, name)
        return {(stored.tenant, stored.name): await self._ready(stored, now) for stored in found}

    async def _ready(self, stored: StoredConnection, now: datetime | None) -> ResolvedConnection:
        resolved = self._resolve(stored)
        client = resolved if isinstance(resolved, providers.Client) else None
        problem = resolved if isinstance(resolved, providers.Problem) else None
        fingerprint = self._fingerprint(client) if client else None
        given = self._settings.providers.get(client.provider) if client else None
        own = self._settings.connection(stored.tenant, stored.name)
        provider = self._provider(client.provider, given, stored) if client else None
        kept = renewal_policy.renewal_policy(provider, given, own, stored) if provider else EAGER
        changed = await table.settle(
            self._vault,
            stored,
            provider=client.provider if client else stored.provider,
            client_id=client.client_id if client else None,
            fingerprint=fingerprint,
            problem=problem.code if problem else None,
            problem_message=problem.message if problem else None,
            renew=stored.renew if provider is None else "on-read" if kept.read_window else "eager",
            now=now,
        )
        circuit_is_new = changed and fingerprint != stored.client_fingerprint
        return ResolvedConnection(
            tenant=stored.tenant,
            name=stored.name,
            strategy=stored.strategy,
            client=client,
            problem=problem,
            fingerprint=fingerprint,
            circuit_opened_at=None if circuit_is_new else stored.circuit_opened_at,
            circuit_until=None if circuit_is_new else stored.circuit_until,
            circuit_code=None if circuit_is_new else stored.circuit_code,
            circuit_blame=None if circuit_is_new else stored.circuit_blame,
            suspect_grant=None if circuit_is_new else stored.suspect_grant,
            away=0 if circuit_is_new else stored.away,
            stored=stored,
            provider=provider,
            policy=kept,
        )

    def _provider(
        self, name: str, given: ProviderSettings | None, stored: StoredConnection
    ) -> providers.Provider:
        found = self._declared.get(name) or providers.get(name)
        # What another provider has shown over this connection says nothing of this one.
        return (
            found
            if stored.provider not in (None, name)
            else renewal_policy.with_observations(found, given, stored)
        )

    def _resolve(self, stored: StoredConnection) -> providers.Client | providers.Problem:
        key = (stored.tenant, stored.name)
        cached = self._options.get(key)
        # By ciphertext: two syncs at once may both have stored the next version.
        if cached is None or cached[0] != stored.options_sealed:
            try:
                cached = (stored.options_sealed, table.open_options(self._vault, stored))
            except CannotDecrypt as error:
                return providers.Problem("cannot_open", str(error))
            self._options[key] = cached
        resolved = providers.resolve(
            stored.strategy,
            cached[1],
            override(self._settings.connection(stored.tenant, stored.name)),
            allow_loopback_http=self._tenant_is_on_loopback(stored.tenant),
            declared=self._declared,
        )
        is_deleted = stored.missing_since is not None and stored.options_sealed is None
        return DELETED if is_deleted and isinstance(resolved, providers.Problem) else resolved

    def _fingerprint(self, client: providers.Client) -> bytes:
        extra = [part for pair in sorted(client.extra.items()) for part in pair]
        return self._vault.fingerprints.of(
            client.provider, client.token_url, client.client_id, client.client_secret, client.auth, *extra
        )

    def _tenant_is_on_loopback(self, tenant: str) -> bool:
        configured = self._settings.tenants.get(tenant)
        if configured is None:
            return False
        domain = configured.domain if "//" in configured.domain else f"//{configured.domain}"
        return is_loopback(urlsplit(domain).hostname)


def override(configured: ConnectionSettings | None) -> providers.Override | None:
    """Turn the operator's settings for a connection into what the providers understand."""
    if configured is None:
        return None
    return providers.Override(
        provider=configured.provider,
        token_url=configured.token_url,
        client_id=configured.client_id,
        client_secret=configured.client_secret,
        client_auth=providers.ClientAuth(configured.client_auth) if configured.client_auth else None,
        scope=configured.scope,
        redirect_uri=configured.redirect_uri,
        revocation_url=configured.revocation_url,
        extra=configured.extra,
    )
