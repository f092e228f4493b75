"""What ``up`` watches: the vault, for the screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from token_vault.database_errors import failure
from worker.cli import output
from worker.cli.up.processes import Child
from worker.cli.up.screen import Screen
from worker.vault.db.errors import explain
from worker.vault.grants import queries
from worker.vault.status.status import load_status
from worker.vault.vault import Vault

# Between two looks at the vault for the screen.
STATUS_SECONDS = 1.0
# Counting costs what is stored: on a big vault, wait this many times as long as a look took.
IDLE_PER_LOOK = 20


async def watch(
    vault: Vault,
    tenants: Sequence[str],
    children: Sequence[Child],
    screen: Screen,
    *,
    example: tuple[str, str] | None,
) -> None:
    """Show the status again and again.

    Args:
        children: shown beside it; more may be added.
        example: user and connection of a token that is there; None to look for one.
    """
    lost, is_hinted = "", False
    while True:
        began = time.monotonic()
        try:
            status = await load_status(vault, tenants)
            if not is_hinted and status["grants"].get("active", 0):
                is_hinted = await _show_hint(vault, tenants, screen, example)
            screen.show(status, children)
            trouble = ""
        except (DBAPIError, PoolTimeout) as error:
            trouble = str(explain(error))
        except OSError as error:
            trouble = str(failure(error))
        if trouble != lost:
            screen.report(trouble or "Postgres answers again")
        lost = trouble
        await asyncio.sleep(max(STATUS_SECONDS, IDLE_PER_LOOK * (time.monotonic() - began)))


async def _show_hint(
    vault: Vault, tenants: Sequence[str], screen: Screen, example: tuple[str, str] | None
) -> bool:
    """Show how to get a token, once there is one."""
    wanted = _name_token(*example) if example else await _find_token(vault, tenants)
    if wanted:
        screen.hint(f"a token, in another terminal: {output.command_line('get', *wanted)}")
    return bool(wanted)


async def _find_token(vault: Vault, tenants: Sequence[str]) -> tuple[str, ...]:
    """Return the options of ``get`` for any active grant."""
    found = await queries.list_grants(vault, tenants, queries.GrantFilter(state="active"), limit=1)
    if not found:
        return ()
    named = _name_token(found[0]["user_id"], found[0]["connection"])
    return (*named, "--tenant", found[0]["tenant"]) if len(tenants) > 1 else named


def _name_token(user: str | None, connection: str) -> tuple[str, ...]:
    return ("--user", user, "--connection", connection) if user else ("--admin", connection)
