"""``token-vault renew``: renew what is due, one grant, or all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from token_vault.token_target import DEFAULT_TARGET, TokenTarget
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.known_names import find_connections
from worker.cli.options import Account, Admin, Connection, Json, MinTtl, Tenant, User
from worker.cli.pause_scopes import describe
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.renewal.on_demand import Refreshed
    from worker.renewal.outcome import Outcome
    from worker.runtime import Runtime
    from worker.settings import Settings


# Long enough to renew everything that is due; beat's tasks stop much sooner, to make room for each other.
BUDGET_SECONDS = 24 * 3600.0


def renew(
    due: Annotated[bool, typer.Option("--due", help="Renew what is due; the default.")] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="With --force: renew every grant, or all of --connection, as after a leak."
        ),
    ] = False,
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
    """Renew what is due, one grant, or all.

    Exits 0 only when nothing is left to be fixed. With --all --force each refresh token is replaced where the provider
    rotates them, at the pace that it allows; if it is killed, the workers go on, and so does the same command.
    """
    one = user is not None or admin is not None
    if everything:
        _check_all(due or one or account is not None or min_ttl is not None, force=force)
        environment.configure_log()
        with environment.running_vault() as settings:
            tenants = environment.select_tenants(settings, tenant)
            return asyncio.run(_renew_all(settings, tenants, connection, as_json))
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


def _check_all(narrowed: bool, *, force: bool) -> None:
    """Refuse options that contradict ``--all``."""
    if narrowed:
        raise ConfigurationError("--all goes with --force, --connection and --tenant alone")
    if not force:
        raise ConfigurationError(
            "--all renews fresh tokens too: give --force; `token-vault renew` renews what is due"
        )


async def _renew_all(
    settings: Settings, tenants: Sequence[str], connection: str | None, as_json: bool
) -> int:
    """Order the renewal of all grants, and carry it out."""
    from worker.runtime import open_runtime
    from worker.vault import claims

    async with open_runtime(settings) as runtime:
        vault = runtime.vault
        if connection is not None:
            await find_connections(vault, tenants, connection)
        resumed = await claims.count_ordered(vault, tenants, connection)
        ordered = 0
        if not resumed:
            ordered = await claims.order_renewals(vault, tenants, connection, now=await vault.now())
        outcomes = await _run_due(runtime, tenants)
        left = await claims.count_ordered(vault, tenants, connection)
        known = await runtime.connections.load(list(tenants), connection)
    unrotated = sorted(
        {each.name for each in known.values() if each.provider is not None and not each.provider.rotates}
    )
    ok = left == 0
    if as_json:
        output.print_json(
            {"ok": ok, "ordered": ordered or resumed, "resumed": bool(resumed), "left": left}
            | {"outcomes": outcomes, "not_rotated": unrotated}
        )
        return ExitCode.OK if ok else ExitCode.FAILED
    output.print_line(
        f"{pluralize(ordered or resumed, 'grant')} to renew: {output.format_value(outcomes) or 'none was due'}"
    )
    if left:
        output.print_notice(
            f"{pluralize(left, 'is', 'are')} not renewed yet: the workers go on, or run this again"
        )
    if unrotated:
        output.print_notice(
            f"{', '.join(unrotated)}: the provider does not replace refresh tokens, so a leaked one is alive; "
            "`token-vault revoke --connection NAME` ends it"
        )
    return ExitCode.OK if ok else ExitCode.FAILED


async def _renew_due(settings: Settings, tenants: Sequence[str], as_json: bool) -> int:
    from worker.runtime import open_runtime
    from worker.vault.pauses import list_pauses

    async with open_runtime(settings) as runtime:
        counts = await _run_due(runtime, tenants)
        paused = await list_pauses(runtime.vault, tenants)
    ok = not paused and set(counts) <= {outcome.value for outcome in _ok_outcomes()}
    for each in paused:
        output.print_notice(f"{each.scope} is {describe(each)}; `token-vault resume` ends that")
    if as_json:
        stopped = {"paused": [str(each.scope) for each in paused]} if paused else {}
        output.print_json({"ok": ok, "outcomes": counts} | stopped)
    else:
        output.print_line(output.format_value(counts) or "nothing is due")
    return ExitCode.OK if ok else ExitCode.FAILED


async def _run_due(runtime: Runtime, tenants: Sequence[str]) -> dict[str, int]:
    """Renew what is due; return counts by outcome."""
    with output.progress_bar("renewals") as bar:
        done = 0

        def count(_: Outcome) -> None:
            nonlocal done
            done += 1
            bar(done, None)

        outcomes = await runtime.engine.renew_due(tenants, budget=BUDGET_SECONDS, progress=count)
    return {outcome.value: number for outcome, number in sorted(outcomes.items())}


async def renew_grant(
    settings: Settings,
    tenants: Sequence[str],
    user_id: str,
    connection: str,
    *,
    account: str | None = None,
    min_ttl: float | None = None,
    force: bool = False,
    target: TokenTarget = DEFAULT_TARGET,
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
            target=target,
            by_operator=True,
        )  # fmt: skip


def _show_refreshed(refreshed: Refreshed, as_json: bool) -> int:
    ok = refreshed.outcome in _ok_outcomes()
    if as_json:
        output.print_json(asdict(refreshed) | {"ok": ok})
    else:
        columns = {name: value for name, value in asdict(refreshed).items() if value is not None}
        output.print_table(["", ""], [[name.replace("_", " "), value] for name, value in columns.items()])
    if refreshed.outcome == "reauthorization_required":
        return ExitCode.CONSENT_NEEDED
    return ExitCode.OK if ok else ExitCode.FAILED


def _ok_outcomes() -> set[Outcome]:
    from worker.renewal.outcome import Outcome

    return {Outcome.RENEWED, Outcome.FRESH, Outcome.SUPERSEDED}
