"""``token-vault reconnect``: the link by which a user consents again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Connection, Json, Tenant, User
from worker.cli.query import query_vault

if TYPE_CHECKING:
    from worker.vault.vault import Vault


def reconnect(
    user: User = None,
    connection: Connection = None,
    needs: Annotated[
        str, typer.Option("--needs", metavar="SCOPES", help="Scopes to ask for besides those granted.")
    ] = "",
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Print the link by which a user consents again.

    It leads to Auth0, for the application of [reconnect]; its state comes back to that application's page.
    """
    from worker.vault.grants.consent_link import consent_link

    if user is None or connection is None:
        raise ConfigurationError("give --user and --connection")
    settings = environment.load_settings()
    if settings.reconnect is None:
        raise ConfigurationError(
            "[reconnect] is not set: client_id, redirect_uri and secret of your application"
        )
    name = environment.select_tenant(settings, tenant)
    application = settings.reconnect_application(name)
    if application is None:
        raise ConfigurationError(f"[reconnect] is an application of another tenant than {name}")

    async def look(vault: Vault, _: Sequence[str]) -> str:
        return await consent_link(
            vault,
            application,
            tenant=name,
            connection=connection,
            user_id=user,
            needs=needs.split(),
            now=datetime.now(UTC),
        )

    link, _, _ = query_vault(look, name)
    if as_json:
        output.print_json({"reauthorize_url": link, "user_id": user, "connection": connection})
    else:
        typer.echo(link)
    return ExitCode.OK
