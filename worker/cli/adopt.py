"""``token-vault adopt``: use a copied vault instead of the first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.settings import Settings


def adopt(as_json: Json = False) -> int:
    """Say that the vault it was copied from is stopped.

    A vault that was restored or cloned renews, syncs, revokes and delivers nothing before. Run it only where the first
    one never starts again: each would end the other's refresh tokens.
    """
    environment.configure_log()
    with environment.running_vault() as settings:
        difference = asyncio.run(_adopt(settings))
    if as_json:
        output.print_json({"ok": True, "was_copy": difference})
    elif difference is None:
        output.print_line("this was the vault itself already: nothing changed")
    else:
        output.print_line(f"this is the vault now; before, {difference}")
    return ExitCode.OK


async def _adopt(settings: Settings) -> str | None:
    from worker.vault import location
    from worker.vault.vault import open_vault

    url = environment.database_url(settings)
    async with open_vault(url, settings.access_keys, settings.refresh_keys, connections=2) as vault:
        code = await vault.location_difference()
        if code is None:
            return None
        async with vault.engine.begin() as connection:
            await location.record_location(connection)
        return location.describe(code)
