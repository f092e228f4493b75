"""``pause`` and ``resume``: stop renewal and syncs; go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Connection, Json, Tenant
from worker.cli.pause_scopes import (
    By,
    Everything,
    describe,
    name_operator,
    select_scopes,
    wait_for_calls,
)
from worker.cli.times import parse_future
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.vault.pauses import EndingTokens, Pause, PauseScope


def pause(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for whoever finds it.")],
    connection: Connection = None,
    everything: Everything = False,
    until: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", parser=parse_future, help="End by itself: ISO 8601, or a span like 2h."),
    ] = None,
    by: By = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Stop renewal and syncs.

    Of a connection, a tenant, or everything. Readers get what has life left, then "temporarily unavailable". Waits until the calls under way have ended: after
    that, no refresh token is sent. Says how many tokens end meanwhile. `resume` ends it, or --until.
    """
    if not reason.strip():
        raise ConfigurationError("--reason is empty: say why, for whoever finds the pause")
    environment.configure_log()
    with environment.running_vault() as settings:
        found = asyncio.run(
            _pause(settings, (connection, tenant, everything), reason.strip(), name_operator(by), until)
        )
    if as_json:
        output.print_json({"ok": True, "paused": [_plain(scope, ending) for scope, ending in found]})
        return ExitCode.OK
    for scope, ending in found:
        output.print_line(f"{scope} is paused until {output.format_value(until) or '`token-vault resume`'}")
        for each in ending:
            output.print_line(
                f"  by {output.format_value(each.by)}: "
                f"{pluralize(each.access_tokens, 'access token ends', 'access tokens end')}, and "
                f"{pluralize(each.refresh_tokens, 'refresh token')} with a known end"
            )
    return ExitCode.OK


def resume(
    connection: Connection = None,
    everything: Everything = False,
    by: By = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """End a pause.

    What became due is renewed step by step. Of a tenant it ends those of its connections too, and --all ends every pause. Exits 1 where a wider pause still
    stops what was named.
    """
    environment.configure_log()
    with environment.running_vault() as settings:
        ended, left = asyncio.run(_resume(settings, (connection, tenant, everything), name_operator(by)))
    if as_json:
        output.print_json(
            {
                "ok": not left,
                "ended": [asdict(each) for each in ended],
                "left": [asdict(each) for each in left],
            }
        )
        return ExitCode.FAILED if left else ExitCode.OK
    for each in ended:
        output.print_line(f"{each.scope} goes on; it was {describe(each)}")
    if not ended:
        output.print_line("no such pause is in force")
    for each in left:
        output.print_notice(f"still stopped, as {each.scope} is {describe(each)}")
    return ExitCode.FAILED if left else ExitCode.OK


async def _pause(
    settings: Settings,
    named: tuple[str | None, str | None, bool],
    reason: str,
    by: str,
    until: datetime | None,
) -> list[tuple[PauseScope, list[EndingTokens]]]:
    from worker.vault import pauses
    from worker.vault.vault import open_vault

    keys = (settings.access_keys, settings.refresh_keys)
    async with open_vault(environment.database_url(settings), *keys, connections=2) as vault:
        now = await vault.now()
        if until is not None and until <= now:
            raise ConfigurationError("--until is over already: give a time to come, or a span like 2h")
        scopes = await select_scopes(vault, settings, *named)
        for scope in scopes:
            await pauses.start(vault, scope, reason=reason, by=by, until=until, now=now)
        await wait_for_calls(vault, scopes)
        return [(scope, await pauses.count_ending(vault, scope, until=until, now=now)) for scope in scopes]


async def _resume(
    settings: Settings, named: tuple[str | None, str | None, bool], by: str
) -> tuple[list[Pause], list[Pause]]:
    from worker.vault import pauses
    from worker.vault.vault import open_vault

    keys = (settings.access_keys, settings.refresh_keys)
    async with open_vault(environment.database_url(settings), *keys, connections=2) as vault:
        scopes = await select_scopes(vault, settings, *named)
        now = await vault.now()
        ended = [each for scope in scopes for each in await pauses.end(vault, scope, by=by, now=now)]
        wider = [await pauses.find(vault, scope.tenant, scope.connection) for scope in scopes]
        return ended, list(dict.fromkeys(each for each in wider if each is not None))


def _plain(scope: PauseScope, ending: Sequence[EndingTokens]) -> dict[str, Any]:
    return {
        "tenant": scope.tenant,
        "connection": scope.connection,
        "ending": [asdict(each) for each in ending],
    }
