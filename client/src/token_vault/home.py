"""The home folder of an embedded vault: keys and Postgres."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret, SecretDict
from token_vault.secret_files import secret_file

DEFAULT_HOME = Path(".token-vault")
DEMO = "demo"


def absolute(path: Path, name: str) -> Path:
    """Make a path absolute, and expand a tilde.

    Args:
        path: as given.
        name: the setting that gave it.

    Raises:
        ConfigurationError: the tilde names an unknown user.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:  # the name after the tilde is no user's
        raise ConfigurationError(
            f"{name} names the home folder of a user who is not known here: give the whole path"
        ) from None


def vault_home(home: Path) -> Path:
    """Return the folder of the vault under a home.

    It is the demo's folder below it if there is no other vault.
    """
    demo = home / DEMO
    with suppress(PermissionError):  # another user's folder: the caller's next access reports that
        if not (home / "postgres").exists() and (demo / "postgres").exists():
            return demo
    return home


def is_demo_home(home: Path) -> bool:
    """Whether a folder is that of a demo."""
    with suppress(PermissionError):
        return all((home / name).exists() for name in ("vault.toml", "client-secret", "port"))
    return False


def key_file(home: Path, ring: str) -> Path:
    """Return the file with the keys of a ring.

    The embedded vault's first start creates it, with mode 0600.
    """
    return home / "keys" / ring


def home_keys(home: Path, ring: str) -> tuple[Secret, ...]:
    """Read an embedded vault's keys of a ring, if any.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    path = key_file(home, ring)
    with suppress(PermissionError):  # another user's folder: reading the file reports that
        if not path.exists():
            return ()
    return tuple(
        Secret(line) for line in secret_file(str(path), f"{ring} keys under TOKEN_VAULT_HOME").split()
    )


def postgres_url(port: int, password: str) -> Secret:
    """Return the address of an embedded vault's Postgres."""
    return Secret(f"postgresql://token_vault:{password}@127.0.0.1:{port}/token_vault")


def running_postgres(home: Path) -> Secret:
    """Return the address of the Postgres running under this home.

    Raises:
        ConfigurationError: none runs there, or the folder is another user's.
    """
    folder = home.resolve() / "postgres"
    try:
        access = json.loads((folder / "access.json").read_text(), object_hook=SecretDict)
        if _is_held(folder / "alive.lock"):
            return postgres_url(access["port"], access["password"])
    except PermissionError:
        raise not_ours(folder) from None
    except (OSError, ValueError, KeyError, TypeError):  # no file, or one that is still being written
        pass
    raise no_vault(home)


def not_ours(folder: Path) -> ConfigurationError:
    """Return the error for a folder of another user's."""
    return ConfigurationError(f"{folder} belongs to another user")


def no_vault(home: Path) -> ConfigurationError:
    """Return the error for a vault that was not found.

    It names a variable that looks like a misspelt ``DATABASE_URL``, but not its value.
    """
    alike = get_close_matches("DATABASE_URL", os.environ, cutoff=0.85)
    hint = f" ({alike[0]} is: is that a misspelling?)" if alike and alike[0] != "DATABASE_URL" else ""
    return ConfigurationError(
        f"no DATABASE_URL is set{hint} and no vault runs under {home}: set it, or start one with `token-vault up`"
    )


def _is_held(lock: Path) -> bool:
    """Whether the server runs.

    It inherits an exclusive flock(2), which the kernel releases when the server ends.
    """
    import fcntl  # not on Windows, where no embedded vault runs

    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
