"""``token-vault doctor``: what is wrong, and who fixes it."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from token_vault.errors import VaultError
from worker.cli import environment, output
from worker.cli.auth0_checks import check_tenants
from worker.cli.checks import Check, CheckResult, attempt, attempt_async
from worker.cli.clock_checks import check_auth0_clocks, check_database_clock
from worker.cli.connection_checks import check_connections, check_renewal
from worker.cli.exit_codes import ExitCode
from worker.cli.network_checks import check_collector, check_egress, check_outgoing_proxies
from worker.cli.options import Json, Worker
from worker.cli.redis_checks import check_redis
from worker.cli.vault_checks import (
    check_dead_rows,
    check_location,
    check_pauses,
    check_pooler,
    check_roles,
    check_webhooks,
    check_writes,
)
from worker.cli.worker_checks import check_worker, check_workers
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.settings import Settings

# An answer takes some kilobytes, and nothing more is sent while answers wait; other files on that disk grow too.
MIN_SPOOL_BYTES = 64 << 20


def doctor(worker: Worker = None, as_json: Json = False) -> int:
    """Check everything the vault stands on.

    Settings, keys, database, Redis, Auth0 and its scopes, connections, workers: each with its fix. Exits 1 where
    something fails. With --worker, check that this worker consumes its queues, and nothing else.
    """
    environment.configure_log()
    checks: list[Check] = []
    try:
        settings = environment.load_settings()
    except VaultError as error:
        checks += (
            Check("settings", CheckResult.FAIL, str(each)) for each in getattr(error, "problems", [error])
        )
    else:
        environment.require_vault(settings)  # without one there is nothing to check
        _check(settings, worker, checks)
    ok = all(check.result is not CheckResult.FAIL for check in checks)
    if as_json:
        output.print_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        output.print_table(
            ["check", "", "found"], [[check.name, check.result, check.message] for check in checks]
        )
    return ExitCode.OK if ok else ExitCode.FAILED


def _check(settings: Settings, worker: str | None, checks: list[Check]) -> None:
    if worker is None:
        _examine(settings, checks)
    else:
        attempt("worker", lambda: [check_worker(worker)], checks)


def _examine(settings: Settings, checks: list[Check]) -> None:
    where = f"embedded under {settings.home}" if settings.embedded else "as DATABASE_URL names it"
    checks.append(Check("settings", CheckResult.OK, f"a vault {where}"))
    complete = settings

    def keys() -> list[Check]:
        nonlocal complete
        complete = environment.with_keys(settings)
        return _keys(complete)

    attempt("keys", keys, checks)
    try:
        with environment.running_servers(complete, redis=settings.embedded) as complete:
            _examine_servers(complete, checks)
    except VaultError as error:
        checks.append(Check("embedded servers", CheckResult.FAIL, str(error)))


def _examine_servers(settings: Settings, checks: list[Check]) -> None:
    has_database = attempt("database", lambda: _database(settings), checks)
    attempt("Redis", lambda: check_redis(settings), checks)
    attempt("outgoing proxy", lambda: asyncio.run(check_outgoing_proxies(settings)), checks)
    attempt("egress", lambda: asyncio.run(check_egress(settings)), checks)
    attempt("traces", check_collector, checks)
    attempt("spool", lambda: [_spool(settings)], checks)
    attempt("Auth0", lambda: asyncio.run(check_tenants(settings)), checks)
    attempt("clock of Auth0", lambda: asyncio.run(check_auth0_clocks(settings)), checks)
    if not has_database:
        checks.append(Check("vault", CheckResult.FAIL, "not examined, as that needs the database"))
        return
    attempt("vault", lambda: asyncio.run(_vault(settings)), checks)
    attempt("ciphertexts", lambda: [_sample(settings)], checks)


def _keys(settings: Settings) -> list[Check]:
    from token_vault.keyring import KeyRing

    KeyRing("access", settings.access_keys)  # wrong keys are told as this check
    KeyRing("refresh", settings.refresh_keys)
    shared = [key for key in settings.access_keys if any(key == other for other in settings.refresh_keys)]
    if shared:
        return [
            Check(
                "keys", CheckResult.FAIL,
                "both rings share a key, so every reader could open refresh tokens: put a new key of its own at the "
                "head of VAULT_ACCESS_KEYS and of VAULT_REFRESH_KEYS. Keep the shared key at their end, as older "
                "rows need it until `token-vault keys rotate` says that it may go",
            )
        ]  # fmt: skip
    rings = {"access": len(settings.access_keys), "refresh": len(settings.refresh_keys)}
    return [Check("keys", CheckResult.OK, f"keys by ring: {output.format_value(rings)}; none is in both")]


def _database(settings: Settings) -> list[Check]:
    from worker.vault.db.migrate import check_database
    from worker.vault.db.revisions import revisions

    if settings.embedded:
        environment.migrate_to_head(settings)
    check_database(environment.database_url(settings))
    current, head = revisions(environment.database_url(settings))
    if current == head:
        return [Check("database", CheckResult.OK, f"answers, and is at revision {head}")]
    said = f"is at revision {current or 'none'}, this version needs {head}: run `token-vault migrate`"
    return [Check("database", CheckResult.FAIL, said)]


def _spool(settings: Settings) -> Check:
    """Look at the folder of answers: writable, and with room."""
    from token_vault.keyring import KeyRing
    from worker.vault.claims.spool import Spool

    there = next(each for each in (settings.spool, *settings.spool.parents) if each.exists())
    # The workers make it. A folder that another user's doctor has made they could not write.
    if there == settings.spool or not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        Spool(settings.spool, KeyRing("refresh", settings.refresh_keys)).check()
    free = shutil.disk_usage(there).free
    if free < MIN_SPOOL_BYTES:
        said = f"only {free >> 20} MB are free on the disk of {settings.spool}: make room, or no token is renewed"
        return Check("spool", CheckResult.WARN, said)
    return Check("spool", CheckResult.OK, f"{settings.spool} can be written, and its disk has room")


def _sample(settings: Settings) -> Check:
    """Decrypt a sample of the vault, and the whole spool.

    `keys status` decrypts everything.
    """
    from token_vault.keyring import KeyRing
    from worker.vault.claims.spool import Spool
    from worker.vault.rotation import rotate

    rings: rotate.Rings = {
        "access": KeyRing("access", settings.access_keys),
        "refresh": KeyRing("refresh", settings.refresh_keys),
    }
    spool = Spool(settings.spool, rings["refresh"])
    stats = rotate.inspect(environment.database_url(settings), rings, spool, pages_at_most=1)
    unopened = sum(column.undecryptable for column in stats)
    opened = sum(column.by_key.total() for column in stats)
    if unopened:
        said = (
            f"of a sample of {pluralize(opened + unopened, 'ciphertext')} {pluralize(unopened, 'does', 'do')} not open: "
            "`token-vault keys status` names them, and who fixes it"
        )
        return Check("ciphertexts", CheckResult.WARN, said)
    older = opened - sum(column.by_key[0] for column in stats)
    hint = f"; {older} under older keys, until `token-vault keys rotate`" if older else ""
    return Check("ciphertexts", CheckResult.OK, f"a sample of {opened} opens{hint}")


async def _vault(settings: Settings) -> list[Check]:
    from worker.runtime import open_runtime

    async with open_runtime(settings, connections=2) as runtime:
        checks = [Check("key rings", CheckResult.OK, "both open this vault")]
        looks = {
            "database writes": check_writes,
            "clock": check_database_clock,
            "pooler": check_pooler,
            "dead rows": check_dead_rows,
            "location": check_location,
            "pauses": check_pauses,
            "workers": check_workers,
            "roles": check_roles,
            "connections": check_connections,
            "renewal": check_renewal,
            "webhooks": check_webhooks,
        }
        for name, look in looks.items():
            await attempt_async(name, look(runtime), checks)
        return checks
