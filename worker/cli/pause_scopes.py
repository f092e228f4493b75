"""What a pause stops, as commands name it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.known_names import find_connections
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.vault.pauses import Pause, PauseScope
    from worker.vault.vault import Vault

# How often a pause looks whether the calls under way have ended. A claim's own deadline bounds the wait.
LOOK_SECONDS = 0.5

Everything = Annotated[bool, typer.Option("--all", help="Everything, in all tenants.")]
By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who does so; by default the system's user.")
]


def describe(pause: Pause) -> str:
    """Say since when something is paused, by whom and why."""
    until = f", until {output.format_value(pause.until)}" if pause.until else ""
    return f"paused since {output.format_value(pause.since)}{until} by {pause.paused_by}: {pause.reason}"


def name_operator(by: str | None) -> str:
    """Return who runs the command.

    A container's user may have no name.
    """
    return by or os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"


async def select_scopes(
    vault: Vault, settings: Settings, connection: str | None, tenant: str | None, everything: bool
) -> list[PauseScope]:
    """Return what the options name.

    Raises:
        ConfigurationError: nothing, too much, or a connection that the vault does not know.
    """
    from worker.vault.pauses import EVERYTHING, PauseScope

    if everything == bool(connection or tenant):
        raise ConfigurationError("say what: --connection and --tenant, or --all alone")
    if everything:
        return [EVERYTHING]
    tenants = environment.select_tenants(settings, tenant)
    if connection is None:
        return [PauseScope(each) for each in tenants]
    found = await find_connections(vault, tenants, connection)
    return [PauseScope(each.tenant, each.name) for each in found]


async def wait_for_calls(vault: Vault, scopes: Sequence[PauseScope]) -> None:
    """See the calls under way to their end."""
    from worker.vault import pauses

    writers, is_told = await pauses.list_writers(vault), False
    while count := sum([await pauses.count_under_way(vault, scope, writers) for scope in scopes]):
        if not is_told:
            calls = pluralize(count, "call under way is seen to its", "calls under way are seen to their")
            output.print_notice(f"paused; {calls} end")
        is_told = True
        await asyncio.sleep(LOOK_SECONDS)
