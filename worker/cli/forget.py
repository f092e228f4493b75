"""``token-vault forget``: erase what is held of a user."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json, Tenant
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.erasure import ErasureReport
    from worker.settings import Settings

# Wait for grants whose refresh token is in use: longer than any call takes.
CLAIM_WAIT_SECONDS = 60
RETRY_SECONDS = 2


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
    environment.configure_log()
    with environment.running_vault() as settings:
        swept = [
            asyncio.run(_forget(settings, name, user))
            for name in environment.select_tenants(settings, tenant)
        ]
    if as_json:
        output.print_json(
            {"ok": not any(each.waiting for each in swept), "tenants": [asdict(each) for each in swept]}
        )
    for each in swept if not as_json else ():
        output.print_line(f"{each.tenant}: {pluralize(each.erased, 'grant')} erased")
        if each.not_revoked:
            output.print_notice(
                f"{each.tenant}: {each.not_revoked} of them could not be revoked at their provider"
            )
        if each.waiting:
            output.print_notice(
                f"{each.tenant}: {pluralize(each.waiting, 'grant is', 'grants are')} in use just now; run this once more"
            )
    return ExitCode.FAILED if any(each.waiting for each in swept) else ExitCode.OK


async def _forget(settings: Settings, tenant: str, user: str) -> ErasureReport:
    from worker.runtime import open_runtime

    async with open_runtime(settings) as runtime:
        erasure = await runtime.eraser(tenant)
        swept = await erasure.forget(user)
        for _ in range(CLAIM_WAIT_SECONDS // RETRY_SECONDS):
            if not swept.waiting:
                break
            await asyncio.sleep(RETRY_SECONDS)
            again = await erasure.forget(user)
            again.erased += swept.erased
            again.not_revoked += swept.not_revoked
            swept = again
    return swept
