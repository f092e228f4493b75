"""``token-vault events``: events, their deliveries, and sending them again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Connection, Json, Limit, Since, Tenant, User
from worker.cli.query import query_vault
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.vault.vault import Vault

app = typer.Typer(help="Events: what changed, who has to act, and whether receivers know.")


@app.callback(invoke_without_command=True)
def events(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="E.g. connection.broken.")] = None,
    user: User = None,
    connection: Connection = None,
    since: Since = None,
    failed: Annotated[bool, typer.Option("--failed", help="With a delivery that was given up.")] = False,
    undelivered: Annotated[
        bool, typer.Option("--undelivered", help="With a delivery still waited for, or given up.")
    ] = False,
    limit: Limit = 50,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """List events, the newest first; `resend` sends some again."""
    if context.invoked_subcommand is not None:
        return ExitCode.OK
    from worker.settings import EventKind, unknown_event
    from worker.vault import outbox
    from worker.webhooks.payload import public_id

    if kind not in (None, *EventKind):
        raise ConfigurationError(unknown_event(kind or ""))
    states = ["failed"] if failed else ["failed", "pending"] if undelivered else []

    async def look(vault: Vault, tenants: Sequence[str]) -> list[dict[str, Any]]:
        return await outbox.list_events(
            vault, tenants, kind=kind, user_id=user, connection=connection, since=since, states=states,
            limit=limit + 1,
        )  # fmt: skip

    found, tenants, _ = query_vault(look, tenant)
    more, found = len(found) > limit, found[:limit]
    for row in found:
        row["id"] = public_id(row["id"])
    if as_json:
        output.print_json({"events": found, "more": more})
        return ExitCode.OK
    columns = ("time", "event", "connection", "user", "reason", "deliveries", "id")
    rows = [
        [
            row["at"], row["kind"], row["connection"], "(admin)" if row["user_id"] == "" else row["user_id"],
            row["reason"], ", ".join(map(_describe_delivery, row["deliveries"])), row["id"],
        ]
        for row in found
    ]  # fmt: skip
    output.print_table(*output.with_tenant_column(columns, rows, found, tenants))
    if more:
        output.print_notice(f"these are the newest {limit}; --limit shows more")
    return ExitCode.OK


def _describe_delivery(row: dict[str, Any]) -> str:
    last = row["last_error"] or row["last_status"]
    tried = f" ({last})" if row["state"] != "delivered" and last else ""
    return f"{row['webhook']} {row['state']}{tried}"


@app.command()
def resend(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="As `events` lists them.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All deliveries that were given up.")] = False,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Put events up for delivery again, under their ids.

    Workers deliver them at their next look. Exits 0 when each event named goes out to somebody.
    """
    if bool(ids) == failed:
        raise ConfigurationError("name events by their ids, or give --failed")
    wanted = [_parse_event_id(given) for given in ids or []]
    environment.configure_log()
    with environment.running_vault() as settings:
        if not settings.webhooks:
            raise ConfigurationError("no webhook is configured: set [webhooks.NAME] in the TOML file")
        sent = asyncio.run(_resend(settings, environment.select_tenants(settings, tenant), wanted, failed))
    missing = [given for given, id_ in zip(ids or [], wanted, strict=True) if id_ not in sent]
    if as_json:
        output.print_json({"ok": not missing, "deliveries": len(sent), "not_sent": missing})
    else:
        output.print_line(f"{pluralize(len(sent), 'delivery is', 'deliveries are')} put up again")
    for given in missing:
        output.print_notice(
            f"{given}: there is no such event, nobody wants it, or it is of a user who is forgotten"
        )
    return ExitCode.FAILED if missing else ExitCode.OK


async def _resend(
    settings: Settings, tenants: Sequence[str], ids: Sequence[UUID], failed: bool
) -> list[UUID]:
    from worker.vault import outbox
    from worker.vault.vault import open_vault
    from worker.webhooks.dispatcher import webhook_filters

    keys = (settings.access_keys, settings.refresh_keys)
    async with open_vault(environment.database_url(settings), *keys, connections=1) as vault:
        return await outbox.resend(
            vault, tenants, webhook_filters(settings.webhooks), now=await vault.now(), ids=ids, failed=failed
        )


def _parse_event_id(given: str) -> UUID:
    try:
        return UUID(given.removeprefix("evt_"))
    except ValueError:
        raise ConfigurationError(f"{given} is no event's id: they begin with evt_") from None
