"""Settings from the environment.

Each secret ``NAME`` can also be given as ``NAME_FILE``, the path of a file that holds it; a key ring also as
``NAME_COMMAND``, a command that prints it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from token_vault.environment import read_secret, split_keys
from token_vault.errors import ConfigurationError
from token_vault.home import DEFAULT_HOME, absolute, home_keys
from token_vault.secret import Secret
from worker.redis_address import RedisAddress
from worker.settings.problems import explain
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


KeysField = Annotated[tuple[Secret, ...], BeforeValidator(_keys)]


class Environment(BaseSettings):
    """What a worker and the command are told."""

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

    @property
    def home(self) -> Path:
        """Where embedded servers and generated keys live."""
        return absolute(self.token_vault_home, "TOKEN_VAULT_HOME")

    @property
    def spool(self) -> Path:
        """Where answers wait that Postgres could not take."""
        given = self.token_vault_spool
        return absolute(given, "TOKEN_VAULT_SPOOL") if given else self.home / "spool"

    @property
    def access_keys(self) -> tuple[Secret, ...]:
        """The access ring, as given or from the home."""
        return self.vault_access_keys or self._kept("access")

    @property
    def refresh_keys(self) -> tuple[Secret, ...]:
        """The refresh ring, as given or from the home."""
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
    def read(cls) -> Self:
        """Read the variables that this class has fields for.

        Raises:
            ConfigurationError: naming the variable, never a value.
        """
        try:
            return cls()
        except ValidationError as error:
            raise ConfigurationError(f"the environment: {explain(error)}") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables first, then the files that other variables name."""
        del init_settings, dotenv_settings, file_secret_settings
        return env_settings, InitSettingsSource(settings_cls, _secret_files(settings_cls.model_fields.keys()))


def _secret_files(fields: Iterable[str]) -> dict[str, Any]:
    """Read ``NAME_FILE`` or ``NAME_COMMAND`` of each secret field."""
    found: dict[str, Any] = {}
    for field in fields:
        name = field.upper()
        is_indirect = os.environ.get(f"{name}_FILE") or os.environ.get(f"{name}_COMMAND")
        if name in SECRET_NAMES and is_indirect and (secret := read_secret(name)):
            found[field] = secret.reveal()
    return found
