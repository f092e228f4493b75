"""``token-vault sync``: pull tokens from Auth0."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from token_vault.errors import ConfigurationError, VaultError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Connection, Json, Tenant, User
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.runtime import Runtime
    from worker.settings import Settings
    from worker.sync.report import Progress, SyncReport


def sync(
    full: Annotated[bool, typer.Option("--full", help="Read all users, unchanged ones included.")] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Erase whom Auth0 does not have, however many they are.")
    ] = False,
    user: User = None,
    connection: Connection = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Pull tokens from Auth0 into the vault.

    Connections first, then the users who changed, or all of them where no full scan has come to its end;
    exits 0 when all of it is committed.
    """
    if user is not None and connection is not None:
        raise ConfigurationError("give --user or --connection, not both")
    if erase and (user or connection):
        raise ConfigurationError("--erase is of all users: give it without --user and --connection")
    environment.configure_log()
    with environment.running_vault() as settings:
        if user or connection:
            tenants = [environment.select_tenant(settings, tenant)]
        else:
            tenants = environment.select_tenants(settings, tenant)
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
    codes = [ExitCode.OK]
    async with open_runtime(settings) as runtime:
        for tenant in tenants:
            try:
                with output.progress_bar(f"users of {tenant}") as bar:
                    report = await _sync_one(runtime, tenant, user, connection, full, bar)
                erased = (
                    await _erased(runtime, tenant, report, anyway=erase) if not (user or connection) else 0
                )
            except VaultError as error:
                if len(tenants) == 1:
                    raise
                codes.append(ExitCode.of(error))
                reports.append({"tenant": tenant, "ok": False, "problems": [str(error)]})
            else:
                codes.append(ExitCode.OK if report.ok else ExitCode.FAILED)
                reports.append(_of_report(report) | {"erased": erased})
    if as_json:
        output.print_json({"ok": not any(codes), "tenants": reports})
    else:
        for each in reports:
            _show_report(each)
    return ExitCode.of_several(codes)


async def _sync_one(
    runtime: Runtime, tenant: str, user: str | None, connection: str | None, full: bool, bar: Progress
) -> SyncReport:
    one = await runtime.tenant_sync(tenant, urgent=user is not None)
    if user is not None:
        return await one.sync_user(user)  # always all identities, with or without --full
    if connection is not None:
        return await one.sync_connection(connection, full=full, progress=bar)
    return await one.catch_up(full=full, progress=bar)


async def _erased(runtime: Runtime, tenant: str, report: SyncReport, *, anyway: bool) -> int:
    """Erase what has been gone for long enough."""
    swept = await (await runtime.eraser(tenant)).sweep(anyway=anyway)
    report.problems += swept.problems
    if swept.not_revoked:
        report.note(f"{pluralize(swept.not_revoked, 'erased grant')} could not be revoked at their provider")
    return swept.erased


def _of_report(report: SyncReport) -> dict[str, Any]:
    columns: dict[str, Any] = asdict(report)
    stats: dict[str, int] = columns.pop("stats")
    problems = columns.pop("problems")
    return columns | stats | {"problems": problems, "ok": report.ok}


def _show_report(report: dict[str, Any]) -> None:
    if report.get("skipped"):
        output.print_line(f"{report['tenant']}: another process is at this sync; nothing was done here")
    elif "seen" in report:
        output.print_line(
            f"{report['tenant']}: {pluralize(report['connections'], 'connection')}, "
            f"{pluralize(report['seen'], 'user')}; grants: "
            f"{report['new']} new, {report['changed']} changed, {report['unchanged']} unchanged, {report['stale']} stale, "
            f"{report['gone']} gone, {report.get('erased', 0)} erased"
        )
    for problem in (*report.get("notes", ()), *report["problems"]):
        output.print_notice(f"{report['tenant']}: {problem}")
