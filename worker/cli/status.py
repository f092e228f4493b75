"""``token-vault status``: how the vault is doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from worker.cli import output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json, Tenant
from worker.cli.query import query_vault
from worker.plural import pluralize


def status(tenant: Tenant = None, as_json: Json = False) -> int:
    """Show how the vault is doing.

    Grants by state, connections and their troubles, the last full sync and look for changes, renewals.
    """
    from worker.vault.status.status import load_status

    found, _, now = query_vault(load_status, tenant)
    if as_json:
        output.print_json(found)
        return ExitCode.OK
    if found["copy"]:
        output.print_notice(f"nothing is renewed, synced or delivered: this vault may be a copy: {found['copy']}. "
                            "Where the first one is stopped for good, run `token-vault adopt`")  # fmt: skip
    if found["read_only"]:
        output.print_notice("nothing is renewed, synced or delivered: this Postgres is read-only, as a replica is or a "
                            "primary that was replaced. Point DATABASE_URL to the primary")  # fmt: skip
    for said in describe_pauses(found):
        output.print_notice(said)
    output.print_line(f"grants: {output.format_value(found['grants']) or 'none'}")
    for run in found["last_sync"]:
        output.print_line(f"last sync of {run['tenant']}: {describe_run(run, now)}")
    if not found["last_sync"]:
        output.print_line("last sync: none yet")
    for run in found["last_changes"]:
        output.print_line(f"last look for changes at {run['tenant']}: {describe_run(run, now)}")
    output.print_line(f"renewals: {found['renewals']['per_minute']} in the last full minute; last hour: "
               f"{output.format_value(found['renewals']['last_hour']) or 'none'}")  # fmt: skip
    output.print_line(describe_lateness(found))
    if any(found["events"].values()):
        output.print_line(f"events: {output.format_value(found['events'])}")
    output.print_line("")
    output.print_table(*connections_table(found["connections"], now, in_full=True))
    return ExitCode.OK


def describe_lateness(found: Mapping[str, Any]) -> str:
    """Say how far renewal is behind, and why.

    Args:
        found: the status.
    """
    late, held_back = found["late"], dict(found["held_back"])
    away = held_back.pop("away", 0)
    said = "renewal is on time"
    if late["grants"]:
        grants = pluralize(late["grants"], "grant is", "grants are")
        said = f"renewal is behind: {grants} late, by up to {late['behind'] // timedelta(seconds=1)} s"
    if away:
        said += f", {pluralize(away, 'of them as its provider is', 'of them as their provider is')} away"
    return said + (f"; due and held back: {output.format_value(held_back)}" if held_back else "")


def connections_table(
    found: Sequence[Mapping[str, Any]], now: datetime, *, in_full: bool = False
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Write the connections of ``records.status`` as columns and rows."""
    columns = ("connection", "provider", "grants", "next expiry", "trouble")
    rows = [_connection_row(row, now, in_full=in_full) for row in found]
    return output.with_tenant_column(columns, rows, found, {row["tenant"] for row in found})


def _connection_row(row: Mapping[str, Any], now: datetime, *, in_full: bool) -> list[str]:
    trouble = (row["problem_message"] if in_full else row["problem"]) or ""
    if not trouble and row["without_access_token"]:
        trouble = describe_missing_access(row) if in_full else "no_access_token"
    if row["circuit_code"]:
        trouble = f"{row['circuit_code']} since {output.format_value(row['circuit_opened_at'])}"
        trouble += f", next try {output.relative_time(row['circuit_until'], now)}"
    return [
        output.format_value(row["name"]), output.format_value(row["provider"]), output.format_value(row["grants"]),
        output.relative_time(row["next_expiry"], now), output.printable(trouble),
    ]  # fmt: skip


def describe_pauses(found: Mapping[str, Any]) -> list[str]:
    """Say what the operator has paused, and the remedy."""
    from worker.cli.pause_scopes import describe
    from worker.vault.pauses import Pause

    pauses = [Pause(**row) for row in found["pauses"]]
    return [
        f"nothing is renewed of {each.scope}: {describe(each)}. `token-vault resume` ends that"
        for each in pauses
    ]


def describe_missing_access(row: Mapping[str, Any]) -> str:
    """Say what a provider's answers lack, and the remedy."""
    return (
        f"{pluralize(row['without_access_token'], 'grant')}: the answers bring a refresh token, which is kept, and no access token: "
        f"say where it is by within and access_token in [providers.{row['provider'] or 'NAME'}], or ask for a scope "
        "that brings one"
    )


def describe_run(run: Mapping[str, Any], now: datetime) -> str:
    """Write a sync run of ``records.status`` in words."""
    ended = f"ended {output.relative_time(run['finished_at'], now)}" if run["finished_at"] else "under way"
    counts = {name: run[name] for name in ("seen", "new", "changed", "stale", "gone", "failed") if run[name]}
    return f"{ended}, {output.format_value(counts) or 'nothing seen'}" + (
        f"; {run['error']}" if run["error"] else ""
    )
