"""``token-vault audit``: who has read what."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Connection, Json, Limit, Since, User

# Outcomes of commands that concern no grant.
_COMMANDS = ("Paused", "Resumed")


def audit(
    user: User = None,
    consumer: Annotated[
        str | None, typer.Option("--consumer", metavar="NAME", help="As `consumers list` names it.")
    ] = None,
    connection: Connection = None,
    since: Since = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> int:
    """List the reads of tokens, the newest first."""
    from worker.vault.audit import records

    environment.configure_log()
    with environment.running_vault(rings=()) as settings:
        found = records.list_records(
            environment.database_url(settings),
            user_id=user, consumer=consumer, connection=connection, since=since, limit=limit + 1,
        )  # fmt: skip
    more, found = len(found) > limit, found[:limit]
    if as_json:
        output.print_json({"reads": found, "more": more})
        return ExitCode.OK
    columns = ("time", "consumer", "by", "connection", "user", "outcome", "reads", "request", "reason")
    rows = [
        [
            row["at"], row["consumer"] or f"(role {row['role']})", row["source"], row["connection"],
            row["user_id"] or ("" if row["outcome"] in _COMMANDS else "(admin)"), row["outcome"], row["reads"], row["request_id"],
            row["reason"],
        ]
        for row in found
    ]  # fmt: skip
    output.print_table(columns, rows)
    if more:
        output.print_notice(f"these are the newest {limit}; --limit shows more")
    return ExitCode.OK
