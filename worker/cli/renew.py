"""``token-vault renew``: renew what is due, or one grant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Account, Admin, Connection, Json, MinTtl, Tenant, User

if TYPE_CHECKING:
    from collections import Counter

    from worker.renewal.on_demand import Refreshed
    from worker.renewal.outcome import Outcome
    from worker.settings import Settings


# Long enough to renew everything that is due; beat's tasks stop much sooner, to make room for each other.
BUDGET_SECONDS = 24 * 3600.0


def renew(
    due: Annotated[bool, typer.Option("--due", help="Renew what is due; the default.")] = False,
    user: User = None,
    connection: Connection = None,
    account: Account = None,
    admin: Admin = None,
    force: Annotated[
        bool, typer.Option("--force", help="Renew even a fresh token, or one that waits after a failure.")
    ] = False,
    min_ttl: MinTtl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Renew what is due, or one grant.

    Exits 0 only when nothing is left to be fixed.
    """
    one = user is not None or admin is not None
    if (user is not None and admin is not None) or (due and one):
        raise ConfigurationError("give --due, --user with --connection, or --admin: one of them")
    if (connection is not None) != (user is not None):
        raise ConfigurationError("--user and --connection go together")
    if account is not None and user is None:
        raise ConfigurationError("--account is one of a user's: give --user and --connection")
    if not one and (force or min_ttl is not None):
        raise ConfigurationError(
            "--force and --min-ttl are for one grant: name it by --user and --connection, or --admin"
        )
    environment.configure_log()
    with environment.running_vault() as settings:
        tenants = environment.select_tenants(settings, tenant)
        if not one:
            return asyncio.run(_renew_due(settings, tenants, as_json))
        wanted = (user or "", connection or admin or "")
        refreshed = asyncio.run(
            renew_grant(settings, tenants, *wanted, account=account, min_ttl=min_ttl, force=force)
        )
    return _show_refreshed(refreshed, as_json)


async def _renew_due(settings: Settings, tenants: Sequence[str], as_json: bool) -> int:
    from worker.runtime import open_runtime

    async with open_runtime(settings) as runtime:
        with output.progress_bar("renewals") as bar:
            done = 0

            def count(_: Outcome) -> None:
                nonlocal done
                done += 1
                bar(done, None)

            outcomes: Counter[Outcome] = await runtime.engine.renew_due(
                tenants, budget=BUDGET_SECONDS, progress=count
            )
    ok = set(outcomes) <= _ok_outcomes()
    counts = {outcome.value: number for outcome, number in sorted(outcomes.items())}
    if as_json:
        output.print_json({"ok": ok, "outcomes": counts})
    else:
        output.print_line(output.format_value(counts) or "nothing is due")
    return ExitCode.OK if ok else ExitCode.FAILED


async def renew_grant(
    settings: Settings,
    tenants: Sequence[str],
    user_id: str,
    connection: str,
    *,
    account: str | None = None,
    min_ttl: float | None = None,
    force: bool = False,
) -> Refreshed:
    """Renew one grant in this process.

    Raises:
        TokenNotFound: the vault has no such grant.
        AmbiguousAccount: there are several, and no account was named.
    """
    from worker.runtime import open_runtime

    async with open_runtime(settings, connections=3) as runtime:
        return await runtime.on_demand.refresh(
            tenants=tenants, user_id=user_id, connection=connection, account=account, min_ttl=min_ttl,
            force=force,
            by_operator=True,
        )  # fmt: skip


def _show_refreshed(refreshed: Refreshed, as_json: bool) -> int:
    ok = refreshed.outcome in _ok_outcomes()
    if as_json:
        output.print_json(asdict(refreshed) | {"ok": ok})
    else:
        columns = {name: value for name, value in asdict(refreshed).items() if value is not None}
        output.print_table(["", ""], [[name.replace("_", " "), value] for name, value in columns.items()])
    return ExitCode.OK if ok else ExitCode.FAILED


def _ok_outcomes() -> set[Outcome]:
    from worker.renewal.outcome import Outcome

    return {Outcome.RENEWED, Outcome.FRESH, Outcome.SUPERSEDED}
