"""``get``, ``list``, ``show`` and ``status``: looking into the vault. ``get`` alone shows a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from token_vault.errors import ConfigurationError, TemporarilyUnavailable, TokenNotFound
from token_vault.grant_key import GrantKey
from worker.cli import environment, output
from worker.cli.options import Admin, Connection, Json, MinTtl, Tenant, User
from worker.cli.working import chosen, quiet_log, refresh

if TYPE_CHECKING:
    from token_vault import Token, TokenVault
    from worker.renewal.on_demand import Refreshed
    from worker.settings import Settings
    from worker.vault.db.database import Vault

T = TypeVar("T")

DEFAULT_WAIT = 5.0


def get(
    user: User = None,
    admin: Admin = None,
    connection: Connection = None,
    min_ttl: MinTtl = None,
    wait: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds to wait for a refresh.")
    ] = DEFAULT_WAIT,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Print one fresh access token.

    It stands alone on standard output; where it is about to end, it is renewed first.
    """
    if (user is None) == (admin is None) or (admin is not None and connection is not None):
        raise ConfigurationError(
            "give --user, with --connection where the user has several, or --admin alone"
        )
    quiet_log()
    with environment.opened(rings=["access"]) as settings, _reader(settings, tenant) as vault:
        name = admin or connection or _only_connection(settings, user or "", tenant)

        def read(patience: float) -> Token:
            if user is None:
                return vault.admin_token(name, min_ttl=min_ttl, wait=patience)
            return vault.user_token(user, name, min_ttl=min_ttl, wait=patience)

        try:
            token = read(wait)
        except TemporarilyUnavailable:
            if not _renews_here(settings):
                raise
            # Nobody works on this vault: what a worker would do on demand is done here.
            tenants = chosen(settings, tenant)
            refreshed = asyncio.run(refresh(settings, tenants, user or "", name, min_ttl=min_ttl))
            token = _read_again(read, refreshed)
    _show_token(token, as_json)
    return output.OK


def _show_token(token: Token, as_json: bool) -> None:
    if as_json:
        output.document({"token": token.value, "expires_at": token.expires_at, "scopes": token.scopes})
    else:
        typer.echo(token.value)


def _reader(settings: Settings, tenant: str | None) -> TokenVault:
    from token_vault import TokenVault
    from worker import embedded

    redis_url = settings.redis_url
    if redis_url is None and embedded.is_up(settings.home):
        found = embedded.find(settings.home)
        redis_url = found.redis_url if found is not None and found.redis_url else None
    return TokenVault(
        environment.database_url(settings), settings.access_keys, redis_url=redis_url, tenant=tenant
    )


def _renews_here(settings: Settings) -> bool:
    """Whether a refresh asked for would wait in vain, and can be made by this process."""
    from worker import embedded

    can = bool(settings.refresh_keys and settings.tenants)
    return can and settings.redis_url is None and not embedded.is_up(settings.home)


def _read_again(read: Callable[[float], Token], refreshed: Refreshed) -> Token:
    try:
        return read(0)
    except TemporarilyUnavailable as error:
        whose = GrantKey(refreshed.tenant, refreshed.connection, refreshed.user_id)
        raise TemporarilyUnavailable(
            f"no fresh token of {whose}: the renewal came to {refreshed.outcome.value!r}",
            refreshed.retry_after or error.retry_after,
        ) from None


def _only_connection(settings: Settings, user_id: str, tenant: str | None) -> str:
    """Return the connection of a user's one grant.

    Raises:
        TokenNotFound: the user has none.
        ConfigurationError: there are several; the message names them.
    """
    import psycopg

    from token_vault.connect_args import CONNECT_ARGS
    from token_vault.read_model import SELECT_CONNECTIONS

    with psycopg.connect(environment.database_url(settings).reveal(), **CONNECT_ARGS) as connection:
        found = connection.execute(SELECT_CONNECTIONS, {"user_id": user_id, "tenant": tenant}).fetchall()
    names = [name for (name,) in found]
    if not names:
        raise TokenNotFound(f"the vault has no token of user {user_id}")
    if len(names) > 1:
        raise ConfigurationError(
            f"user {user_id} has tokens of several connections: --connection {' | '.join(names)}"
        )
    return str(names[0])


def list_(
    user: User = None,
    connection: Connection = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="As `status` counts them, e.g. active or blocked.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=2**31, metavar="N", help="How many at the most.")] = 100,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """List grants and their states, no tokens."""
    from worker.vault.grants import queries

    if state not in (None, *STATES):
        raise ConfigurationError(f"no state is called {state}: {', '.join(STATES)}")

    async def look(vault: Vault, tenants: Sequence[str]) -> list[dict[str, Any]]:
        return await queries.grants(
            vault, tenants, user_id=user, connection=connection, state=state, limit=limit + 1
        )

    found, tenants, now = looked(look, tenant)
    more, found = len(found) > limit, found[:limit]
    if as_json:
        output.document({"grants": found, "more": more})
        return output.OK
    columns = ("connection", "user", "state", "reason", "expires", "next renewal")
    rows = [
        [
            row["connection"], row["user_id"] or "(admin)", row["state"], row["reason"],
            output.ago(row["expires_at"], now), output.ago(row["blocked_until"] or row["next_renewal_at"], now),
        ]
        for row in found
    ]  # fmt: skip
    output.table(*tenant_first(columns, rows, found, tenants))
    if more:
        output.note(f"these are the first {limit}; --limit shows more")
    return output.OK


STATES = ("active", "unrenewable", "expired", "in_doubt", "blocked", "reauthorization_required", "erased")


def show(
    user: User = None,
    connection: Connection = None,
    admin: Admin = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Show a user's grants in full, no tokens.

    Or the admin grant of an enterprise connection.
    """
    if (user is None) == (admin is None) or (admin is not None and connection is not None):
        raise ConfigurationError("give --user, optionally with --connection, or --admin alone")

    from worker.vault.grants import queries

    async def look(vault: Vault, tenants: Sequence[str]) -> list[dict[str, Any]]:
        return await queries.grants(vault, tenants, user_id=user or "", connection=admin or connection)

    found, _, _ = looked(look, tenant)
    if not found:
        who = f"user {user}" if user else f"the admin of {admin}"
        raise TokenNotFound(f"the vault has no grant of {who}" + (f" for {connection}" if connection else ""))
    if as_json:
        output.document({"grants": found})
        return output.OK
    for number, row in enumerate(found):
        if number:
            output.say("")
        output.table(["", ""], [[name.replace("_", " "), value] for name, value in row.items()])
    return output.OK


def status(tenant: Tenant = None, as_json: Json = False) -> int:
    """Show how the vault is doing.

    Grants by state, connections and their troubles, the last full sync and look for changes, renewals.
    """
    from worker.vault.sync_state import runs

    found, _, now = looked(runs.status, tenant)
    if as_json:
        output.document(found)
        return output.OK
    output.say(f"grants: {output.text(found['grants']) or 'none'}")
    for run in found["last_sync"]:
        output.say(f"last sync of {run['tenant']}: {run_of(run, now)}")
    if not found["last_sync"]:
        output.say("last sync: none yet")
    for run in found["last_changes"]:
        output.say(f"last look for changes at {run['tenant']}: {run_of(run, now)}")
    output.say(f"renewals: {found['renewals']['per_minute']} in the last full minute; last hour: "
               f"{output.text(found['renewals']['last_hour']) or 'none'}")  # fmt: skip
    if any(found["events"].values()):
        output.say(f"events: {output.text(found['events'])}")
    output.say("")
    output.table(*connections_table(found["connections"], now, in_full=True))
    return output.OK


def connections_table(
    found: Sequence[Mapping[str, Any]], now: datetime, *, in_full: bool = False
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Write the connections of ``records.status`` as columns and rows."""
    columns = ("connection", "provider", "grants", "next expiry", "trouble")
    rows = [_connection_row(row, now, in_full=in_full) for row in found]
    return tenant_first(columns, rows, found, {row["tenant"] for row in found})


def tenant_first(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    found: Sequence[Mapping[str, Any]],
    tenants: Collection[str],
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Put the tenant of what was found before each row, where there are several: their names may be the same."""
    if len(tenants) < 2:
        return columns, rows
    return ["tenant", *columns], [[of["tenant"], *row] for of, row in zip(found, rows, strict=True)]


def _connection_row(row: Mapping[str, Any], now: datetime, *, in_full: bool) -> list[str]:
    trouble = (row["problem_message"] if in_full else row["problem"]) or ""
    if row["circuit_code"]:
        trouble = f"{row['circuit_code']} since {output.text(row['circuit_opened_at'])}"
        trouble += f", next try {output.ago(row['circuit_until'], now)}"
    return [
        output.text(row["name"]), output.text(row["provider"]), output.text(row["grants"]),
        output.ago(row["next_expiry"], now), output.printable(trouble),
    ]  # fmt: skip


def run_of(run: Mapping[str, Any], now: datetime) -> str:
    """Write a sync run of ``records.status`` in words."""
    ended = f"ended {output.ago(run['finished_at'], now)}" if run["finished_at"] else "under way"
    counts = {name: run[name] for name in ("seen", "new", "changed", "stale", "gone", "failed") if run[name]}
    return f"{ended}, {output.text(counts) or 'nothing seen'}" + (f"; {run['error']}" if run["error"] else "")


def looked(
    look: Callable[[Vault, Sequence[str]], Awaitable[T]], tenant: str | None
) -> tuple[T, Sequence[str], datetime]:
    """Open the vault, look once, and return what was found, the tenants that were meant, and the time."""
    quiet_log()
    with environment.opened() as settings:
        return asyncio.run(_look(settings, look, tenant))


async def _look(
    settings: Settings, look: Callable[[Vault, Sequence[str]], Awaitable[T]], tenant: str | None
) -> tuple[T, Sequence[str], datetime]:
    from worker.vault.db.database import open_vault
    from worker.vault.grants import queries

    keys = (settings.access_keys, settings.refresh_keys)
    async with open_vault(environment.database_url(settings), *keys, connections=1) as vault:
        # What the vault holds can be looked at where no tenant is configured, too: on a dashboard's host, say.
        tenants = chosen(settings, tenant) if settings.tenants else await queries.tenants(vault, tenant)
        return await look(vault, tenants), tenants, datetime.now(UTC)
