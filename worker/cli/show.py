"""``token-vault show``: a user's grants in full, without tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from token_vault.errors import ConfigurationError, TokenNotFound
from worker.cli import output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Admin, Connection, Json, Tenant, User
from worker.cli.query import query_vault

if TYPE_CHECKING:
    from worker.vault.vault import Vault


def show(
    user: User = None,
    connection: Connection = None,
    admin: Admin = None,
    grant: Annotated[
        int | None, typer.Option("--grant", metavar="ID", min=1, max=2**63 - 1, help="The id that logs name.")
    ] = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Show a user's grants in full, no tokens.

    Or the admin grant of an enterprise connection, or the grant that a line of the log names.
    """
    is_one = sum(each is not None for each in (user, admin, grant)) == 1
    if not is_one or (user is None and connection is not None):
        raise ConfigurationError("give --user, optionally with --connection, or --admin or --grant alone")

    from worker.vault.grants import queries

    async def look(vault: Vault, tenants: Sequence[str]) -> list[dict[str, Any]]:
        owner = None if grant else user or ""
        wanted = queries.GrantFilter(owner, admin or connection, grant_id=grant)
        return await queries.list_grants(vault, tenants, wanted)

    found, _, _ = query_vault(look, tenant)
    if not found:
        who = f"id {grant}" if grant else f"user {user}" if user else f"the admin of {admin}"
        raise TokenNotFound(f"the vault has no grant of {who}" + (f" for {connection}" if connection else ""))
    if as_json:
        output.print_json({"grants": found})
        return ExitCode.OK
    for number, row in enumerate(found):
        if number:
            output.print_line("")
        output.print_table(["", ""], [[name.replace("_", " "), value] for name, value in row.items()])
    return ExitCode.OK
