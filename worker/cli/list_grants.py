"""``token-vault list``: grants and their states."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from token_vault.errors import ConfigurationError
from worker.cli import output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Connection, Json, Limit, Provider, Tenant, User
from worker.cli.query import query_vault
from worker.cli.times import parse_future

if TYPE_CHECKING:
    from worker.vault.grants.queries import GrantFilter
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
# What is in memory at a time, however many are listed.
PAGE_ROWS = 1000
COLUMNS = ("connection", "user", "state", "reason", "expires", "next renewal")


@dataclass
class _Listing:
    """What is to be listed, and how far it is."""

    wanted: GrantFilter
    sort: Literal["id", "expires", "user"]
    limit: int
    after: str | None
    shown: int = 0
    more: bool = False

    async def pages(self, vault: Vault, tenants: Sequence[str]) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield page by page; ``more`` is known at the end."""
        from worker.vault.grants import queries

        while True:
            size = min(PAGE_ROWS, self.limit - self.shown)
            found = await queries.list_grants(
                vault, tenants, self.wanted, sort=self.sort, after=self.after, limit=size + 1
            )
            self.more, page = len(found) > size, found[:size]
            if page:
                self.shown += len(page)
                self.after = queries.cursor(page[-1], self.sort)
                yield page
            if not self.more or self.shown >= self.limit:
                return


def list_grants(
    user: User = None,
    connection: Connection = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help=f"As `status` counts them, one of {', '.join(STATES)}."),
    ] = None,
    provider: Provider = None,
    expires_before: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            parser=parse_future,
            help="Whose access token ends before: 2030-01-31T12:00Z, UTC by default, or a span like 2h.",
        ),
    ] = None,
    sort: Annotated[
        Literal["id", "expires", "user"], typer.Option(help="The order: by id, end of the token, or user.")
    ] = "id",
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where a list in this order ended.")
    ] = None,
    limit: Limit = 100,
    tenant: Tenant = None,
    as_json: Json = False,
    as_lines: Annotated[bool, typer.Option("--json-lines", help="Print one JSON object a line.")] = False,
) -> int:
    """List grants and their states, no tokens."""
    from worker.vault.grants import queries

    if state not in (None, *STATES):
        raise ConfigurationError(f"no state is called {state}: {', '.join(STATES)}")
    listing = _Listing(
        queries.GrantFilter(user, connection, state, provider, expires_before), sort, limit, after
    )

    async def look(vault: Vault, tenants: Sequence[str]) -> int:
        total = await queries.count_grants(vault, tenants, listing.wanted)
        if as_lines:
            await _print_lines(listing, vault, tenants)
        elif as_json:
            await _print_document(listing, vault, tenants, total)
        else:
            await _print_tables(listing, vault, tenants)
        return total

    total, _, _ = query_vault(look, tenant)
    if listing.more and not as_json:
        where = " after the cursor," if after else ""
        output.print_notice(
            f"shown: the first {listing.shown}{where} of {total}; --limit shows more, and --after {listing.after} goes on"
        )
    return ExitCode.OK


async def _print_lines(listing: _Listing, vault: Vault, tenants: Sequence[str]) -> None:
    async for page in listing.pages(vault, tenants):
        for row in page:
            output.print_raw(output.json_line(row))


async def _print_document(listing: _Listing, vault: Vault, tenants: Sequence[str], total: int) -> None:
    """Print one document, without holding it as a whole."""
    before = head = '{"grants": ['
    async for page in listing.pages(vault, tenants):
        for row in page:
            output.print_raw(before + output.json_line(row))
            before = ","
    end = {"more": listing.more, "total": total, "next": listing.after if listing.more else None}
    output.print_raw(f"{head if before == head else ''}], {output.json_line(end)[1:]}")


async def _print_tables(listing: _Listing, vault: Vault, tenants: Sequence[str]) -> None:
    widths: Sequence[int] = ()
    async for page in listing.pages(vault, tenants):
        now = datetime.now(UTC)
        rows = [
            [
                row["connection"], row["user_id"] or "(admin)", row["state"], row["reason"],
                output.relative_time(row["expires_at"], now),
                output.relative_time(row["blocked_until"] or row["next_renewal_at"], now),
            ]
            for row in page
        ]  # fmt: skip
        widths = output.print_table(*output.with_tenant_column(COLUMNS, rows, page, tenants), widths=widths)
    if not widths:
        output.print_table(COLUMNS, [])
