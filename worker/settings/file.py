"""The TOML file, and the environment's tenant."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from token_vault.errors import ConfigurationError
from token_vault.home import absolute
from token_vault.secret import SecretDict, hide
from worker.settings.api import ApiSettings
from worker.settings.connections import ConnectionSettings, ProviderSettings
from worker.settings.consumers import AuditSettings, ConsumerSettings, check_consumers
from worker.settings.hooks import HookSettings
from worker.settings.problems import explain
from worker.settings.proxy import ProxySettings
from worker.settings.reconnect import ReconnectSettings
from worker.settings.section import Section
from worker.settings.tenants import TenantSettings
from worker.settings.webhooks import EventSettings, WebhookSettings

DEFAULT_TENANT = "default"


class Schedule(Section):
    """How often beat looks, in seconds."""

    renew: float = Field(default=5, gt=0, allow_inf_nan=False)
    changes: float = Field(default=60, gt=0, allow_inf_nan=False)
    connections: float = Field(default=600, gt=0, allow_inf_nan=False)
    full: float = Field(default=86_400, gt=0, allow_inf_nan=False)
    events: float = Field(default=5, gt=0, allow_inf_nan=False)


class Deletion(Section):
    """What happens to users whom Auth0 no longer has.

    Attributes:
        settle: seconds for which somebody has to seem gone before anything is erased: longer than Auth0's search lags.
        share: what part of a tenant's users may seem gone at once; where more do, nothing is erased until the
            operator says so.
        keep: seconds for which a tombstone is kept.
    """

    settle: float = Field(default=300, ge=0, allow_inf_nan=False)
    share: float = Field(default=0.1, ge=0, le=1)
    keep: float = Field(default=30 * 86_400, gt=0, allow_inf_nan=False)


class File(Section):
    """The whole file.

    Attributes:
        tenants: by name; a tenant given by ``AUTH0_*`` is called ``default``.
        providers: what the operator says of providers, by name.
        connections: the operator's overrides by connection name.
        webhooks: where events are posted, by name.
        consumers: who may read what, by name.
        proxy: what front ends may call at providers, by connection.
        reconnect: where users consent again.
        hooks: who may tell that something has changed.
    """

    tenants: Mapping[str, TenantSettings] = Field(default_factory=dict)
    providers: Mapping[str, ProviderSettings] = Field(default_factory=dict)
    connections: Mapping[str, ConnectionSettings] = Field(default_factory=dict)
    schedule: Schedule = Schedule()
    deletion: Deletion = Deletion()
    webhooks: Mapping[str, WebhookSettings] = Field(default_factory=dict)
    events: EventSettings = EventSettings()
    consumers: Mapping[str, ConsumerSettings] = Field(default_factory=dict)
    audit: AuditSettings = AuditSettings()
    proxy: Mapping[str, ProxySettings] = Field(default_factory=dict)
    reconnect: ReconnectSettings | None = None
    api: ApiSettings = ApiSettings()
    hooks: HookSettings = HookSettings()

    @model_validator(mode="after")
    def _distinct_consumers(self) -> Self:
        check_consumers(self.consumers)
        return self

    @model_validator(mode="after")
    def _named_tenants(self) -> Self:
        """Refuse tables that do not say whose users they mean.

        The same id may be somebody else's at another tenant.
        """
        tables = {f"proxy.{name}": each.tenant for name, each in self.proxy.items()}
        if self.reconnect is not None:
            tables["reconnect"] = self.reconnect.tenant
        # Another process may have its tenant from AUTH0_*.
        known = {*self.tenants, DEFAULT_TENANT}
        for table, tenant in tables.items():
            if tenant is None and len(self.tenants) > 1:
                raise ValueError(f"[{table}] has to name its tenant: there are {', '.join(self.tenants)}")
            if tenant is not None and tenant not in known:
                raise ValueError(f"[{table}] names the tenant {tenant}, which is none of {', '.join(known)}")
        return self


def read_file(path: Path | None, environment_tenant: Mapping[str, Any]) -> File:
    """Read the file, and add the tenant of ``AUTH0_*``.

    Args:
        path: of the file.
        environment_tenant: what ``AUTH0_*`` say, by the names that a table of the file has for it.

    Raises:
        ConfigurationError: naming the place in the file or the variable, never a value.
    """
    raw = _read_toml(path)
    tenants = raw.get("tenants", {})
    # An audience or a plan alone is no tenant, but may add to one.
    adds = environment_tenant.keys() - {"audience", "plan"} or (
        environment_tenant and isinstance(tenants, dict) and DEFAULT_TENANT in tenants
    )
    if adds and isinstance(tenants, dict):  # what is no table is refused below
        merged = _merged(environment_tenant, tenants.pop(DEFAULT_TENANT, {}))
        raw["tenants"] = {**tenants, DEFAULT_TENANT: merged}
    try:
        return File.model_validate(raw)
    except ValidationError as error:
        sources = [*([str(path)] if path else []), *(["the environment"] if environment_tenant else [])]
        raise ConfigurationError(f"{' and '.join(sources)}: {explain(error)}") from None


def _merged(environment: Mapping[str, Any], table: Any) -> Any:
    """Merge the tenant of ``AUTH0_*`` with ``[tenants.default]``.

    Neither overrides the other.
    """
    if not isinstance(table, dict):
        return table
    for name in environment:
        if twice := table.keys() & {name, f"{name}_env", f"{name}_file"}:
            raise ConfigurationError(
                f"AUTH0_{name.upper()} and {min(twice)} of [tenants.{DEFAULT_TENANT}] are both set: keep one"
            )
    merged = SecretDict({**table, **environment})
    given = {name.removesuffix("_env").removesuffix("_file") for name in merged}
    needed = {
        "AUTH0_DOMAIN": {"domain"},
        "AUTH0_CLIENT_ID": {"client_id"},
        "AUTH0_CLIENT_SECRET or AUTH0_PRIVATE_KEY": {"client_secret", "private_key"},
    }
    if missing := [variable for variable, names in needed.items() if not names & given]:
        raise ConfigurationError(f"the Auth0 tenant is half configured: set {' and '.join(missing)} as well")
    return merged


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found: dict[str, Any] = hide(
            tomllib.loads(absolute(path, "TOKEN_VAULT_CONFIG").read_text(encoding="utf-8"))
        )
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"TOKEN_VAULT_CONFIG points to {path}, which cannot be read: {type(error).__name__}"
        ) from None
    return found
