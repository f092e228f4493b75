"""What ``doctor`` looks at of the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.cli import output
from worker.cli.checks import Check, CheckResult

if TYPE_CHECKING:
    from worker.runtime import Runtime


async def check_pooler(runtime: Runtime) -> list[Check]:
    """Tell a pooler that hands no wakeups on."""
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


async def check_writes(runtime: Runtime) -> list[Check]:
    """Check that this Postgres is a primary."""
    from worker.vault.db.errors import explained

    async with explained():
        await runtime.vault.check_writable()
    return [Check("database writes", CheckResult.OK, "this Postgres is a primary, and takes them")]


async def check_dead_rows(runtime: Runtime) -> list[Check]:
    """Tell of a transaction that keeps dead rows."""
    from worker.vault.status.dead_rows import count_dead_rows

    if not (dead := await count_dead_rows(runtime.vault)):
        return []
    said = (
        f"{dead} rows of grants are dead and stay, so each claim takes longer: end the transaction that was left open "
        "(pg_stat_activity, the oldest xact_start; pg_prepared_xacts; pg_replication_slots)"
    )
    return [Check("dead rows", CheckResult.WARN, said)]


async def check_location(runtime: Runtime) -> list[Check]:
    """Check that this is no copy of the vault."""
    await runtime.vault.check_location()
    return [Check("location", CheckResult.OK, "the database is where the vault was in use")]


async def check_pauses(runtime: Runtime) -> list[Check]:
    """Name what the operator has paused, and the remedy."""
    from worker.cli.pause_scopes import describe
    from worker.vault.pauses import list_pauses

    return [
        Check("pause", CheckResult.WARN, f"{each.scope} is {describe(each)}; `token-vault resume` ends that")
        for each in await list_pauses(runtime.vault, runtime.tenants)
    ]


async def check_roles(runtime: Runtime) -> list[Check]:
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


async def check_webhooks(runtime: Runtime) -> list[Check]:
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
