"""``token-vault get``: print one fresh access token.

No other command shows one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError, TemporarilyUnavailable, TokenNotFound, VaultError
from token_vault.grant_key import GrantKey
from token_vault.token_target import TokenTarget
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Account, Admin, Connection, Json, MinTtl, Needs, Resource, Scopes, Tenant, User
from worker.cli.renew import renew_grant

if TYPE_CHECKING:
    from token_vault import Token, TokenVault
    from token_vault.read_records import ReadRecord
    from token_vault.secret import Secret
    from worker.renewal.on_demand import Refreshed
    from worker.settings import Settings


DEFAULT_WAIT_SECONDS = 5.0


def get(
    user: User = None,
    admin: Admin = None,
    connection: Connection = None,
    account: Account = None,
    resource: Resource = None,
    scopes: Scopes = None,
    needs: Needs = None,
    min_ttl: MinTtl = None,
    wait: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds to wait for a refresh.")
    ] = DEFAULT_WAIT_SECONDS,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why, for the audit; never put a secret there.")
    ] = None,
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
    if account is not None and user is None:
        raise ConfigurationError("--account is one of a user's: give --user")
    from token_vault.read_records import SERVED, ReadRecord

    target, needed = _target(resource, scopes), tuple((needs or "").split())
    environment.configure_log()
    with environment.running_vault(rings=["access"]) as settings, _reader(settings, tenant) as vault:
        name = admin or connection or _only_connection(settings, user or "", tenant)

        def read(wait_seconds: float) -> Token:
            if user is None:
                return vault.admin_token(
                    name,
                    resource=resource,
                    scopes=target.scopes,
                    min_ttl=min_ttl,
                    wait=wait_seconds,
                    needs=needed,
                )
            return vault.user_token(
                user, name, account=account, resource=resource, scopes=target.scopes, min_ttl=min_ttl,
                wait=wait_seconds, needs=needed,
            )  # fmt: skip

        asked = ReadRecord(
            user or "", name, SERVED, tenant=tenant, account=account, reason=reason, source="command"
        )
        with _recorded(environment.database_url(settings), asked):
            here = _can_renew_here(settings)
            try:
                token = read(0 if here else wait)
            except TemporarilyUnavailable:
                if not here:
                    raise
                # No worker serves this vault, so this process renews the grant itself.
                tenants = environment.select_tenants(settings, tenant)
                refreshed = asyncio.run(
                    renew_grant(
                        settings, tenants, user or "", name, account=account, min_ttl=min_ttl, target=target
                    )
                )
                token = _read_again(read, refreshed)
    _show_token(token, as_json)
    return ExitCode.OK


def _target(resource: str | None, scopes: str | None) -> TokenTarget:
    """Return what the token is for.

    Raises:
        ConfigurationError: it is no name of a resource or scope.
    """
    try:
        return TokenTarget.of(resource, (scopes or "").split())
    except ValueError as error:
        raise ConfigurationError(f"--{error}") from None


@contextmanager
def _recorded(database_url: Secret, asked: ReadRecord) -> Iterator[None]:
    """Record what came of a read once it is over.

    Who may read and not record is told of it, as by readers in apps. Where the read itself fails, that is what is told.
    """
    try:
        yield
    except VaultError as error:
        _record(database_url, asked._replace(outcome=type(error).__name__))
        raise
    if failure := _record(database_url, asked):
        output.print_notice(f"this read is not recorded: {failure}")


def _record(database_url: Secret, record: ReadRecord) -> VaultError | None:
    """Record a read; return why that fails."""
    from token_vault.postgres_address import PostgresAddress
    from token_vault.read_records import ReadRecorder

    recorder = ReadRecorder(PostgresAddress.parse(database_url))
    try:
        recorder.record_now(record)
    except VaultError as error:
        return error
    finally:
        recorder.close()
    return None


def _show_token(token: Token, as_json: bool) -> None:
    if as_json:
        output.print_json({"token": token.value, "expires_at": token.expires_at, "scopes": token.scopes})
    else:
        typer.echo(token.value)


def _reader(settings: Settings, tenant: str | None) -> TokenVault:
    from token_vault import TokenVault

    return TokenVault(
        environment.database_url(settings),
        settings.access_keys,
        tenant=tenant,
        audit="off",
        direct_url=settings.database_direct_url,
    )


def _can_renew_here(settings: Settings) -> bool:
    """Whether no worker serves this vault, and this process can."""
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
    from token_vault.connect import connect
    from token_vault.postgres_address import PostgresAddress
    from token_vault.read_model import SELECT_CONNECTIONS

    address = PostgresAddress.parse(environment.database_url(settings))
    with connect(address, "token-vault") as connection:
        found = connection.execute(SELECT_CONNECTIONS, {"user_id": user_id, "tenant": tenant}).fetchall()
    names = [name for (name,) in found]
    if not names:
        raise TokenNotFound(f"the vault has no token of user {user_id}")
    if len(names) > 1:
        raise ConfigurationError(
            f"user {user_id} has tokens of several connections: --connection {' | '.join(names)}"
        )
    return str(names[0])
