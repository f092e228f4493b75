"""``forget``, and what a sync erases."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.options import Json, Tenant
from worker.cli.working import chosen, quiet_log

if TYPE_CHECKING:
    from worker.erasure import ErasureReport
    from worker.settings import Settings

# A grant whose refresh token is in use is waited for, in seconds: longer than any call takes.
PATIENCE = 60
PAUSE = 2


def forget(
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Auth0's user id.")],
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Erase all that is held of a user, at once.

    Where a revocation URL is set for a connection, the grant is ended at its provider first. What Auth0 goes on
    showing of the user is not taken again; a new login is. Exits 0 when nothing is held any more.
    """
    if not user:
        raise ConfigurationError("--user is empty")
    quiet_log()
    with environment.opened() as settings:
        swept = [asyncio.run(_forget(settings, name, user)) for name in chosen(settings, tenant)]
    if as_json:
        output.document(
            {"ok": not any(each.waiting for each in swept), "tenants": [asdict(each) for each in swept]}
        )
    for each in swept if not as_json else ():
        output.say(f"{each.tenant}: {each.erased} grants erased")
        if each.not_revoked:
            output.note(f"{each.tenant}: {each.not_revoked} of them could not be revoked at their provider")
        if each.waiting:
            output.note(f"{each.tenant}: {each.waiting} grants are in use just now; run this once more")
    return output.NOT_SO if any(each.waiting for each in swept) else output.OK


async def _forget(settings: Settings, tenant: str, user: str) -> ErasureReport:
    from worker.runtime import open_runtime

    async with open_runtime(settings) as runtime:
        erasure = await runtime.erasure(tenant)
        swept = await erasure.forget(user)
        for _ in range(PATIENCE // PAUSE):
            if not swept.waiting:
                break
            await asyncio.sleep(PAUSE)
            again = await erasure.forget(user)
            again.erased += swept.erased
            again.not_revoked += swept.not_revoked
            swept = again
    return swept
