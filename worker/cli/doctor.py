"""``token-vault doctor``: what is wrong, and who fixes it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from token_vault.errors import ConfigurationError, VaultError
from worker.cli import environment, output
from worker.cli.auth0_checks import check_tenants, check_tenants_without_vault
from worker.cli.checks import Check, CheckResult, attempt, attempt_async
from worker.cli.exit_codes import ExitCode
from worker.cli.network_checks import check_egress, check_outgoing_proxies
from worker.cli.options import Json, Worker
from worker.cli.status import describe_missing_access

if TYPE_CHECKING:
    from worker.runtime import Runtime
    from worker.settings import Settings

# Written and gone after a second: a replica answers, and takes no messages.
_PROBE_KEY = "token-vault:doctor"

# An answer takes some kilobytes, and nothing more is sent while answers wait; other files on that disk grow too.
MIN_SPOOL_BYTES = 64 << 20

QUEUES = ("interactive", "renew", "sync")


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
        attempt("worker", lambda: [_one_worker(worker)], checks)


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
    attempt("Redis", lambda: _redis(settings), checks)
    attempt("outgoing proxy", lambda: asyncio.run(check_outgoing_proxies(settings)), checks)
    attempt("egress", lambda: asyncio.run(check_egress(settings)), checks)
    attempt("spool", lambda: [_spool(settings)], checks)
    if not has_database:
        attempt("Auth0", lambda: asyncio.run(check_tenants_without_vault(settings)), checks)
        checks.append(Check("vault", CheckResult.FAIL, "not examined, as that needs the database"))
        return
    attempt("vault", lambda: asyncio.run(_vault(settings)), checks)
    attempt("ciphertexts", lambda: [_sealed(settings)], checks)


def _keys(settings: Settings) -> list[Check]:
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
    from worker.vault.db.migrate import check_database, revisions

    if settings.embedded:
        environment.migrate_to_head(settings)
    check_database(environment.database_url(settings))
    current, head = revisions(environment.database_url(settings))
    if current == head:
        return [Check("database", CheckResult.OK, f"answers, and is at revision {head}")]
    said = f"is at revision {current or 'none'}, this version needs {head}: run `token-vault migrate`"
    return [Check("database", CheckResult.FAIL, said)]


def _redis(settings: Settings) -> list[Check]:
    import redis

    from worker import embedded
    from worker.cli.redis_errors import describe
    from worker.redis_address import EXAMPLE, RedisAddress
    from worker.redis_clients import open_client, refuse_cluster

    found = embedded.find(settings.home) if settings.redis_url is None else None
    url = settings.redis_url or (found.redis_url if found else None)
    if not url:
        return [Check("Redis", CheckResult.WARN, "REDIS_URL is not set: no workers, no refresh on demand")]
    try:
        with open_client(RedisAddress.parse(url), socket_timeout=5, socket_connect_timeout=5) as client:
            refuse_cluster(client)
            client.set(_PROBE_KEY, 1, px=1000)
            try:
                server = client.info("server")
            except redis.exceptions.NoPermissionError:
                return [Check("Redis", CheckResult.OK, "answers; its version is not this user's to see")]
    except ConfigurationError as error:  # a cluster
        return [Check("Redis", CheckResult.FAIL, str(error))]
    except (redis.RedisError, OSError) as error:
        fix = f"check that it runs and that REDIS_URL names it: {EXAMPLE}"
        return [Check("Redis", CheckResult.FAIL, f"is of no use: {describe(error)}; {fix}")]
    # Valkey also names the Redis version it is compatible with, which is not its own.
    version = server.get("valkey_version") or server["redis_version"]
    return [Check("Redis", CheckResult.OK, f"answers, version {version}")]


def _spool(settings: Settings) -> Check:
    """Look at the folder of answers: writable, and with room."""
    from token_vault.keyring import KeyRing
    from worker.vault.claims.spool import Spool

    Spool(settings.spool, KeyRing("refresh", settings.refresh_keys)).check()
    free = shutil.disk_usage(settings.spool).free
    if free < MIN_SPOOL_BYTES:
        said = f"only {free >> 20} MB are free on the disk of {settings.spool}: make room, or no token is renewed"
        return Check("spool", CheckResult.WARN, said)
    return Check("spool", CheckResult.OK, f"{settings.spool} can be written, and its disk has room")


def _one_worker(worker: str) -> Check:
    """Look at one worker's heartbeat."""
    from worker.runtime import open_runtime
    from worker.vault import heartbeats

    async def queues(settings: Settings) -> list[str]:
        async with open_runtime(settings, connections=1) as runtime:
            return (await heartbeats.list_alive(runtime.vault)).get(worker, [])

    with environment.running_vault() as settings:
        found = asyncio.run(queues(settings))
    if found:
        return Check("worker", CheckResult.OK, f"consumes {', '.join(found)}")
    return Check("worker", CheckResult.FAIL, f"{worker} consumes no queue: see its log")


async def _workers(runtime: Runtime) -> list[Check]:
    """Look at heartbeats for the queues that workers consume."""
    from worker.vault import heartbeats

    alive = await heartbeats.list_alive(runtime.vault)
    served = {queue for queues in alive.values() for queue in queues}
    idle = [queue for queue in QUEUES if queue not in served]
    if idle:
        fix = "start `token-vault up`, or a worker with `celery -A worker.app worker -Q …`"
        return [Check("workers", CheckResult.WARN, f"no worker takes from {', '.join(idle)}: {fix}")]
    return [Check("workers", CheckResult.OK, f"alive: {', '.join(alive)}")]


def _sealed(settings: Settings) -> Check:
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
            f"of a sample of {opened + unopened} ciphertexts {unopened} do not open: `token-vault keys status` "
            "names them, and who fixes it"
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
            "database writes": _writes,
            "pooler": _pooler,
            "location": _location,
            "pauses": _pauses,
            "workers": _workers,
            "roles": _roles,
            "Auth0": check_tenants,
        }
        for name, look in {**looks, "connections": _connections, "webhooks": _webhooks}.items():
            await attempt_async(name, look(runtime), checks)
        return checks


async def _pooler(runtime: Runtime) -> list[Check]:
    from worker.vault.db.engine import driver_connection

    async with runtime.vault.session() as connection:
        if not (await driver_connection(connection)).is_pooled:
            return []
    if runtime.settings.database_direct_url is None:
        said = (
            "a pooler stands before Postgres, and hands no wakeups on: set DATABASE_DIRECT_URL to Postgres' own address. "
            "Until then readers and workers look every second or two"
        )
        return [Check("pooler", CheckResult.WARN, said)]
    said = "DATABASE_DIRECT_URL leads to a pooler as well: it has to be Postgres' own address"
    return [Check("pooler", CheckResult.WARN, said)]


async def _writes(runtime: Runtime) -> list[Check]:
    from worker.vault.db.errors import explained

    async with explained():
        await runtime.vault.check_writable()
    return [Check("database writes", CheckResult.OK, "this Postgres is a primary, and takes them")]


async def _location(runtime: Runtime) -> list[Check]:
    await runtime.vault.check_location()
    return [Check("location", CheckResult.OK, "the database is where the vault was in use")]


async def _pauses(runtime: Runtime) -> list[Check]:
    from worker.cli.pause import describe
    from worker.vault.pauses import list_pauses

    return [
        Check("pause", CheckResult.WARN, f"{each.scope} is {describe(each)}; `token-vault resume` ends that")
        for each in await list_pauses(runtime.vault, runtime.tenants)
    ]


async def _roles(runtime: Runtime) -> list[Check]:
    """Check the roles of Postgres."""
    from worker.vault.status.role_problems import find_role_problems

    found = [_describe_role(*problem) for problem in await find_role_problems(runtime.vault)]
    return found or [Check("roles", CheckResult.OK, "all are there, and none has more than it needs")]


def _describe_role(kind: str, role: str, detail: str | None) -> Check:
    name = f"role {role}"
    match kind:
        case "missing":
            said = "is not there: run `token-vault migrate`, and what it prints, as whoever may make roles"
        case "superuser":
            said = "is a superuser, and this runs as it: let all but `migrate` log in as a member of vault_worker"
        case "absent":
            said = f"is not there, and consumer {detail} names it: `token-vault consumers apply` prints how to make it"
        case "open_schema":
            said = (
                f"is everybody, and may create in the schema {detail}, functions that workers would call among them: run "
                "`token-vault migrate`, and what it prints"
            )
        case "unlimited":
            said = "may take all connections: ALTER ROLE … CONNECTION LIMIT 60"
            return Check(name, CheckResult.HINT, said)
        case _:
            said = f"{detail}: a consumer's role needs to be a member of vault_reader, and no more"
    return Check(name, CheckResult.WARN, said)


async def _connections(runtime: Runtime) -> list[Check]:
    from worker.vault.status.status import load_status

    known: list[dict[str, Any]] = (await load_status(runtime.vault, runtime.tenants))["connections"]
    if not known:
        return [Check("connections", CheckResult.WARN, "none is known yet: run `token-vault sync`")]
    wrong = list(_wrong(known))
    return wrong or [Check("connections", CheckResult.OK, f"{len(known)} are known, and none has a problem")]


async def _webhooks(runtime: Runtime) -> list[Check]:
    """Check of each webhook whether events reach it.

    Its URL and secrets were validated with the settings.
    """
    from worker.vault import outbox

    configured, checks = runtime.settings.webhooks, []
    waiting = {row["webhook"]: row for row in await outbox.count_undelivered(runtime.vault)}
    for name in sorted({*configured, *waiting}):
        row = waiting.get(name)
        counts = output.format_value({key: row[key] for key in ("pending", "failed")}) if row else ""
        if name not in configured:
            said = f"is not configured any more: {counts} of its deliveries stay until they are forgotten"
            checks.append(Check(f"webhook {name}", CheckResult.WARN, said))
        elif row and (row["failed"] or row["attempts"]):
            last = row["last_error"] or f"status {row['last_status']}"
            said = (
                f"does not take events ({last}; {counts}): see to the receiver, then `token-vault events resend "
                "--failed`"
            )
            checks.append(Check(f"webhook {name}", CheckResult.WARN, said))
        else:
            checks.append(Check(f"webhook {name}", CheckResult.OK, f"set; {counts or 'nothing waits'}"))
    return checks


def _wrong(connections: Iterable[dict[str, Any]]) -> Iterable[Check]:
    """Name the connections whose grants are not renewed.

    Connections that bring no tokens at all are fine.
    """
    for row in connections:
        name = f"connection {row['name']}"
        if row["circuit_blame"] == "nobody":
            yield Check(
                name, CheckResult.WARN,
                f"the provider is away ({row['circuit_code']}) since {output.format_value(row['circuit_opened_at'])}: "
                "it is probed every few minutes, and what waited is renewed when it is back",
            )  # fmt: skip
        elif row["circuit_code"]:
            yield Check(
                name, CheckResult.FAIL,
                f"the provider refuses its client ({row['circuit_code']}) since {output.format_value(row['circuit_opened_at'])}: "
                "correct its client id and secret at Auth0, then run `token-vault sync`; its users need do nothing",
            )  # fmt: skip
        elif row["problem"] and row["grants"]:
            yield Check(name, CheckResult.WARN, row["problem_message"])
        elif row["without_access_token"]:
            yield Check(name, CheckResult.WARN, describe_missing_access(row))
        for note in row["notes"]:
            yield Check(name, CheckResult.WARN, note)
