"""A reader's settings from the environment.

Whatever else stands in it is another program's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from token_vault.errors import ConfigurationError
from token_vault.home import DEFAULT_HOME, absolute, home_keys, running_postgres
from token_vault.secret import Secret
from token_vault.secret_files import secret_file


@dataclass(frozen=True, slots=True)
class ReaderEnvironment:
    """The vault's address and the keys of its access tokens.

    Attributes:
        database_url: of the vault: as given, or of the embedded one.
        access_keys: the access ring, newest first; empty where it is not given.
    """

    database_url: Secret
    access_keys: tuple[Secret, ...]

    @classmethod
    def read(cls) -> ReaderEnvironment:
        """Read ``DATABASE_URL`` and ``VAULT_ACCESS_KEYS``, or the embedded vault under ``TOKEN_VAULT_HOME``.

        Raises:
            ConfigurationError: naming the variable, never a value.
        """
        database_url, keys = read_secret("DATABASE_URL"), read_secret("VAULT_ACCESS_KEYS")
        access_keys = split_keys(keys.reveal()) if keys else ()
        if database_url is not None:
            return cls(database_url, access_keys)
        home = absolute(Path(os.environ.get("TOKEN_VAULT_HOME") or DEFAULT_HOME), "TOKEN_VAULT_HOME")
        return cls(running_postgres(home), access_keys or home_keys(home, "access"))


def read_secret(name: str) -> Secret | None:
    """Read the variable ``NAME``, or the file named by ``NAME_FILE``.

    None where neither is set.

    Raises:
        ConfigurationError: both are set, or the file cannot be read.
    """
    path = os.environ.get(f"{name}_FILE")
    if path and os.environ.get(name):
        raise ConfigurationError(f"both {name} and {name}_FILE are set: keep one")
    if path:
        return Secret(secret_file(path, f"{name}_FILE"))
    value = os.environ.get(name)
    return Secret(value) if value else None


def split_keys(text: str) -> tuple[Secret, ...]:
    """Split keys at commas and line breaks, without empty ones."""
    return tuple(Secret(key) for part in text.replace("\n", ",").split(",") if (key := part.strip()))
