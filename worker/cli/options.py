"""Options that several commands share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from worker.cli.times import parse_past


def _named(value: str | None) -> str | None:
    """Refuse an empty name, and what is no text.

    An unset variable in a script must not widen what is meant.
    """
    if value == "":
        raise typer.BadParameter("is empty")
    if value is not None and any("\udc80" <= each <= "\udcff" for each in value):  # bytes that are no UTF-8
        raise typer.BadParameter("is not UTF-8")
    return value


Worker = Annotated[
    str | None,
    typer.Option("--worker", metavar="NAME", callback=_named, help="A worker as Celery names it: bulk@host."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
User = Annotated[str | None, typer.Option("--user", metavar="ID", callback=_named, help="Auth0's user id.")]
Connection = Annotated[
    str | None,
    typer.Option("--connection", metavar="NAME", callback=_named, help="The Auth0 connection's name."),
]
Account = Annotated[
    str | None,
    typer.Option(
        "--account",
        metavar="ID",
        callback=_named,
        help="The user's id at the provider, where several accounts are linked.",
    ),
]
Admin = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="CONNECTION",
        callback=_named,
        help="The admin token of this enterprise connection.",
    ),
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="One of several configured tenants.")
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider", metavar="NAME", callback=_named, help="The provider's name, as `status` shows it."
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since", metavar="TIME", parser=parse_past, help="From this time on: ISO 8601, or a span like 24h."
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=2**31, metavar="N", help="How many at the most.")]
Resource = Annotated[
    str | None,
    typer.Option(
        "--resource", metavar="URI", callback=_named, help="What the token is for, as the provider calls it."
    ),
]
Scopes = Annotated[
    str | None,
    typer.Option(
        "--scopes",
        metavar="SCOPES",
        callback=_named,
        help="Scopes that the token is for, separated by blanks.",
    ),
]
Needs = Annotated[
    str | None,
    typer.Option(
        "--needs", metavar="SCOPES", callback=_named, help="Scopes without which the token is of no use."
    ),
]
MinTtl = Annotated[
    float | None, typer.Option("--min-ttl", metavar="S", min=0, help="Seconds of life the token must have.")
]
