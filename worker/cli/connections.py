"""``token-vault connections``: which hosts tokens are sent to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json, Tenant

if TYPE_CHECKING:
    from worker.settings import Settings

app = typer.Typer(help="Which hosts connections' tokens are sent to.", no_args_is_help=True)


@app.callback()
def connections() -> None:
    """Keep ``trust`` a command of its own."""


@app.command()
def trust(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The Auth0 connection's name.")],
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Trust the token host that Auth0 shows now.

    For a connection with the problem token_host_changed, once you know who changed it. The host is that of the last
    sync.
    """
    environment.configure_log()
    with environment.running_vault() as settings:
        where = environment.select_tenant(settings, tenant)
        before, host = asyncio.run(_trust(settings, where, name))
    if as_json:
        output.print_json({"ok": True, "connection": name, "before": before, "host": host})
    else:
        output.print_line(f"the tokens of {name} go to {host} from now on; before, to {before or 'no host'}")
    return ExitCode.OK


async def _trust(settings: Settings, tenant: str, name: str) -> tuple[str | None, str]:
    from worker.runtime import open_runtime

    async with open_runtime(settings, connections=2) as runtime:
        return await runtime.connections.trust(tenant, name)
