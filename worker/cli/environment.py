"""The vault that a command works on.

It is the one that the environment names, or the one under the home folder.

Without ``DATABASE_URL`` the servers are embedded, the keys lie in two files beside them, and the tables are kept
at this version. Only ``up`` makes such a vault: where a variable is misspelt, a command must not answer for a new and
empty one. With ``DATABASE_URL``, servers, keys and migrations are the operator's, and nothing is made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from token_vault.errors import ConfigurationError, VaultError

if TYPE_CHECKING:
    from token_vault.keyring import RingName
    from token_vault.secret import Secret
    from worker.settings import Settings
    from worker.settings.problems import SettingProblem
    from worker.vault.consumers.consumers import Applied

DEMO_CONFIG = "vault.toml"
"""In the demo's home: its emulated tenant, which commands use where no tenant is configured."""

RING_NAMES: tuple[RingName, ...] = ("access", "refresh")


@contextmanager
def running_vault(*, redis: bool = False, rings: Sequence[RingName] = RING_NAMES) -> Iterator[Settings]:
    """Run the vault's servers within the block; yield complete settings.

    Args:
        redis: whether an embedded Redis is wanted too.
        rings: whose keys are needed where the vault is the operator's; an embedded one has both.

    Raises:
        ConfigurationError: there is no vault, a setting or a key is missing, or a server does not start.
        TemporarilyUnavailable: the database does not answer.
    """
    from worker.embedded import is_up

    settings = load_settings()
    require_vault(settings)
    settings = with_keys(settings, rings)
    with running_servers(settings, redis=redis and settings.embedded) as complete:
        if settings.embedded and not is_up(settings.home):  # `up` has migrated it already
            migrate_to_head(complete)
        yield complete


def load_settings() -> Settings:
    """Read the settings.

    Where they name no tenant, the demo of this home is used, if it has one.

    Raises:
        ConfigurationError: as ``settings.load``, or nothing says whether the demo is meant.
    """
    from token_vault.home import DEMO, is_demo_home
    from worker.settings import load
    from worker.settings.problems import SettingsError

    try:
        settings = load()
    except SettingsError as error:
        raise SettingsError([*error.problems, *_wrong_keys(told=str(error))]) from None
    if settings.tenants or not settings.embedded:
        return settings
    if is_demo_home(settings.home):
        return load(settings.home / DEMO_CONFIG)
    if is_demo_home(settings.home / DEMO):
        raise ConfigurationError(
            f"{settings.home} has a tenant's vault and the demo's: set AUTH0_DOMAIN and what belongs to it, or for the "
            f"demo TOKEN_VAULT_HOME={settings.home / DEMO}"
        )
    return settings


def _wrong_keys(*, told: str) -> Iterator[SettingProblem]:
    """Find wrong keys, to be told beside other mistakes.

    Alone, whoever needs the ring tells of it.
    """
    from token_vault.environment import read_secret, split_keys
    from token_vault.keyring import VARIABLES, KeyRing
    from worker.settings.problems import SettingProblem

    for ring, variable in VARIABLES.items():
        if variable in told:
            continue
        try:
            if given := read_secret(variable):
                KeyRing(ring, split_keys(given.reveal()))
        except ConfigurationError as error:
            yield SettingProblem("", str(error))


def require_vault(settings: Settings) -> None:
    """Refuse to work where no vault has been made.

    Raises:
        ConfigurationError: no database is named, and ``up`` has not run under this home.
    """
    from token_vault.home import no_vault
    from worker.embedded import is_up

    if not settings.embedded or is_up(settings.home):  # `up` may be making it just now
        return
    with suppress(PermissionError):  # a folder of another user's: what comes next says so
        if not (settings.home / "postgres" / "data").exists():
            raise no_vault(settings.home)


def with_keys(settings: Settings, rings: Sequence[RingName] = RING_NAMES) -> Settings:
    """Add the home's keys where the environment gives none.

    Raises:
        ConfigurationError: a key is missing and may not be made up.
    """
    from worker.settings import home_keys

    rings = RING_NAMES if settings.embedded else rings
    given = {"access": settings.access_keys, "refresh": settings.refresh_keys}
    missing = [ring for ring in rings if not given[ring]]
    if not missing:
        return settings
    if not settings.embedded:
        names = " and ".join(f"VAULT_{ring.upper()}_KEYS" for ring in missing)
        raise ConfigurationError(
            f"with DATABASE_URL the keys are yours to keep: set {names}; "
            "make them once with `token-vault keys generate`"
        )
    _make_keys(settings.home, missing)
    kept = {f"{ring}_keys": home_keys(settings.home, ring) for ring in missing}
    return settings.model_copy(update=kept)


@contextmanager
def running_servers(settings: Settings, *, redis: bool) -> Iterator[Settings]:
    """Run the embedded servers that are needed within the block.

    A server whose address is given is not embedded.

    Args:
        settings: the addresses found are added to them.
        redis: whether an embedded Redis is wanted where ``REDIS_URL`` is unset.

    Raises:
        ConfigurationError: a server does not start.
    """
    from worker import embedded

    wanted = {"postgres": settings.embedded, "redis": redis and settings.redis_url is None}
    if not any(wanted.values()):
        yield settings
        return
    with embedded.servers(settings.home, **wanted) as running:
        found = {"database_url": running.database_url, "redis_url": running.redis_url}
        yield settings.model_copy(update={name: url for name, url in found.items() if url})


def database_url(settings: Settings) -> Secret:
    """Return the database's address from complete settings.

    Unlike the runtime's function of this name it loads nothing else.
    """
    if settings.database_url is None:
        raise ConfigurationError("no database is running")
    return settings.database_url


def migrate_to_head(settings: Settings, *, always: bool = False) -> tuple[str | None, str | None, list[str]]:
    """Migrate the database, and give the vault's roles their rights.

    Returns its revision before and after, and statements that its role may not run.

    Args:
        always: give the rights anew even where nothing is to be migrated.

    Raises:
        ConfigurationError, TemporarilyUnavailable: as ``migrating.migrate``.
    """
    from worker.vault.db.migrate import migrate
    from worker.vault.db.revisions import revisions

    url = settings.database_direct_url or database_url(settings)  # its settings need a session
    try:
        before, head = revisions(url)
        return before, head, migrate(url) if always or before != head else []
    except VaultError as error:
        if settings.database_direct_url is not None:
            error.args = (str(error.args[0]).replace("DATABASE_URL", "DATABASE_DIRECT_URL"), *error.args[1:])
        raise


def apply_configured_consumers(settings: Settings) -> Sequence[str]:
    """Write the settings' consumers to their table.

    A file without consumers may be another host's, and takes no rights away. Returns statements left to run.
    """
    return apply_consumers(settings, keep_inherited=True).statements if settings.consumers else ()


def apply_consumers(settings: Settings, *, keep_inherited: bool) -> Applied:
    """Write the settings' consumers to their table.

    Args:
        keep_inherited: whether roles keep what a migration gave them, until a consumer names them.

    Raises:
        AccessDenied, ConfigurationError, TemporarilyUnavailable: as ``consumers.apply``.
    """
    from worker.consumer_rules import ConsumerRules
    from worker.vault.consumers import consumers

    rules = [ConsumerRules(name, **dict(given)) for name, given in settings.consumers.items()]
    return consumers.apply(
        database_url(settings),
        rules,
        keep=timedelta(seconds=settings.audit.keep),
        keep_inherited=keep_inherited,
    )


def _make_keys(home: Path, rings: Sequence[RingName]) -> None:
    """Make the key files of a new vault.

    For a vault with data in it no key is ever made up.
    """
    from token_vault.keyring import KeyRing
    from worker import embedded
    from worker.embedded import locks
    from worker.embedded.files import private_folder, write_private
    from worker.settings import key_file

    home = embedded.private_home(home)
    private_folder(key_file(home, rings[0]).parent, os.geteuid())
    with locks.exclusive(home / "keys" / "lock"):
        is_new = not (home / "postgres" / "data").exists()
        for ring in rings:
            file = key_file(home, ring)
            if file.exists() and file.stat().st_size:
                continue  # made by a command that started beside this one
            if not is_new:
                raise ConfigurationError(
                    f"{file} is missing or empty, and the vault beside it was encrypted with it: restore the file, "
                    f"or set VAULT_{ring.upper()}_KEYS"
                )
            write_private(file, KeyRing.generate().reveal() + "\n")


def select_tenants(settings: Settings, tenant: str | None) -> list[str]:
    """Return the named tenant, or all of them.

    Raises:
        ConfigurationError: there is none, or none of this name.
    """
    if not settings.tenants or tenant not in (None, *settings.tenants):
        from worker.runtime import credentials_of

        if settings.tenants:
            raise ConfigurationError(
                f"no tenant is called {tenant}; configured: {', '.join(settings.tenants)}"
            )
        credentials_of(settings, tenant or "")
    return [tenant] if tenant else list(settings.tenants)


def select_tenant(settings: Settings, tenant: str | None) -> str:
    """Return the one tenant that is meant.

    Raises:
        ConfigurationError: there are several, or none of this name.
    """
    tenants = select_tenants(settings, tenant)
    if len(tenants) > 1:
        raise ConfigurationError(f"name one of the tenants by --tenant: {', '.join(tenants)}")
    return tenants[0]


def configure_log() -> None:
    """Log warnings and errors only.

    A command's result speaks for itself; ``TOKEN_VAULT_LOG_LEVEL`` overrides this.
    """
    from worker import logs

    try:
        logs.configure(level=os.environ.get("TOKEN_VAULT_LOG_LEVEL") or "WARNING")
    except ConfigurationError:
        load_settings()  # names this mistake together with all others
        raise
