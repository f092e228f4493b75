"""Combines the settings of the environment and the TOML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from token_vault.errors import ConfigurationError
from token_vault.home import DEMO, is_demo_home, vault_home
from token_vault.postgres_address import PostgresAddress
from token_vault.secret import Secret
from token_vault.transport_security import require_tls
from worker import traces
from worker.http.outgoing_proxies import OutgoingProxies
from worker.reconnect import ReconnectApplication
from worker.settings.connections import ConnectionSettings
from worker.settings.environment import Environment
from worker.settings.file import DEFAULT_TENANT, File, read_file
from worker.settings.hooks import HookSettings, with_environment_secret
from worker.settings.metrics import MetricsSettings
from worker.settings.problems import SettingProblem, SettingsError


class Settings(File):
    """All settings: the file's and the environment's.

    Attributes:
        home: the folder of embedded servers and generated keys.
        spool: the folder of answers that Postgres could not take yet; by default ``spool`` under ``home``.
        database_url: None for the embedded Postgres.
        database_direct_url: address of the same database without the pooler; None if there is no pooler.
        redis_url: None for the embedded Redis if Postgres is embedded too, else for no Redis.
        access_keys, refresh_keys: the two rings of Fernet keys, newest first; empty if not given.
        liveness_file: a worker or beat touches it while it makes progress; None for none.
        readiness_file: it makes this once it has begun its work; None for none.
    """

    home: Path
    spool: Path
    database_url: Secret | None
    database_direct_url: Secret | None = None
    redis_url: Secret | None
    access_keys: tuple[Secret, ...]
    refresh_keys: tuple[Secret, ...]
    liveness_file: Path | None = None
    readiness_file: Path | None = None

    @property
    def embedded(self) -> bool:
        """Whether Postgres is embedded, as ``DATABASE_URL`` is unset."""
        return self.database_url is None

    def reconnect_application(self, tenant: str) -> ReconnectApplication | None:
        """Return the application by which a tenant's users consent again.

        None if ``[reconnect]`` has none for this tenant. A process that only serves the API may not know the tenant's
        domain; then it uses the access tokens' issuer, which is the same domain.
        """
        reconnect = self.reconnect
        if reconnect is None or reconnect.tenant not in (None, tenant):
            return None
        known = self.tenants.get(tenant)
        domain = reconnect.domain or (known.domain if known else None if self.tenants else self.api.issuer)
        return reconnect.application(domain) if domain else None

    def connection(self, tenant: str, name: str) -> ConnectionSettings | None:
        """Return the operator's settings of a tenant's connection."""
        found = self.connections.get(name)
        return found if found is not None and found.tenant in (None, tenant) else None


def load(config: Path | None = None, *, home: Path | None = None) -> Settings:
    """Read the environment and the TOML file.

    Args:
        config: the file to read instead of the one that ``TOKEN_VAULT_CONFIG`` names.
        home: the folder to use instead of the one that ``TOKEN_VAULT_HOME`` names.

    Raises:
        SettingsError: has all mistakes, each with its variable or place in the file, and no secret.
        ConfigurationError: a key's file cannot be read.
    """
    problems: list[SettingProblem] = []
    environment = Environment.read(problems)
    problems += _check_addresses(environment)
    file = None
    try:
        file = read_file(config or environment.token_vault_config, environment.tenant)
        hooks = _hooks(file, environment.auth0_hook_secret)
    except SettingsError as error:
        problems += error.problems
    except ConfigurationError as error:
        problems.append(SettingProblem("", str(error)))
    if home is None and file is not None:
        home, refused = _choose_home(environment.home, file)
        problems += refused
    if problems or file is None:
        raise SettingsError(problems)
    environment = environment.model_copy(update={"token_vault_home": home})
    return Settings(
        home=environment.home,
        spool=environment.spool,
        database_url=environment.database_url,
        database_direct_url=environment.database_direct_url,
        redis_url=environment.redis_url,
        access_keys=environment.access_keys,
        refresh_keys=environment.refresh_keys,
        liveness_file=environment.token_vault_liveness_file,
        readiness_file=environment.token_vault_readiness_file,
        **dict(file) | {"hooks": hooks, "metrics": _metrics(file, environment.token_vault_metrics_port)},
    )


def _choose_home(home: Path, file: File) -> tuple[Path, list[SettingProblem]]:
    """Choose between a tenant's folder and the demo's.

    They never share a folder, as the demo's may be deleted at any time.
    """
    if not file.tenants.keys() - {DEMO}:
        return vault_home(home), []
    if not is_demo_home(home):
        return home, []
    message = f"names the demo's own folder, {home}: a tenant needs another one"
    return home, [SettingProblem("TOKEN_VAULT_HOME", message)]


def _check_addresses(environment: Environment) -> Iterator[SettingProblem]:
    for name in ("DATABASE_URL", "DATABASE_DIRECT_URL"):
        url = getattr(environment, name.lower())
        try:
            if url is not None:
                require_tls(PostgresAddress.parse(url, name))
        except ConfigurationError as error:
            yield SettingProblem("", str(error))
    try:
        OutgoingProxies.read()
    except ConfigurationError as error:
        yield SettingProblem("", str(error))
    for variable, message, value in traces.find_mistakes():
        yield SettingProblem(variable, message, value)


def _metrics(file: File, port: int | None) -> MetricsSettings:
    """Prefer the environment's port.

    Processes on one machine share the file, but need different ports.
    """
    return file.metrics if port is None else file.metrics.model_copy(update={"port": port})


def _hooks(file: File, secret: Secret | None) -> HookSettings:
    """Add the environment's secret, for the only tenant.

    The HTTP API may run without any tenant's credentials: then the tenants' names in the file cannot be checked.
    """
    names = list(file.tenants)
    hooks = with_environment_secret(file.hooks, secret, names[0] if len(names) == 1 else DEFAULT_TENANT)
    # The file may also name the default tenant, which another process may have from AUTH0_*.
    known = {*names, *(file.hooks.auth0.keys() & {DEFAULT_TENANT})}
    if names and (unknown := hooks.auth0.keys() - known):
        raise ConfigurationError(
            f"a hook's secret is set for tenant {min(unknown)}, which is not configured: {', '.join(names)}"
        )
    return hooks
