"""``migrate``, ``sync`` and ``renew``: work done in the command's own process, committed when it ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from token_vault.errors import ConfigurationError, VaultError
from worker.cli import environment, output
from worker.cli.options import Admin, Connection, Json, MinTtl, Tenant, User

if TYPE_CHECKING:
    from collections import Counter

    from worker.renewal.on_demand import Refreshed
    from worker.renewal.outcome import Outcome
    from worker.runtime import Runtime
    from worker.settings import Settings
    from worker.sync.report import Progress, SyncReport

# `renew` goes on until nothing is due, in seconds; beat's tasks stop much sooner, to make room for each other.
BUDGET = 24 * 3600.0


def migrate(as_json: Json = False) -> int:
    """Bring the database to this version's tables."""
    quiet_log()
    settings = environment.configured()
    if settings.embedded:
        settings = environment.with_keys(settings)
    with environment.served(settings, redis=False) as complete:
        before, head = environment.bring_to_head(complete)
    if as_json:
        output.document({"from": before, "to": head})
    elif before == head:
        output.say(f"the database is at {head} already")
    else:
        output.say(f"the database went from {before or 'nothing'} to {head}")
    return output.OK


def sync(
    full: Annotated[
        bool, typer.Option("--full", help="Walk through all users, unchanged ones included.")
    ] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Erase whom Auth0 does not have, however many they are.")
    ] = False,
    user: User = None,
    connection: Connection = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Pull tokens from Auth0 into the vault.

    Connections first, then the users who changed, or all of them where no walk through all has come to its end;
    exits 0 when all of it is committed.
    """
    if user is not None and connection is not None:
        raise ConfigurationError("give --user or --connection, not both")
    if erase and (user or connection):
        raise ConfigurationError("--erase is of all users: give it without --user and --connection")
    quiet_log()
    with environment.opened() as settings:
        tenants = chosen(settings, tenant)
        if len(tenants) > 1 and (user or connection):
            raise ConfigurationError(f"name one of the tenants by --tenant: {', '.join(tenants)}")
        return asyncio.run(_sync(settings, tenants, user, connection, full, erase, as_json))


async def _sync(
    settings: Settings,
    tenants: Sequence[str],
    user: str | None,
    connection: str | None,
    full: bool,
    erase: bool,
    as_json: bool,
) -> int:
    from worker.runtime import open_runtime

    reports: list[dict[str, Any]] = []
    codes = [output.OK]
    async with open_runtime(settings) as runtime:
        for tenant in tenants:
            try:
                with output.progress(f"users of {tenant}") as bar:
                    report = await _sync_one(runtime, tenant, user, connection, full, bar)
                erased = (
                    await _erased(runtime, tenant, report, anyway=erase) if not (user or connection) else 0
                )
            except VaultError as error:
                if len(tenants) == 1:
                    raise
                codes.append(output.exit_code(error))
                reports.append({"tenant": tenant, "ok": False, "problems": [str(error)]})
            else:
                codes.append(output.OK if report.ok else output.NOT_SO)
                reports.append(_of_report(report) | {"erased": erased})
    if as_json:
        output.document({"ok": not any(codes), "tenants": reports})
    else:
        for each in reports:
            _show_report(each)
    return max(codes)


async def _sync_one(
    runtime: Runtime, tenant: str, user: str | None, connection: str | None, full: bool, bar: Progress
) -> SyncReport:
    one = await runtime.sync(tenant, urgent=user is not None)
    if user is not None:
        return await one.sync_user(user)  # whole, with --full and without
    if connection is not None:
        return await one.sync_connection(connection, full=full, progress=bar)
    return await one.catch_up(full=full, progress=bar)


async def _erased(runtime: Runtime, tenant: str, report: SyncReport, *, anyway: bool) -> int:
    """Erase what has been gone for long enough."""
    swept = await (await runtime.erasure(tenant)).sweep(anyway=anyway)
    report.problems += swept.problems
    if swept.not_revoked:
        report.note(f"{swept.not_revoked} erased grants could not be revoked at their provider")
    return swept.erased


def _of_report(report: SyncReport) -> dict[str, Any]:
    columns: dict[str, Any] = asdict(report)
    stats: dict[str, int] = columns.pop("stats")
    problems = columns.pop("problems")
    return columns | stats | {"problems": problems, "ok": report.ok}


def _show_report(report: dict[str, Any]) -> None:
    if report.get("skipped"):
        output.say(f"{report['tenant']}: another process is at this sync; nothing was done here")
    elif "seen" in report:
        output.say(
            f"{report['tenant']}: {report['connections']} connections, {report['seen']} users; grants: "
            f"{report['new']} new, {report['changed']} changed, {report['unchanged']} unchanged, {report['stale']} stale, "
            f"{report['gone']} gone, {report.get('erased', 0)} erased"
        )
    for problem in (*report.get("notes", ()), *report["problems"]):
        output.note(f"{report['tenant']}: {problem}")


def renew(
    due: Annotated[bool, typer.Option("--due", help="Renew what is due; the default.")] = False,
    user: User = None,
    connection: Connection = None,
    admin: Admin = None,
    force: Annotated[
        bool, typer.Option("--force", help="Renew even a fresh token, or one that waits after a failure.")
    ] = False,
    min_ttl: MinTtl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Renew what is due, or one grant.

    Exits 0 only when nothing is left to be mended.
    """
    one = user is not None or admin is not None
    if (user is not None and admin is not None) or (due and one):
        raise ConfigurationError("give --due, --user with --connection, or --admin: one of them")
    if (connection is not None) != (user is not None):
        raise ConfigurationError("--user and --connection go together")
    if not one and (force or min_ttl is not None):
        raise ConfigurationError(
            "--force and --min-ttl are for one grant: name it by --user and --connection, or --admin"
        )
    quiet_log()
    with environment.opened() as settings:
        tenants = chosen(settings, tenant)
        if not one:
            return asyncio.run(_renew_due(settings, tenants, as_json))
        wanted = (user or "", connection or admin or "")
        refreshed = asyncio.run(refresh(settings, tenants, *wanted, min_ttl=min_ttl, force=force))
    return _show_refreshed(refreshed, as_json)


async def _renew_due(settings: Settings, tenants: Sequence[str], as_json: bool) -> int:
    from worker.runtime import open_runtime

    async with open_runtime(settings) as runtime:
        with output.progress("renewals") as bar:
            done = 0

            def count(_: Outcome) -> None:
                nonlocal done
                done += 1
                bar(done, None)

            outcomes: Counter[Outcome] = await runtime.engine.renew_due(
                tenants, budget=BUDGET, progress=count
            )
    ok = set(outcomes) <= _fine()
    counts = {outcome.value: number for outcome, number in sorted(outcomes.items())}
    if as_json:
        output.document({"ok": ok, "outcomes": counts})
    else:
        output.say(output.text(counts) or "nothing is due")
    return output.OK if ok else output.NOT_SO


async def refresh(
    settings: Settings,
    tenants: Sequence[str],
    user_id: str,
    connection: str,
    *,
    min_ttl: float | None = None,
    force: bool = False,
) -> Refreshed:
    """Renew one grant in this process.

    Raises:
        TokenNotFound: the vault has no such grant.
    """
    from worker.runtime import open_runtime

    async with open_runtime(settings, connections=3) as runtime:
        return await runtime.on_demand.refresh(
            tenants=tenants, user_id=user_id, connection=connection, min_ttl=min_ttl, force=force,
            by_operator=True,
        )  # fmt: skip


def _show_refreshed(refreshed: Refreshed, as_json: bool) -> int:
    ok = refreshed.outcome in _fine()
    if as_json:
        output.document(asdict(refreshed) | {"ok": ok})
    else:
        columns = {name: value for name, value in asdict(refreshed).items() if value is not None}
        output.table(["", ""], [[name.replace("_", " "), value] for name, value in columns.items()])
    return output.OK if ok else output.NOT_SO


def _fine() -> set[Outcome]:
    from worker.renewal.outcome import Outcome

    return {Outcome.RENEWED, Outcome.FRESH, Outcome.SUPERSEDED}


def chosen(settings: Settings, tenant: str | None) -> list[str]:
    """Return the tenants that are meant: the named one, or all.

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


def quiet_log() -> None:
    """Log warnings alone, unless ``TOKEN_VAULT_LOG_LEVEL`` says otherwise: a command's result speaks for itself."""
    from worker import logs

    logs.configure(level=os.environ.get("TOKEN_VAULT_LOG_LEVEL") or "WARNING")
