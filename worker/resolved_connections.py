"""Connections with their OAuth clients, ready for renewal.

The operator's settings take precedence over Auth0's options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from token_vault.errors import CannotDecrypt, ConfigurationError
from token_vault.token_target import TokenTarget
from worker import providers, renewal_policy
from worker.egress import EgressCheck
from worker.http.loopback import is_loopback
from worker.settings import ConnectionSettings, Settings
from worker.vault.connections.circuits import Circuit
from worker.vault.connections.client import trust_host, update_client
from worker.vault.connections.connection import StoredConnection, decrypt_options, load_connections
from worker.vault.schedule import EAGER, RenewalPolicy
from worker.vault.vault import Vault

DELETED = providers.Problem("deleted", "Auth0 does not have this connection any more")
CLOSED = Circuit()


@dataclass(frozen=True, slots=True)
class ResolvedConnection:
    """A connection with its client at the provider.

    Attributes:
        stored: its row in the vault, with observations.
        client: what a renewal needs; None if ``problem`` says why there is none.
        fingerprint: of the client with its credentials; a circuit is open only for the client that was refused.
        client_identity: fingerprint of the client's id and token endpoint; refresh tokens belong to these, whatever
            the secret is.
        is_proven: the client's identity has never changed, or the client has renewed a grant since.
        provider: as declared by the operator and corrected by observations; None without a client.
        policy: how the connection's grants are kept fresh.
        circuit: the stored one, or a closed one if that was opened for another client.
        resources: patterns of the targets for which readers may ask tokens; None for any.
    """

    stored: StoredConnection = field(repr=False)
    client: providers.Client | None = None
    problem: providers.Problem | None = None
    fingerprint: bytes | None = None
    client_identity: bytes | None = None
    is_proven: bool = True
    provider: providers.Provider | None = None
    policy: RenewalPolicy = EAGER
    circuit: Circuit = CLOSED
    resources: tuple[str, ...] | None = None

    def allows(self, target: TokenTarget) -> bool:
        """Return whether readers may ask for this target."""
        wanted = (target.resource,) if target.resource else target.scopes
        patterns = self.resources
        return patterns is None or all(
            any(fnmatchcase(name, pattern) for pattern in patterns) for name in wanted
        )

    @property
    def is_suspected(self) -> bool:
        """Whether refusals suggest that the connection is at fault."""
        return self.stored.is_suspected or self.circuit.is_open

    @property
    def tenant(self) -> str:
        """The tenant's name."""
        return self.stored.tenant

    @property
    def name(self) -> str:
        """The connection's name at Auth0."""
        return self.stored.name

    @property
    def strategy(self) -> str:
        """Auth0's name for the kind of connection."""
        return self.stored.strategy


class ConnectionResolver:
    """Loads connections, and resolves their clients.

    The options of each connection are decrypted once, and again when they change.
    """

    def __init__(self, vault: Vault, settings: Settings) -> None:
        self._egress = EgressCheck(settings.egress_check_url) if settings.egress_check_url else None
        self._vault = vault
        self._settings = settings
        self._declared = renewal_policy.declared(settings)
        self._options: dict[tuple[str, str], tuple[bytes | None, Mapping[str, Any] | None]] = {}

    async def load(
        self, tenants: list[str], name: str | None = None, *, now: datetime | None = None
    ) -> dict[tuple[str, str], ResolvedConnection]:
        """Return connections by tenant and name; record how they resolve.

        Args:
            now: the time, by default the database's.
        """
        resolved = [self._resolve(stored) for stored in await load_connections(self._vault, tenants, name)]
        loaded = [await self._check_egress(connection) for connection in resolved]
        for connection in loaded:
            await self._record(connection, now)
        return {(connection.tenant, connection.name): connection for connection in loaded}

    def _resolve(self, stored: StoredConnection) -> ResolvedConnection:
        client = self._client(stored)
        fingerprint = None if isinstance(client, providers.Problem) else self._fingerprint(client)
        # A client with other credentials is tried: the circuit was opened for the earlier one.
        circuit = stored.circuit if fingerprint == stored.client_fingerprint else CLOSED
        if isinstance(client, providers.Problem):
            return ResolvedConnection(stored, problem=client, circuit=circuit)
        provider = self._provider(client.provider, stored)
        identity = self._vault.fingerprints.of(client.token_url, client.client_id)
        is_changed = stored.client_identity not in (None, identity)
        configured = self._settings.connection(stored.tenant, stored.name)
        return ResolvedConnection(
            stored,
            client=client,
            fingerprint=fingerprint,
            client_identity=identity,
            is_proven=not is_changed and (stored.client_changed_at is None or stored.renewed_at is not None),
            provider=provider,
            policy=self._policy(provider, stored),
            circuit=circuit,
            resources=configured.resources if configured else None,
        )

    async def _check_egress(self, connection: ResolvedConnection) -> ResolvedConnection:
        """Remove the client if this process's address is not listed."""
        if self._egress is None or connection.client is None or connection.provider is None:
            return connection
        configured = self._settings.connection(connection.tenant, connection.name)
        listed = configured.egress if configured else None
        if listed is None:
            listed = self._settings.egress if connection.provider.lists_addresses else ()
        problem = await self._egress.find_problem(connection.client.token_url, listed) if listed else None
        return replace(connection, client=None, provider=None, problem=problem) if problem else connection

    async def _record(self, connection: ResolvedConnection, now: datetime | None) -> None:
        """Record how a connection resolves, for ``status`` and for readers."""
        stored, client, problem = connection.stored, connection.client, connection.problem
        renew = "on-read" if connection.policy.read_window else "eager"
        await update_client(
            self._vault,
            stored,
            provider=client.provider if client else stored.provider,
            client_id=client.client_id if client else None,
            fingerprint=connection.fingerprint,
            identity=connection.client_identity,
            problem=problem.code if problem else None,
            problem_message=problem.message if problem else None,
            token_host=providers.token_host(client.token_url)
            if client and not self._has_own_url(stored)
            else None,
            renew=renew if client else stored.renew,
            now=now,
        )

    def _provider(self, name: str, stored: StoredConnection) -> providers.Provider:
        declared = self._declared.get(name) or providers.get(name)
        if stored.provider not in (None, name):
            return declared  # the stored observations belong to another provider
        return renewal_policy.with_observations(declared, self._settings.providers.get(name), stored)

    def _policy(self, provider: providers.Provider, stored: StoredConnection) -> RenewalPolicy:
        return renewal_policy.renewal_policy(
            provider,
            self._settings.providers.get(provider.name),
            self._settings.connection(stored.tenant, stored.name),
            stored,
        )

    def _client(
        self, stored: StoredConnection, *, ignore_host: bool = False
    ) -> providers.Client | providers.Problem:
        try:
            options = self._decrypt_options(stored)
        except CannotDecrypt as error:
            return providers.Problem("cannot_open", str(error))
        resolved = providers.resolve(
            stored.strategy,
            options,
            _override(self._settings.connection(stored.tenant, stored.name)),
            allow_loopback_http=self._tenant_is_on_loopback(stored.tenant),
            declared=self._declared,
        )
        is_deleted = stored.missing_since is not None and stored.options_ciphertext is None
        if isinstance(resolved, providers.Problem):
            return DELETED if is_deleted else resolved
        return (None if ignore_host else self._check_host(stored, resolved)) or resolved

    def _check_host(self, stored: StoredConnection, client: providers.Client) -> providers.Problem | None:
        if self._has_own_url(stored):
            return None  # the operator's settings name the host
        configured = self._settings.connection(stored.tenant, stored.name)
        return providers.check_host(
            stored.name,
            self._declared.get(client.provider) or providers.get(client.provider),
            client.token_url,
            stored.token_host,
            custom=providers.is_custom(stored.strategy, configured.provider if configured else None),
            emulated=self._tenant_is_on_loopback(stored.tenant),
        )

    def _has_own_url(self, stored: StoredConnection) -> bool:
        configured = self._settings.connection(stored.tenant, stored.name)
        return configured is not None and configured.token_url is not None

    async def trust(self, tenant: str, name: str) -> tuple[str | None, str]:
        """Trust the token host that Auth0 shows now.

        Returns:
            The host before, None if there was none, and the host from now on.

        Raises:
            ConfigurationError: there is no such connection, its host is the operator's own, or it has another problem.
        """
        found = await load_connections(self._vault, [tenant], name)
        if not found:
            raise ConfigurationError(
                f"no connection is called {name}: `token-vault status` names those that are known"
            )
        (stored,) = found
        if self._has_own_url(stored):
            raise ConfigurationError(
                f"the token URL of connection {name} is set in the TOML file: trusted already"
            )
        client = self._client(stored, ignore_host=True)
        if isinstance(client, providers.Problem):
            raise ConfigurationError(f"connection {name}: {client.message}")
        host = providers.token_host(client.token_url)
        await trust_host(self._vault, tenant, name, host)
        await self.load([tenant], name)
        return stored.token_host, host

    def _decrypt_options(self, stored: StoredConnection) -> Mapping[str, Any] | None:
        key = (stored.tenant, stored.name)
        cached = self._options.get(key)
        # Compared by ciphertext, not by version: two concurrent syncs may both have stored the same version.
        if cached is None or cached[0] != stored.options_ciphertext:
            cached = self._options[key] = (stored.options_ciphertext, decrypt_options(self._vault, stored))
        return cached[1]

    def _fingerprint(self, client: providers.Client) -> bytes:
        return self._vault.fingerprints.of(*client.credentials)

    def _tenant_is_on_loopback(self, tenant: str) -> bool:
        configured = self._settings.tenants.get(tenant)
        if configured is None:
            return False
        domain = configured.domain if "//" in configured.domain else f"//{configured.domain}"
        return is_loopback(urlsplit(domain).hostname)


def _override(configured: ConnectionSettings | None) -> providers.Override | None:
    """Translate the operator's settings for the providers."""
    if configured is None:
        return None
    return providers.Override(
        provider=configured.provider,
        token_url=configured.token_url,
        client_id=configured.client_id,
        client_secret=configured.client_secret,
        client_auth=providers.ClientAuth(configured.client_auth) if configured.client_auth else None,
        client_key=_client_key(configured),
        scope=configured.scope,
        redirect_uri=configured.redirect_uri,
        revocation_url=configured.revocation_url,
        extra=configured.extra,
        headers=configured.headers,
    )


def _client_key(configured: ConnectionSettings) -> providers.ClientKey | None:
    if configured.client_key is None:
        return None
    return providers.ClientKey(
        configured.client_key,
        configured.client_certificate,
        configured.client_key_id,
        configured.client_assertion_audience,
        configured.client_assertion_issuer,
    )
