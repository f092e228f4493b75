"""``token-vault follow``: sync users as Auth0's event stream names them."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from token_vault.errors import TemporarilyUnavailable, VaultError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Tenant

if TYPE_CHECKING:
    from worker.runtime import Runtime
    from worker.settings import Settings

# Before connecting again after a failure: doubled each time, with jitter.
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0
# How often a follower in reserve looks whether it is needed.
RESERVE_SECONDS = 15.0
# To Postgres: for what all tenants share, and for each of them.
MAX_OWN_CONNECTIONS, MAX_TENANT_CONNECTIONS = 4, 2


def follow(tenant: Tenant = None) -> int:
    """Take what the tenants' events tell, within seconds.

    Runs until it is stopped. Of several such services one follows each tenant, the others wait in reserve. Needs the
    scope read:events.
    """
    from worker import logs

    logs.configure()
    with environment.running_vault() as settings:
        return asyncio.run(_follow(settings, environment.select_tenants(settings, tenant)))


async def _follow(settings: Settings, tenants: Sequence[str]) -> int:
    from worker.runtime import open_runtime

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_runtime(
        settings, connections=MAX_OWN_CONNECTIONS + MAX_TENANT_CONNECTIONS * len(tenants)
    ) as runtime:
        followed = await asyncio.gather(*(_follow_tenant(runtime, tenant, stop) for tenant in tenants))
    return ExitCode.OK if all(followed) else ExitCode.FAILED


async def _follow_tenant(runtime: Runtime, tenant: str, stop: asyncio.Event) -> bool:
    """Follow one tenant; return False where that is not allowed."""
    from worker.auth0.errors import MissingScope

    wait = FIRST_RETRY_SECONDS
    while not stop.is_set():
        try:
            follows = await (await runtime.tenant_sync(tenant)).follow(stop)
            wait, pause = FIRST_RETRY_SECONDS, FIRST_RETRY_SECONDS if follows else RESERVE_SECONDS
        except MissingScope as error:
            output.print_notice(f"{tenant}: {error}")
            return False
        except (VaultError, OSError) as error:
            output.print_notice(f"{tenant}: {error}")
            pause, wait = wait, min(wait * 2, MAX_RETRY_SECONDS)
            if isinstance(error, TemporarilyUnavailable):
                pause = max(pause, error.retry_after)
        jittered = pause * random.uniform(0.5, 1)  # noqa: S311  # no secret
        try:
            await asyncio.wait_for(stop.wait(), jittered)
        except TimeoutError:
            continue
    return True
