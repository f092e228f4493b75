"""Settings from the environment.

Each secret ``NAME`` can also be given as ``NAME_FILE``, the path of a file that contains it; a key ring also as
``NAME_COMMAND``, a command that prints it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from token_vault.environment import read_secret, split_keys
from token_vault.errors import ConfigurationError
from token_vault.home import DEFAULT_HOME, absolute, home_keys
from token_vault.secret import Secret, SecretDict
from worker.redis_address import RedisAddress
from worker.settings.problems import SettingProblem, find_problems
from worker.settings.section import SecretField

SECRET_NAMES = (
    "AUTH0_CLIENT_SECRET",
    "AUTH0_HOOK_SECRET",
    "AUTH0_PRIVATE_KEY",
    "DATABASE_URL",
    "DATABASE_DIRECT_URL",
    "REDIS_URL",
    "VAULT_ACCESS_KEYS",
    "VAULT_REFRESH_KEYS",
)


def _keys(value: object) -> object:
    if isinstance(value, str):
        return split_keys(value)
    return value


def _redis_address(url: Secret | None) -> Secret | None:
    if url is not None:
        try:
            RedisAddress.parse(url)
        except ConfigurationError as error:
            raise ValueError(str(error).removeprefix("REDIS_URL ")) from None
    return url


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


# The default tenant's variables. If one is set, all are needed, but only one of the last two.
_CREDENTIALS = {
    "AUTH0_DOMAIN": "auth0_domain",
    "AUTH0_CLIENT_ID": "auth0_client_id",
    "AUTH0_CLIENT_SECRET": "auth0_client_secret",
    "AUTH0_PRIVATE_KEY": "auth0_client_secret",
}
_REFERENCE = re.compile(r"\$\{[^}]*\}|\$[A-Za-z_]\w*|\$\(.*\)|\{\{.*\}\}", re.DOTALL)

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
KeysField = Annotated[tuple[Secret, ...], BeforeValidator(_keys)]


class Environment(BaseSettings):
    """The variables that workers and the command read."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        enable_decoding=False,
        hide_input_in_errors=True,
    )

    auth0_domain: str | None = None
    auth0_client_id: str | None = None
    auth0_client_secret: SecretField | None = None
    auth0_private_key: SecretField | None = None
    auth0_hook_secret: SecretField | None = None
    auth0_audience: str | None = None
    auth0_plan: str | None = None
    database_url: SecretField | None = None
    database_direct_url: SecretField | None = None
    redis_url: Annotated[SecretField | None, AfterValidator(_redis_address)] = None
    vault_access_keys: KeysField = ()
    vault_refresh_keys: KeysField = ()
    token_vault_config: Path | None = None
    token_vault_home: Path = DEFAULT_HOME
    token_vault_spool: Path | None = None
    token_vault_metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    token_vault_liveness_file: Path | None = None
    token_vault_readiness_file: Path | None = None
    token_vault_log_level: Annotated[LogLevel | None, BeforeValidator(_upper)] = None

    @field_validator(
        "token_vault_config",
        "token_vault_home",
        "token_vault_spool",
        "token_vault_liveness_file",
        "token_vault_readiness_file",
    )
    @classmethod
    def _check_path(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        name = str(info.field_name).upper()
        try:
            return path and absolute(path, name)
        except ConfigurationError as error:
            raise ValueError(str(error).removeprefix(f"{name} ")) from None

    @property
    def home(self) -> Path:
        """The folder of embedded servers and generated keys."""
        return absolute(self.token_vault_home, "TOKEN_VAULT_HOME")

    @property
    def spool(self) -> Path:
        """The folder of answers that Postgres could not take yet."""
        given = self.token_vault_spool
        return absolute(given, "TOKEN_VAULT_SPOOL") if given else self.home / "spool"

    @property
    def access_keys(self) -> tuple[Secret, ...]:
        """The access ring, from the environment or the home."""
        return self.vault_access_keys or self._kept("access")

    @property
    def refresh_keys(self) -> tuple[Secret, ...]:
        """The refresh ring, from the environment or the home."""
        return self.vault_refresh_keys or self._kept("refresh")

    @property
    def tenant(self) -> dict[str, Any]:
        """The tenant that ``AUTH0_*`` describe, as a table.

        Its names are those of a table ``[tenants.NAME]`` of the file.
        """
        names = ("domain", "client_id", "client_secret", "private_key", "audience", "plan")
        return {name: value for name in names if (value := getattr(self, f"auth0_{name}"))}

    def _kept(self, ring: str) -> tuple[Secret, ...]:
        return home_keys(self.home, ring) if self.database_url is None else ()

    @classmethod
    def read(cls, problems: list[SettingProblem]) -> Self:
        """Read the variables that this class has fields for.

        A variable with a mistake counts as unset.

        Args:
            problems: the mistakes are added to it.
        """
        wrong = dict(_pasted(os.environ))
        problems += (SettingProblem(name, message) for name, message in wrong.items())
        problems += _misspelt(os.environ)
        problems += _indirect_without_secret(cls.model_fields.keys())
        given = SecretDict(
            {
                field: value
                for field in cls.model_fields
                if (value := os.environ.get(field.upper())) and field.upper() not in wrong
            }
        )
        for name in SECRET_NAMES:
            try:
                secret = None if {name, f"{name}_FILE"} & wrong.keys() else read_secret(name)
            except ConfigurationError as error:
                problems.append(SettingProblem("", str(error)))
                given.pop(name.lower(), None)
                wrong[name] = str(error)
            else:
                given |= {name.lower(): secret.reveal()} if secret else {}
        for name in wrong:  # counts as given, so that it is not reported as missing, too
            if field := _CREDENTIALS.get(name.removesuffix("_FILE")):
                given.setdefault(field, "wrong")
        try:
            return cls(**given)
        except ValidationError as error:
            for place, message, value in find_problems(error, cls, given):
                problems.append(SettingProblem(str(place[0]).upper(), message, value))
                given.pop(str(place[0]), None)
            return cls(**given)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the values that ``read`` found."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def _variables() -> list[str]:
    indirect = [f"{name}_FILE" for name in SECRET_NAMES]
    commands = [f"{name}_COMMAND" for name in SECRET_NAMES if name.endswith("_KEYS")]
    fields = [name.upper() for name in Environment.model_fields]
    return [*fields, *indirect, *commands]


def _pasted(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Find values in quotes, or with an unresolved reference.

    A shell would have removed or replaced them. A command may have them.
    """
    for name in _variables():
        value = environment.get(name, "").strip()
        if name.endswith("_COMMAND"):
            continue
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            yield name, "is in quotes, which are a part of it here: remove them"
        elif _REFERENCE.fullmatch(value):
            yield name, "is a reference that nothing has put a value in for: write the value itself"


def _misspelt(environment: Mapping[str, str]) -> Iterator[SettingProblem]:
    """Find variables whose names look misspelt.

    Only names with this program's prefixes are checked, and only against variables that are not set.
    """
    known = _variables()
    for name in environment:
        if (
            name in known
            or name.removesuffix("_FILE") in known
            or not name.startswith(("AUTH0_", "VAULT_", "TOKEN_VAULT_"))
            or not environment[name]
        ):
            continue
        near = next(iter(get_close_matches(name, known, 1, 0.9)), None)
        if near is not None and not environment.get(near):
            yield SettingProblem(
                name, f"is set, and {near} is not: rename it, or unset it if it is another program's"
            )


def _indirect_without_secret(fields: Iterable[str]) -> Iterator[SettingProblem]:
    for field in fields:
        name = field.upper()
        if name not in SECRET_NAMES and os.environ.get(f"{name}_FILE"):
            yield SettingProblem(f"{name}_FILE", f"is not read, as {name} is no secret: set {name}")
