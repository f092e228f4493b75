"""The TOML file, and the environment's tenant."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, ValidationError, ValidationInfo, model_validator

from token_vault.errors import ConfigurationError
from token_vault.home import absolute
from token_vault.secret import SecretDict, hide
from worker.http.loopback import is_https
from worker.settings.api import ApiSettings
from worker.settings.connections import ConnectionSettings, ProviderSettings
from worker.settings.consumers import AuditSettings, ConsumerSettings, check_consumers
from worker.settings.hooks import HookSettings
from worker.settings.lines import find_line
from worker.settings.metrics import MetricsSettings
from worker.settings.problems import (
    Fault,
    Place,
    SettingProblem,
    SettingsError,
    WrongSettings,
    find_problems,
    suggest,
)
from worker.settings.proxy import ProxySettings
from worker.settings.reconnect import ReconnectSettings
from worker.settings.section import Section
from worker.settings.tenants import TenantSettings
from worker.settings.webhooks import EventSettings, WebhookSettings

DEFAULT_TENANT = "default"
_TABLES_BY_NAME = ("tenants", "providers", "connections", "webhooks", "consumers", "proxy")


class Schedule(Section):
    """The intervals of beat's tasks, in seconds."""

    renew: float = Field(default=5, gt=0, allow_inf_nan=False)
    changes: float = Field(default=60, gt=0, allow_inf_nan=False)
    connections: float = Field(default=600, gt=0, allow_inf_nan=False)
    full: float = Field(default=86_400, gt=0, allow_inf_nan=False)
    events: float = Field(default=5, gt=0, allow_inf_nan=False)


class Deletion(Section):
    """What happens to users whom Auth0 no longer has.

    Attributes:
        settle: seconds that a user has to be missing before anything is erased. Longer than the lag of Auth0's search.
        share: the part of a tenant's users that may be missing at a time. If more are, nothing is erased until the
            operator confirms it.
        keep: seconds that a tombstone is kept.
    """

    settle: float = Field(default=300, ge=0, allow_inf_nan=False)
    share: float = Field(default=0.1, ge=0, le=1)
    keep: float = Field(default=30 * 86_400, gt=0, allow_inf_nan=False)


class File(Section):
    """The whole file.

    Attributes:
        tenants: by name; a tenant given by ``AUTH0_*`` is called ``default``.
        providers: the operator's settings of providers, by name.
        connections: the operator's settings of connections, by name.
        egress: the addresses from which this program calls, for providers that list them.
        egress_check_url: answers a call with the address that it came from.
        schedule: how often beat's tasks run.
        deletion: when missing users are erased.
        webhooks: receivers of events, by name.
        events: how events are delivered.
        consumers: apps that may read tokens, by name.
        audit: how records of reads are kept.
        proxy: provider APIs that front ends may call, by connection.
        reconnect: how users consent again; None if the vault makes no links.
        api: the HTTP API.
        hooks: who may tell the vault that something has changed.
        metrics: where workers and beat serve metrics.
    """

    tenants: Mapping[str, TenantSettings] = Field(default_factory=dict)
    providers: Mapping[str, ProviderSettings] = Field(default_factory=dict)
    connections: Mapping[str, ConnectionSettings] = Field(default_factory=dict)
    egress: tuple[IPvAnyNetwork, ...] = ()
    egress_check_url: str | None = None
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
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _check_tables_together(self, info: ValidationInfo) -> Self:
        # The names include tenants whose own tables have mistakes, as other tables may refer to them.
        tenants = tuple((info.context or {}).get("tenants") or self.tenants)
        faults = [
            *check_consumers(self.consumers),
            *_check_tenants(self, tenants),
            *_check_providers(self.connections, self.providers.keys()),
            *_check_egress(self),
        ]
        if faults:
            raise WrongSettings(faults)
        return self


def _check_tenants(file: File, tenants: Sequence[str]) -> Iterator[Fault]:
    """Find tables whose tenant is missing or unknown.

    The same user id may be another user's at another tenant.
    """
    tables: dict[Place, str | None] = {("proxy", name): each.tenant for name, each in file.proxy.items()}
    if file.reconnect is not None:
        tables["reconnect",] = file.reconnect.tenant
    for place, tenant in tables.items():
        if tenant is None and len(tenants) > 1:
            yield place, f"has to name its tenant: there are {', '.join(tenants)}", None
    # Another process may have its tenant from AUTH0_*.
    known = {**dict.fromkeys(tenants), DEFAULT_TENANT: None}
    for place, tenant in (
        *_named_tenants(file),
        *(((*place, "tenant"), name) for place, name in tables.items()),
    ):
        if tenant is not None and tenant not in known:
            message = f"names the tenant {tenant}, which is none of {', '.join(known)}"
            yield place, message + suggest(tenant, known), tenant


def _named_tenants(file: File) -> Iterator[tuple[Place, str]]:
    """Yield the tenants that tables name, and where."""
    for section, tables in (("webhooks", file.webhooks), ("consumers", file.consumers)):
        for name, table in tables.items():
            for tenant in table.tenants or ():
                yield (section, name, "tenants"), tenant


def _check_providers(connections: Mapping[str, ConnectionSettings], own: Collection[str]) -> Iterator[Fault]:
    """Find connections with an unknown provider."""
    from worker import providers

    for name, connection in connections.items():
        if connection.provider is None or connection.provider in own:
            continue
        try:
            providers.get(connection.provider)
        except ConfigurationError as error:
            message = f"{error}{suggest(connection.provider, [*providers.names(), *own])}"
            yield ("connections", name, "provider"), message, connection.provider


def _check_egress(file: File) -> Iterator[Fault]:
    """Find a missing or wrong ``egress_check_url``."""
    if (url := file.egress_check_url) is None:
        if file.egress or any(each.egress for each in file.connections.values()):
            yield (
                ("egress_check_url",),
                "is missing: it answers the address that egress is compared with",
                None,
            )
        return
    if not is_https(urlsplit(url)):
        yield ("egress_check_url",), "has to be https; plain http goes to loopback only", url


def read_file(path: Path | None, environment_tenant: Mapping[str, Any]) -> File:
    """Read the file, and add the tenant of ``AUTH0_*``.

    Args:
        path: of the file; None for none.
        environment_tenant: the values of ``AUTH0_*``, by the names of a table ``[tenants.NAME]``.

    Raises:
        SettingsError: has all mistakes, each with its place or variable, and no secret.
    """
    text = _read_text(path)
    raw = _parse(path, text)
    problems: list[SettingProblem] = []
    tenants = raw.get("tenants", {})
    # An audience or a plan alone makes no tenant, but is added to one of the file.
    adds = environment_tenant.keys() - {"audience", "plan"} or (
        environment_tenant and isinstance(tenants, dict) and DEFAULT_TENANT in tenants
    )
    if adds and isinstance(tenants, dict):  # anything else is refused below
        merged = _merged(environment_tenant, tenants.pop(DEFAULT_TENANT, {}), problems)
        raw["tenants"] = SecretDict({**tenants, DEFAULT_TENANT: merged})
    file, faults = _validate(raw, has_tenant=not problems)
    problems += (_problem(fault, path, text, environment_tenant) for fault in faults)
    if problems or file is None:
        raise SettingsError(problems)
    return file


def _validate(raw: dict[str, Any], *, has_tenant: bool) -> tuple[File | None, list[tuple[Place, str, str]]]:
    """Validate, and again without the tables that have mistakes.

    So mistakes between several tables are found as well, although they are checked only once each table is valid.

    Args:
        raw: the tables.
        has_tenant: whether to check the default tenant; False if its mistakes are known already.
    """
    names = raw.get("tenants")
    context = {"tenants": list(names) if isinstance(names, dict) else []}
    if not has_tenant and isinstance(names, dict):
        raw = SecretDict(
            {**raw, "tenants": {name: each for name, each in names.items() if name != DEFAULT_TENANT}}
        )
    faults: list[tuple[Place, str, str]] = []
    while True:
        try:
            return File.model_validate(raw, context=context), faults
        except ValidationError as error:
            found = list(find_problems(error, File, raw))
            faults += found
            if any(not fault["loc"] for fault in error.errors(include_input=False, include_url=False)):
                return None, faults  # mistakes between tables, which are checked last
            raw = _without(raw, [place for place, _, _ in found])


def _without(raw: Mapping[str, Any], places: Iterable[Place]) -> dict[str, Any]:
    left = SecretDict(
        {name: SecretDict(each) if isinstance(each, dict) else each for name, each in raw.items()}
    )
    for section, *names in places:
        table = left.get(str(section))
        if names and isinstance(table, dict) and section in _TABLES_BY_NAME:
            table.pop(names[0], None)
        else:
            left.pop(str(section), None)
    return left


def _problem(
    fault: tuple[Place, str, str], path: Path | None, text: str, environment_tenant: Mapping[str, Any]
) -> SettingProblem:
    place, message, value = fault
    if place[:2] == ("tenants", DEFAULT_TENANT) and len(place) > 2 and place[2] in environment_tenant:
        return SettingProblem(f"AUTH0_{str(place[2]).upper()}", message, value)
    line = find_line(text, place)
    source = f"{path}, line {line}" if line else str(path or "the environment")
    return SettingProblem(f"[{'.'.join(map(str, place))}]" if place else "", message, value, source)


def _merged(environment: Mapping[str, Any], table: Any, problems: list[SettingProblem]) -> Any:
    """Merge the tenant of ``AUTH0_*`` with ``[tenants.default]``.

    A value that both have is a problem.
    """
    if not isinstance(table, dict):
        return table
    for name in environment:
        if twice := table.keys() & {name, f"{name}_env", f"{name}_file"}:
            message = (
                f"AUTH0_{name.upper()} and {min(twice)} of [tenants.{DEFAULT_TENANT}] are both set: keep one"
            )
            problems.append(SettingProblem("", message))
    merged = SecretDict({**table, **environment})
    given = {name.removesuffix("_env").removesuffix("_file") for name in merged}
    needed = {
        "AUTH0_DOMAIN": {"domain"},
        "AUTH0_CLIENT_ID": {"client_id"},
        "AUTH0_CLIENT_SECRET or AUTH0_PRIVATE_KEY": {"client_secret", "private_key"},
    }
    if missing := [variable for variable, names in needed.items() if not names & given]:
        message = f"the Auth0 tenant is half configured: set {' and '.join(missing)} as well"
        problems.append(SettingProblem("", message))
    return merged


def _read_text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return absolute(path, "TOKEN_VAULT_CONFIG").read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        message = f"points to {path}, which is not in UTF-8: save it as UTF-8"
        raise SettingsError([SettingProblem("TOKEN_VAULT_CONFIG", message)]) from None
    except OSError as error:
        message = f"points to {path}, which cannot be read: {error.strerror}"
        raise SettingsError([SettingProblem("TOKEN_VAULT_CONFIG", message)]) from None


def _parse(path: Path | None, text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = hide(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([SettingProblem("", f"is not valid TOML: {error}", source=str(path))]) from None
    return found
