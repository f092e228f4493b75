"""A reader's settings from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from token_vault.errors import ConfigurationError
from token_vault.home import DEFAULT_HOME, absolute, home_keys, running_postgres, vault_home
from token_vault.secret import Secret
from token_vault.secret_command import secret_from_command
from token_vault.secret_files import secret_file

_RINGS = ("VAULT_ACCESS_KEYS", "VAULT_REFRESH_KEYS")


@dataclass(frozen=True, slots=True)
class ReaderEnvironment:
    """The vault's address and the keys of its access tokens.

    Attributes:
        database_url: as given, or of the embedded vault.
        access_keys: the access ring, newest first; empty if not given.
        direct_url: Postgres' own address, if ``database_url`` names a pooler.
    """

    database_url: Secret
    access_keys: tuple[Secret, ...]
    direct_url: Secret | None = None

    @classmethod
    def read(cls) -> ReaderEnvironment:
        """Read ``DATABASE_URL`` and ``VAULT_ACCESS_KEYS``, or the embedded vault under ``TOKEN_VAULT_HOME``.

        Raises:
            ConfigurationError: naming the variable, never a value.
        """
        database_url, keys = read_secret("DATABASE_URL"), read_secret("VAULT_ACCESS_KEYS")
        access_keys = split_keys(keys.reveal()) if keys else ()
        if database_url is not None:
            return cls(database_url, access_keys, read_secret("DATABASE_DIRECT_URL"))
        return cls(running_postgres(_home()), access_keys or home_keys(_home(), "access"))


def read_database_url() -> Secret:
    """Read ``DATABASE_URL``, or find the embedded vault's.

    Raises:
        ConfigurationError: there is neither, or the file of ``DATABASE_URL_FILE`` cannot be read.
    """
    return read_secret("DATABASE_URL") or running_postgres(_home())


def _home() -> Path:
    return vault_home(absolute(Path(os.environ.get("TOKEN_VAULT_HOME") or DEFAULT_HOME), "TOKEN_VAULT_HOME"))


def read_secret(name: str) -> Secret | None:
    """Read the variable ``NAME``, or the file of ``NAME_FILE``.

    A key ring may also be what the command of ``NAME_COMMAND`` prints.

    Returns:
        None where none of them is set.

    Raises:
        ConfigurationError: several are set, the file cannot be read, or the command fails.
    """
    names = [name, f"{name}_FILE", *([f"{name}_COMMAND"] if name in _RINGS else [])]
    given = [each for each in names if os.environ.get(each)]
    if len(given) > 1:
        raise ConfigurationError(f"both {' and '.join(given[:2])} are set: keep one")
    if not given:
        return None
    if given == [name]:
        value = os.environ[name]
        return Secret(value.strip() or value)  # if it is all blanks, whoever parses it reports that
    source = os.environ[given[0]]
    read = secret_from_command if given[0].endswith("_COMMAND") else secret_file
    return Secret(read(source, given[0]))


def split_keys(text: str) -> tuple[Secret, ...]:
    """Split keys at commas and line breaks, without empty ones."""
    return tuple(Secret(key) for part in text.replace("\n", ",").split(",") if (key := part.strip()))
