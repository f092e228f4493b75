"""``follow``: a service of its own that takes what a tenant's events tell, as they come."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from token_vault.errors import TemporarilyUnavailable, VaultError
from worker.auth0.errors import MissingScope
from worker.cli import environment, output
from worker.cli.options import Tenant
from worker.cli.working import chosen

if TYPE_CHECKING:
    from worker.runtime import Runtime
    from worker.settings import Settings

# How long to wait before connecting again after a failure, in seconds: doubled each time, by chance within.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# How often one that waits in reserve looks whether it is needed.
RESERVE = 15.0


def follow(tenant: Tenant = None) -> int:
    """Take what the tenants' events tell, within seconds.

    Runs until it is stopped. Of several such services one follows each tenant, the others wait in reserve. Needs the
    scope read:events.
    """
    from worker import logs

    logs.configure()
    with environment.opened() as settings:
        return asyncio.run(_follow(settings, chosen(settings, tenant)))


async def _follow(settings: Settings, tenants: Sequence[str]) -> int:
    from worker.runtime import open_runtime

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_runtime(settings, connections=4 + 2 * len(tenants)) as runtime:
        followed = await asyncio.gather(*(_one(runtime, tenant, stop) for tenant in tenants))
    return output.OK if all(followed) else output.NOT_SO


async def _one(runtime: Runtime, tenant: str, stop: asyncio.Event) -> bool:
    """Follow one tenant, again and again; returns False where that is not allowed."""
    wait = FIRST_WAIT
    while not stop.is_set():
        try:
            follows = await (await runtime.sync(tenant)).follow(stop)
            wait, pause = FIRST_WAIT, FIRST_WAIT if follows else RESERVE
        except MissingScope as error:
            output.note(f"{tenant}: {error}")
            return False
        except (VaultError, OSError) as error:
            output.note(f"{tenant}: {error}")
            pause, wait = wait, min(wait * 2, LONGEST_WAIT)
            if isinstance(error, TemporarilyUnavailable):
                pause = max(pause, error.retry_after)
        with_chance = pause * random.uniform(0.5, 1)  # noqa: S311  # no secret
        try:
            await asyncio.wait_for(stop.wait(), with_chance)
        except TimeoutError:
            continue
    return True
