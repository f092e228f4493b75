"""``token-vault revoke``: end tokens at their provider, after a leak."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.known_names import check_user, find_connections
from worker.cli.options import Connection, Json, Tenant, User
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.erasure.mass_revocation import RevocationReport
    from worker.settings import Settings

REASONS = {
    "no_revocation_url": "set revocation_url for the connection and run this again, or have its users end the access",
    "no_client": "the connection has no OAuth client: `token-vault doctor` says why",
    "invalid_client": "the provider refuses the client: put its secret right, then run this again",
    "cannot_decrypt": "its key is missing from the ring: put it back, then run this again",
    "in_doubt": "an answer was lost: the provider may have issued a token that nobody has",
}


def revoke(
    user: User = None,
    connection: Connection = None,
    tenant: Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="All tokens of all tenants.")] = False,
    as_json: Json = False,
) -> int:
    """End tokens at their provider, as after a leak.

    Readers are refused at once; each refresh token and access token is then revoked at its provider, at the pace that
    it allows. Users must sign in again. If it is killed, run it again: it goes on. Exits 0 only when the provider has
    confirmed that each token is dead; lists the others.
    """
    named = [each for each in (user, connection, tenant) if each is not None]
    if everything == bool(named):
        raise ConfigurationError("say whose tokens: --user, --connection and --tenant, or --all alone")
    environment.configure_log()
    with environment.running_vault() as settings:
        tenants = environment.select_tenants(settings, tenant)
        report = asyncio.run(_revoke(settings, tenants, user, connection))
    ok = not report.not_revoked
    if as_json:
        output.print_json(asdict(report) | {"ok": ok})
    else:
        _show(report)
    return ExitCode.OK if ok else ExitCode.FAILED


async def _revoke(
    settings: Settings, tenants: Sequence[str], user: str | None, connection: str | None
) -> RevocationReport:
    from worker.erasure.mass_revocation import MassRevocation
    from worker.runtime import open_runtime
    from worker.vault.revocations.revocations import Scope

    async with open_runtime(settings) as runtime:
        if connection is not None:
            await find_connections(runtime.vault, tenants, connection)
        if user is not None:
            await check_user(runtime.vault, tenants, user)
        with output.progress_bar("revocations") as bar:
            scope = Scope(tenants, user, connection)
            return await MassRevocation(runtime.vault, runtime.connections, runtime.http, scope, bar).run()


def _show(report: RevocationReport) -> None:
    revoked = pluralize(report.revoked, "grant revoked at its", "grants revoked at their")
    output.print_line(f"{revoked} provider; {len(report.not_revoked)} not proven dead")
    if not report.not_revoked:
        return
    columns = ["connection", "user", "account", "reason", "access token ends"]
    rows = [
        [row["connection"], row["user_id"] or "admin", row["account"], row["code"], row["access_expires_at"]]
        for row in report.not_revoked
    ]
    output.print_table(columns, rows)
    for code in sorted({row["code"] for row in report.not_revoked} & REASONS.keys()):
        output.print_notice(f"{code}: {REASONS[code]}")
