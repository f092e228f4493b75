"""Settings from the environment and one TOML file, validated once.

Every secret can also be given as ``NAME_FILE``, the path of a file that holds it (container secrets).
"""

from __future__ import annotations

import base64
import binascii
import os
import string
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.errors import ConfigurationError
from worker.tokens import Secret

SECRET_NAMES = (
    "AUTH0_CLIENT_SECRET",
    "AUTH0_PRIVATE_KEY",
    "DATABASE_URL",
    "REDIS_URL",
    "VAULT_ACCESS_KEYS",
    "VAULT_REFRESH_KEYS",
)

DEFAULT_TENANT = "default"


def _secret(value: object) -> object:
    return Secret(value) if isinstance(value, str) else value


def _keys(value: object) -> object:
    if isinstance(value, str):
        return tuple(Secret(key) for part in value.replace("\n", ",").split(",") if (key := part.strip()))
    return value


SecretField = Annotated[Secret, BeforeValidator(_secret)]
KeysField = Annotated[tuple[Secret, ...], BeforeValidator(_keys)]


class _Section(BaseModel):
    """A table of the TOML file: unknown names are errors, so that a typing mistake is not silently nothing."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _indirect_secrets(cls, values: Any) -> Any:
        """Replace ``x_env`` and ``x_file`` by the secret ``x`` that they point to."""
        if not isinstance(values, dict):
            return values
        resolved = dict(values)
        for name in ("client_secret", "private_key", "secret"):
            if name not in cls.model_fields:
                continue
            variable, path = resolved.pop(f"{name}_env", None), resolved.pop(f"{name}_file", None)
            if sum(source is not None for source in (variable, path, resolved.get(name))) > 1:
                raise ValueError(f"give only one of {name}, {name}_env, {name}_file")
            if variable is not None:
                # Not echoed, like the path below: the secret itself may stand there by mistake.
                if not os.environ.get(str(variable)):
                    raise ValueError(f"{name}_env names an environment variable that is not set")
                resolved[name] = os.environ[str(variable)]
            if path is not None:
                resolved[name] = _read_secret_file(str(path), f"{name}_file")
        return resolved


PlanName = Literal[
    "free", "essentials", "professional", "enterprise", "enterprise-dev", "custom", "unlimited"
]


class LimitSettings(_Section):
    """One rate limit of a custom plan: a rate, given in one of two units, and a burst."""

    per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    burst: float = Field(ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if (self.per_second is None) == (self.per_minute is None):
            raise ValueError("give either per_second or per_minute")
        return self

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.per_second or (self.per_minute or 0.0) / 60


class LimitsSettings(_Section):
    """The rate limits of a custom plan by group of endpoints; ``all`` counts what has none of its own."""

    all: LimitSettings | None = None
    read_users: LimitSettings | None = None
    connections: LimitSettings | None = None
    logs: LimitSettings | None = None
    other: LimitSettings | None = None

    @model_validator(mode="after")
    def _rest(self) -> Self:
        if self.all is None and self.other is None:
            raise ValueError("give a limit for all, or for other")
        return self

    def given(self) -> dict[str, LimitSettings]:
        """The limits by group, those that are set."""
        return {name: limit for name in type(self).model_fields if (limit := getattr(self, name)) is not None}


class TenantSettings(_Section):
    """One Auth0 tenant, the machine-to-machine application that reads it, and how much of its limit is ours.

    Attributes:
        plan: whose rate limits hold; None where nothing was said, which is taken for the smallest
            unless there are ``limits``.
        share: of each limit, what is left to the operator's other programs.
        limits: of plan ``custom``.
    """

    domain: str
    client_id: str
    client_secret: SecretField | None = None
    private_key: SecretField | None = None
    audience: str | None = None
    plan: PlanName | None = None
    share: float = Field(default=0.2, ge=0, lt=1)
    limits: LimitsSettings | None = None
    # Seconds for which the tenant keeps its log: a day on the smallest plan.
    log_retention: float = Field(default=86_400, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _limits_are_custom(self) -> Self:
        if self.plan == "custom" and self.limits is None:
            raise ValueError("plan custom needs a table of limits")
        if self.limits is not None and self.plan not in (None, "custom"):
            raise ValueError("limits are for plan custom")
        return self

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if bool(self.client_secret) == bool(self.private_key):
            raise ValueError(
                "give either client_secret or private_key (AUTH0_CLIENT_SECRET or AUTH0_PRIVATE_KEY)"
            )
        return self


Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86_400, allow_inf_nan=False)]


class UpkeepSettings(_Section):
    """How grants are kept: always fresh, or only those that are read.

    Attributes:
        read_window: seconds; a grant read within it is kept fresh under ``on-read``.
        keep_alive: seconds after which an unused refresh token is used at the latest.
    """

    renew: Literal["eager", "on-read"] | None = None
    # Reads are noted twice a day at the most: a shorter window could close between two notes.
    read_window: Annotated[float, Field(ge=86_400, le=10 * 365 * 86_400, allow_inf_nan=False)] | None = None
    keep_alive: Seconds | None = None


class ProviderSettings(UpkeepSettings):
    """What the operator says of a provider: it corrects a built-in declaration, or makes a new generic one.

    Attributes:
        rotates: whether a renewal ends the refresh token that it spent.
        grace: seconds for which a spent refresh token still works.
        idle_life, absolute_life: seconds that a refresh token lives unused, and at most.
        margin: seconds before a token's end at which it is renewed.
        expires_unit: what ``expires_in`` counts.
        default_life: seconds an access token lives where the answer does not say it.
    """

    rotates: bool | None = None
    grace: Annotated[float, Field(ge=0, le=10 * 365 * 86_400, allow_inf_nan=False)] | None = None
    idle_life: Seconds | None = None
    absolute_life: Seconds | None = None
    margin: Seconds | None = None
    expires_unit: Literal["seconds", "milliseconds", "absolute"] | None = None
    default_life: Seconds | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.keep_alive and self.idle_life and self.keep_alive >= self.idle_life:
            raise ValueError("keep_alive must be shorter than idle_life, or the refresh token dies before")
        if self.grace and self.rotates is False:
            raise ValueError("grace has no meaning where rotates is false: a refresh token outlives its use")
        return self


class ConnectionSettings(UpkeepSettings):
    """What the operator sets for a connection; each overrides what Auth0 shows."""

    tenant: str | None = None
    provider: str | None = None
    token_url: str | None = None
    client_id: str | None = None
    client_secret: SecretField | None = None
    client_auth: (
        Literal["post", "basic", "none", "client_secret_post", "client_secret_basic", "private_key_jwt"]
        | None
    ) = None
    scope: str | None = None
    redirect_uri: str | None = None
    revocation_url: str | None = None
    extra: Mapping[str, str] = Field(default_factory=dict)


class Schedule(_Section):
    """How often beat looks, in seconds."""

    renew: float = Field(default=5, gt=0, allow_inf_nan=False)
    changes: float = Field(default=60, gt=0, allow_inf_nan=False)
    connections: float = Field(default=600, gt=0, allow_inf_nan=False)
    full: float = Field(default=86_400, gt=0, allow_inf_nan=False)
    events: float = Field(default=5, gt=0, allow_inf_nan=False)


class Deletion(_Section):
    """What becomes of users whom Auth0 does not have any more.

    Attributes:
        settle: seconds for which somebody has to seem gone before anything is erased: longer than Auth0's search lags.
        share: what part of a tenant's users may seem gone at once; where more do, nothing is erased until the
            operator says so.
        keep: seconds for which a tombstone is kept.
    """

    settle: float = Field(default=300, ge=0, allow_inf_nan=False)
    share: float = Field(default=0.1, ge=0, le=1)
    keep: float = Field(default=30 * 86_400, gt=0, allow_inf_nan=False)


class EventKind(StrEnum):
    """What events are called: a contract with receivers."""

    REAUTHORIZATION_REQUIRED = "grant.reauthorization_required"
    LOST_IN_ROTATION = "grant.lost_in_rotation"
    HEALED = "grant.healed"
    EXPIRING = "grant.expiring"
    BROKEN = "connection.broken"
    MENDED = "connection.mended"
    FORGOTTEN = "user.forgotten"

    def is_in(self, names: Sequence[str]) -> bool:
        """Whether one of these is its name, or the beginning of it: ``grant``, ``grant.*``."""
        return any(self == name or self.startswith(f"{name.rstrip('.*')}.") for name in names)


def webhook_key(secret: Secret) -> bytes:
    """The signing key in a Standard Webhooks secret: ``whsec_`` and base64 of 24 to 64 bytes.

    Raises:
        ValueError: it is none.
    """
    _, prefix, encoded = secret.reveal().rpartition("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True) if prefix else b""
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64 or not secret.reveal().startswith("whsec_"):
        raise ValueError("a webhook's secret is whsec_ and the base64 of 24 to 64 random bytes")
    return key


def _webhook_secrets(value: object) -> object:
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("give one secret, or several: a list, or with spaces in between")
    return tuple(map(Secret, parts))


class WebhookSettings(_Section):
    """Where events are posted, and which.

    Attributes:
        secret: signs what is posted; several while one is being replaced.
        events: kinds, or their beginnings (``grant``, ``connection``); empty for all.
        tenants: None for all.
    """

    url: str
    secret: Annotated[tuple[Secret, ...], BeforeValidator(_webhook_secrets)] = Field(repr=False)
    events: tuple[str, ...] = ()
    tenants: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        parts = urlsplit(self.url)
        loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
            raise ValueError("url has to be https; plain http goes to loopback only")
        if not self.secret:
            raise ValueError("secret is empty")
        for secret in self.secret:
            webhook_key(secret)
        for name in self.events:
            if not any(kind.is_in([name]) for kind in EventKind):
                raise ValueError(f"no event is called {name}: {', '.join(EventKind)}")
        return self


class EventSettings(_Section):
    """How events are told; times in seconds.

    Attributes:
        reauthorize_url: a link where a user consents again, with ``{tenant}``, ``{connection}``, ``{user_id}``.
        expiring: how long before its end a token is told of that nothing can renew.
        give_up: how long a delivery is tried.
        keep: how long events are kept, delivered or not.
    """

    reauthorize_url: str | None = None
    expiring: float = Field(default=600, ge=0, allow_inf_nan=False)
    give_up: float = Field(default=3 * 86400, gt=0, allow_inf_nan=False)
    keep: float = Field(default=30 * 86400, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.keep < self.give_up:
            raise ValueError("keep has to be as long as give_up, at the least")
        if self.reauthorize_url is not None:
            _check_template(self.reauthorize_url)
        return self


def _check_template(template: str) -> None:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        parsed = [("", "", "", None)]
    for _, name, spec, conversion in parsed:
        if name is not None and (name not in ("tenant", "connection", "user_id") or spec or conversion):
            raise ValueError(
                "reauthorize_url takes {tenant}, {connection} and {user_id}, and no other braces"
            )
    if urlsplit(template).scheme not in ("https", "http"):
        raise ValueError("reauthorize_url has to be a whole URL")


class _File(_Section):
    tenants: dict[str, TenantSettings] = Field(default_factory=dict)
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    connections: dict[str, ConnectionSettings] = Field(default_factory=dict)
    schedule: Schedule = Schedule()
    deletion: Deletion = Deletion()
    webhooks: dict[str, WebhookSettings] = Field(default_factory=dict)
    events: EventSettings = EventSettings()


def _read_secret_file(path: str, name: str) -> str:
    """Read a secret; raises ValueError, which names neither the path nor what the file holds."""
    try:
        found = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: the file cannot be read ({type(error).__name__})") from None
    if not found:
        raise ValueError(f"{name}: the file is empty")
    return found


def _secret_file(path: str, name: str) -> str:
    try:
        return _read_secret_file(path, name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads ``NAME_FILE`` for each secret ``NAME``."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        del field
        name = field_name.upper()
        path = os.environ.get(f"{name}_FILE") if name in SECRET_NAMES else None
        if path and os.environ.get(name):
            raise ConfigurationError(f"both {name} and {name}_FILE are set: keep one")
        return _secret_file(path, f"{name}_FILE") if path else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found


class _ReaderEnvironment(BaseSettings):
    """What a reader is told; whatever else stands in its environment is another program's."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        enable_decoding=False,
        hide_input_in_errors=True,
    )

    database_url: SecretField | None = None
    redis_url: SecretField | None = None
    vault_access_keys: KeysField = ()
    token_vault_home: Path = Path(".token-vault")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del init_settings, dotenv_settings, file_secret_settings
        return env_settings, _SecretFiles(settings_cls)


class _Environment(_ReaderEnvironment):
    auth0_domain: str | None = None
    auth0_client_id: str | None = None
    auth0_client_secret: SecretField | None = None
    auth0_private_key: SecretField | None = None
    auth0_audience: str | None = None
    auth0_plan: str | None = None
    vault_refresh_keys: KeysField = ()
    token_vault_config: Path | None = None
    token_vault_spool: Path | None = None


class Settings(BaseModel):
    """Everything the vault is told from outside.

    Attributes:
        home: where embedded servers and generated keys live.
        spool: where answers wait that Postgres could not take; by default ``spool`` under ``home``.
        database_url: None means the embedded Postgres.
        redis_url: None means the embedded Redis where Postgres is embedded too, else no Redis.
        access_keys, refresh_keys: the two rings of Fernet keys, newest first; empty where not given.
        tenants: by name; a tenant given by ``AUTH0_*`` is called ``default``.
        providers: what the operator says of providers, by name.
        connections: the operator's overrides by connection name.
        webhooks: where events are posted, by name.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    home: Path
    spool: Path
    database_url: Secret | None
    redis_url: Secret | None
    access_keys: tuple[Secret, ...]
    refresh_keys: tuple[Secret, ...]
    tenants: Mapping[str, TenantSettings]
    providers: Mapping[str, ProviderSettings] = Field(default_factory=dict)
    connections: Mapping[str, ConnectionSettings]
    schedule: Schedule = Schedule()
    deletion: Deletion = Deletion()
    webhooks: Mapping[str, WebhookSettings] = Field(default_factory=dict)
    events: EventSettings = EventSettings()

    @property
    def embedded(self) -> bool:
        """Whether Postgres runs under ``home`` instead of being given by ``DATABASE_URL``."""
        return self.database_url is None

    def connection(self, tenant: str, name: str) -> ConnectionSettings | None:
        """The operator's settings for a connection of this tenant."""
        found = self.connections.get(name)
        return found if found is not None and found.tenant in (None, tenant) else None


def load(config: Path | None = None) -> Settings:
    """Read the environment and the TOML file.

    Args:
        config: the file to read in place of the one that ``TOKEN_VAULT_CONFIG`` names.

    Raises:
        ConfigurationError: naming the variable or the place in the file, never a value.
    """
    try:
        environment = _Environment()
    except ValidationError as error:
        raise ConfigurationError(f"the environment: {_explain(error)}") from None
    file = _load_file(config or environment.token_vault_config, _environment_tenant(environment))
    home = _absolute(environment.token_vault_home, "TOKEN_VAULT_HOME")
    embedded = environment.database_url is None
    return Settings(
        home=home,
        spool=_absolute(environment.token_vault_spool or home / "spool", "TOKEN_VAULT_SPOOL"),
        database_url=environment.database_url,
        redis_url=environment.redis_url,
        access_keys=environment.vault_access_keys or (home_keys(home, "access") if embedded else ()),
        refresh_keys=environment.vault_refresh_keys or (home_keys(home, "refresh") if embedded else ()),
        tenants=file.tenants,
        providers=file.providers,
        connections=file.connections,
        schedule=file.schedule,
        deletion=file.deletion,
        webhooks=file.webhooks,
        events=file.events,
    )


def load_reader() -> Settings:
    """Read what a reader needs, and nothing else: it may live in an environment with an Auth0 client of its own.

    Raises:
        ConfigurationError: naming the variable, never a value.
    """
    try:
        environment = _ReaderEnvironment()
    except ValidationError as error:
        raise ConfigurationError(f"the environment: {_explain(error)}") from None
    home = _absolute(environment.token_vault_home, "TOKEN_VAULT_HOME")
    embedded = environment.database_url is None
    return Settings(
        home=home,
        spool=home / "spool",
        database_url=environment.database_url,
        redis_url=environment.redis_url,
        access_keys=environment.vault_access_keys or (home_keys(home, "access") if embedded else ()),
        refresh_keys=(),
        tenants={},
        connections={},
        schedule=Schedule(),
        deletion=Deletion(),
    )


def _absolute(path: Path, name: str) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:  # a tilde before a name that is no user's
        raise ConfigurationError(f"{name} names the home folder of a user who is not known here") from None


def key_file(home: Path, ring: str) -> Path:
    """Where an embedded vault keeps the keys of a ring: made on its first start, mode 0600."""
    return home / "keys" / ring


def home_keys(home: Path, ring: str) -> tuple[Secret, ...]:
    """Read the keys of a ring that an embedded vault keeps; none where it has no such file.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    path = key_file(home, ring)
    with suppress(PermissionError):  # a folder of another user's: reading says so
        if not path.exists():
            return ()
    return tuple(
        Secret(line) for line in _secret_file(str(path), f"{ring} keys under TOKEN_VAULT_HOME").split()
    )


def _environment_tenant(environment: _Environment) -> dict[str, Any]:
    """Return what ``AUTH0_*`` say of a tenant, by the names that a table of the file has for it."""
    names = ("domain", "client_id", "client_secret", "private_key", "audience", "plan")
    given = {name: getattr(environment, f"auth0_{name}") for name in names}
    return {name: value for name, value in given.items() if value}


def _load_file(path: Path | None, environment_tenant: Mapping[str, Any]) -> _File:
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
        return _File.model_validate(raw)
    except ValidationError as error:
        sources = [*([str(path)] if path else []), *(["the environment"] if environment_tenant else [])]
        raise ConfigurationError(f"{' and '.join(sources)}: {_explain(error)}") from None


def _merged(environment: Mapping[str, Any], table: Any) -> Any:
    """Put the tenant of ``AUTH0_*`` and the table ``[tenants.default]`` together; neither overrules the other."""
    if not isinstance(table, dict):
        return table
    for name in environment:
        if twice := table.keys() & {name, f"{name}_env", f"{name}_file"}:
            raise ConfigurationError(
                f"AUTH0_{name.upper()} and {min(twice)} of [tenants.{DEFAULT_TENANT}] are both set: keep one"
            )
    merged = {**table, **environment}
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
        return tomllib.loads(_absolute(path, "TOKEN_VAULT_CONFIG").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"TOKEN_VAULT_CONFIG points to {path}, which cannot be read: {type(error).__name__}"
        ) from None


def _explain(error: ValidationError) -> str:
    """Name each place and what is wrong there; never the input, which may be a secret."""
    return "; ".join(
        f"[{'.'.join(str(part) for part in problem['loc'])}] {problem['msg']}"
        if problem["loc"]
        else problem["msg"]
        for problem in error.errors(include_input=False, include_context=False, include_url=False)
    )
