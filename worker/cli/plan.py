"""``token-vault plan``: what a tenant will cost, before deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json, Tenant
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.auth0 import Plan
    from worker.cli.forecast import DatabaseLoad, Forecast, Workload
    from worker.settings import Settings, TenantSettings

# Where neither an option nor the settings say it.
DEFAULT_CONNECTIONS = 10
DEFAULT_SHARE = 0.2


def plan(
    plan_name: Annotated[
        str | None,
        typer.Option("--plan", metavar="NAME", help="Auth0's plan; else the configured one, else free."),
    ] = None,
    users: Annotated[
        int | None, typer.Option("--users", metavar="N", min=0, help="How many there are.")
    ] = None,
    logins: Annotated[
        float | None,
        typer.Option("--logins-per-day", metavar="N", min=0, help="Sign-ins a day; else one a user and day."),
    ] = None,
    token_life: Annotated[
        float,
        typer.Option("--token-life", metavar="SECONDS", min=60, help="Of the providers' access tokens."),
    ] = 3600,
    connections: Annotated[
        int | None, typer.Option("--connections", metavar="N", min=0, help="How many there are; else 10.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            "--share", metavar="PART", min=0, max=0.99, help="Of the limit, left to other programs; else 0.2."
        ),
    ] = None,
    carried: Annotated[
        bool | None,
        typer.Option(
            "--lists-carry-tokens/--no-lists-carry-tokens",
            help="Whether Auth0's lists show tokens; both are shown where you do not say.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Ask the configured tenant for its counts, in a few calls.")
    ] = False,
    reconsent: Annotated[
        bool, typer.Option("--reconsent", help="Count instead the users who must consent again, by week.")
    ] = False,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Work out what a tenant costs: calls, hours and workers.

    Needs neither a database nor, without --measure, Auth0; exits 1 where it does not fit the limit. With --reconsent
    it reads the vault.
    """
    from worker.cli.forecast import forecast

    if reconsent:
        return _show_reconsent(tenant, as_json=as_json)
    environment.configure_log()
    settings, name = _chosen(tenant, needed=measure)
    configured = settings.tenants.get(name)
    given = {"users": users, "logins_per_day": logins, "connections": connections}
    known = asyncio.run(_measure(settings, name)) if measure else {}
    known |= {what: number for what, number in given.items() if number is not None}
    if known.get("users") is None:
        raise ConfigurationError("give --users, or --measure where a tenant is configured")
    if share is None:
        share = configured.share if configured else DEFAULT_SHARE
    workload, notes = _workload(known, token_life, share, is_measured=measure)
    chosen = _plan(plan_name, configured)
    results = [
        forecast(chosen, workload, lists_carry_tokens=each)
        for each in ((True, False) if carried is None else (carried,))
    ]
    _show(chosen, workload, results, notes, as_json=as_json)
    return ExitCode.OK if all(result.load <= 1 for result in results) else ExitCode.FAILED


def _workload(
    known: Mapping[str, float | None], token_life: float, share: float, *, is_measured: bool
) -> tuple[Workload, list[str]]:
    """Return the workload, with what is assumed of it."""
    from worker.cli.forecast import Workload

    users, logins, connections = (known.get(name) for name in ("users", "logins_per_day", "connections"))
    notes = []
    if logins is None:
        lacking = "the application lacks read:stats: " if is_measured else ""
        notes.append(f"{lacking}one login a user and day is assumed")
    workload = Workload(
        users=int(users or 0),
        logins_per_day=float((users or 0) if logins is None else logins),
        connections=DEFAULT_CONNECTIONS if connections is None else int(connections),
        token_life=token_life,
        share=share,
    )
    return workload, notes


def _show_reconsent(tenant: str | None, *, as_json: bool) -> int:
    """Count the consents whose provider has told a hard end."""
    from worker.cli.query import query_vault
    from worker.vault.status.status import count_ending_consents

    found, _, _ = query_vault(count_ending_consents, tenant)
    if as_json:
        output.print_json([row | {"week": row["week"].isoformat()} for row in found])
        return ExitCode.OK
    if not found:
        output.print_line("no consent has a known end")
        return ExitCode.OK
    rows = [
        [row["week"].isoformat(), output.format_value(row["connection"]), str(row["grants"])] for row in found
    ]
    columns = ("week from", "connection", "grants")
    output.print_table(*output.with_tenant_column(columns, rows, found, {row["tenant"] for row in found}))
    return ExitCode.OK


def _chosen(tenant: str | None, *, needed: bool) -> tuple[Settings, str]:
    """Return the settings and the name of the one tenant.

    The name is empty where none is clear and none is needed.
    """
    settings = environment.load_settings()
    if tenant is None and not needed and len(settings.tenants) != 1:
        return settings, ""
    return settings, environment.select_tenant(settings, tenant)


def _plan(name: str | None, configured: TenantSettings | None) -> Plan:
    from worker.auth0 import PLANS
    from worker.runtime import plan_of

    if name is not None and name in PLANS:
        return PLANS[name]
    found = plan_of(configured) if configured and name in (None, configured.plan) else None
    if found is None and (name is not None or configured is not None):
        raise ConfigurationError(f"name a plan with limits by --plan: {', '.join(PLANS)}")
    return found or PLANS["free"]


async def _measure(settings: Settings, tenant: str) -> dict[str, Any]:
    from worker.auth0 import ManagementClient, MemoryTokenStore
    from worker.runtime import budget_of, credentials_of

    budget = budget_of(settings, tenant)
    client = ManagementClient(credentials_of(settings, tenant), MemoryTokenStore(), budget=budget)
    async with client as auth0:
        counts = await auth0.urgent.counts()
    return {
        "users": counts.users,
        "logins_per_day": counts.logins_per_day,
        "connections": counts.connections,
    }


def _show(
    plan: Plan, workload: Workload, results: list[Forecast], notes: list[str], *, as_json: bool
) -> None:
    if as_json:
        told = [asdict(result) | {"warnings": list(result.warnings)} for result in results]
        output.print_json({"plan": plan.name, "demand": asdict(workload), "notes": notes, "forecasts": told})
        return
    output.print_line(
        f"plan {plan.name}, {1 - workload.share:.0%} of its limit: {pluralize(workload.users, 'user', form=',')}, "
        f"{pluralize(workload.logins_per_day, 'login', form=',.0f')} a day, tokens of {workload.token_life:,.0f} s"
    )
    heads = [
        "",
        *("lists with tokens" if result.lists_carry_tokens else "lists without tokens" for result in results),
    ]
    output.print_table(heads, [[name, *(write(result) for result in results)] for name, write in _ROWS])
    for warning in dict.fromkeys(warning for result in results for warning in result.warnings):
        output.print_notice(warning)
    for note in notes:
        output.print_notice(note)


def _duration(seconds: float) -> str:
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
        if seconds >= 2 * size or size == 1
    )
    return f"{seconds / size:.1f} {unit}"


def _size(megabytes: float) -> str:
    size, unit = next(
        (size, unit) for size, unit in ((1e6, "TB"), (1e3, "GB"), (1, "MB")) if megabytes >= size or size == 1
    )
    return f"{megabytes / size:,.1f} {unit}"


def _vacuum(database: DatabaseLoad) -> str:
    if database.vacuum_seconds is None:
        return "never"
    return f"every {_duration(database.vacuum_seconds)}, autovacuum_vacuum_cost_limit {database.vacuum_cost_limit}"


_ROWS: tuple[tuple[str, Callable[[Forecast], str]], ...] = (
    ("full sync", lambda it: f"{sum(it.full_sync_calls.values()):,.0f} calls, {_duration(it.full_sync_seconds)}"),
    ("incremental sync, a day", lambda it: f"{sum(it.daily_calls.values()):,.0f} calls, {it.load:.1%} of the limit"),
    ("… looks into the log", lambda it: f"{it.daily_calls['log']:,.0f}"),
    ("… users who signed in", lambda it: f"{it.daily_calls['logins']:,.0f}"),
    ("… connections", lambda it: f"{it.daily_calls['connections']:,.0f}"),
    ("… reconciliation", lambda it: f"{it.daily_calls['reconciliation']:,.0f}"),
    ("an hourly full scan instead", lambda it: f"{it.crawl_calls:,.0f} calls, {it.crawl_load:.1%} of the limit"),
    ("renewals", lambda it: f"{it.renewals_per_second:,.1f} a second"),
    ("workers for renewal", lambda it: str(it.workers)),
    ("Postgres holds", lambda it: _size(it.database.megabytes)),
    ("… and logs, a day", lambda it: _size(it.database.log_megabytes_per_day)),
    ("… max_wal_size, at least", lambda it: f"{it.database.max_wal_size_megabytes // 1024} GB"),
    ("… connections, at the most", lambda it: str(it.database.connections)),
    ("… vacuum of grants", lambda it: _vacuum(it.database)),
    ("machine", lambda it: f"{it.cores} cores, {it.megabytes} MB, database included"),
)  # fmt: skip
