"""``token-vault list``: grants and their states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from token_vault.errors import ConfigurationError
from worker.cli import output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Connection, Json, Limit, Tenant, User
from worker.cli.query import query_vault

if TYPE_CHECKING:
    from worker.vault.vault import Vault


STATES = (
    "active",
    "ended",
    "unrenewable",
    "expired",
    "in_doubt",
    "paused",
    "blocked",
    "reauthorization_required",
    "erased",
)


def list_grants(
    user: User = None,
    connection: Connection = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="As `status` counts them, e.g. active or blocked.")
    ] = None,
    limit: Limit = 100,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """List grants and their states, no tokens."""
    from worker.vault.grants import queries

    if state not in (None, *STATES):
        raise ConfigurationError(f"no state is called {state}: {', '.join(STATES)}")

    async def look(vault: Vault, tenants: Sequence[str]) -> list[dict[str, Any]]:
        return await queries.list_grants(
            vault, tenants, user_id=user, connection=connection, state=state, limit=limit + 1
        )

    found, tenants, now = query_vault(look, tenant)
    more, found = len(found) > limit, found[:limit]
    if as_json:
        output.print_json({"grants": found, "more": more})
        return ExitCode.OK
    columns = ("connection", "user", "state", "reason", "expires", "next renewal")
    rows = [
        [
            row["connection"], row["user_id"] or "(admin)", row["state"], row["reason"],
            output.relative_time(row["expires_at"], now), output.relative_time(row["blocked_until"] or row["next_renewal_at"], now),
        ]
        for row in found
    ]  # fmt: skip
    output.print_table(*output.with_tenant_column(columns, rows, found, tenants))
    if more:
        output.print_notice(f"these are the first {limit}; --limit shows more")
    return ExitCode.OK
