"""``token-vault export``: refresh tokens for another vault."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.import_grants import KeyFile, read_keys
from worker.cli.options import Connection, Json, Tenant
from worker.cli.pause_scopes import By, Everything, name_operator, select_scopes, wait_for_calls
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.vault.pauses import PauseScope
    from worker.vault.transfers.cipher import TransferCipher
    from worker.vault.transfers.exported import LeftOut
    from worker.vault.vault import Vault


LEFT_OUT = {
    "development_keys": "on Auth0's development keys only Auth0 can renew, there as well: enter a client of your own at "
    "Auth0, and their users sign in again",
    "deleted": "Auth0 does not have their connection any more",
    "no_refresh_token": "there is no refresh token: the other vault's first sync brings what Auth0 has of them",
    "reauthorization_required": "their users have to sign in again, and the other vault gets what they bring",
    "revoked": "they are revoked here: a login alone brings them back",
    "undecryptable": "they do not decrypt: `token-vault keys status` names them",
}


@dataclass(slots=True)
class _Exported:
    """What was written, and what was not.

    Attributes:
        left_out: how many grants, by why.
        troubled: connections whose lines an import refuses until their problem is fixed.
        is_paused: renewal of all that was exported is paused.
    """

    grants: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    troubled: list[LeftOut] = field(default_factory=list)
    is_paused: bool = False


def export_grants(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")],
    connection: Connection = None,
    everything: Everything = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="A new file, for its owner alone; else standard output."
        ),
    ] = None,
    key_file: KeyFile = None,
    plaintext: Annotated[
        bool, typer.Option("--plaintext", help="Do not encrypt the refresh tokens; needs --output.")
    ] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Pause what is exported first, so that the tokens stay good.")
    ] = False,
    by: By = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Hand out refresh tokens, for moving away.

    Writes JSON lines as `import` reads them, encrypted under the refresh ring, or under the first key of --key-file.
    Says what is left out, as no other vault can renew it. Each grant is in the audit before its line is written. Renewal goes on unless --pause is given: at a provider that
    rotates, it makes the exported tokens useless.
    """
    if plaintext and (file is None or key_file is not None):
        raise ConfigurationError("--plaintext needs --output, a new file, and no --key-file")
    if as_json and file is None:
        raise ConfigurationError("--json needs --output: standard output has the grants")
    if not reason.strip():
        raise ConfigurationError("--reason is empty: say why, for the audit")
    environment.configure_log()
    with environment.running_vault() as settings:
        named = (connection, tenant, everything)
        exported = asyncio.run(
            _export(settings, named, file, key_file, plaintext, pause, name_operator(by), reason.strip())
        )
    _show(exported, as_json=as_json)
    if not exported.is_paused:
        output.print_notice("renewal goes on here, which may end these tokens: pause it, or give --pause")
    return ExitCode.FAILED if exported.left_out["undecryptable"] else ExitCode.OK


def _show(exported: _Exported, *, as_json: bool) -> None:
    """Say what was written, and what was not."""
    if as_json:
        output.print_json({
            "ok": not exported.left_out["undecryptable"], "exported": exported.grants,
            "undecryptable": exported.left_out["undecryptable"], "left_out": +exported.left_out,
            "troubled": [
                {"tenant": each.tenant, "connection": each.connection, "grants": each.grants, "problem": each.problem}
                for each in exported.troubled
            ],
        })  # fmt: skip
        return
    output.print_notice(f"{pluralize(exported.grants, 'grant')} exported; `token-vault audit` lists them")
    for why, count in exported.left_out.items():
        output.print_notice(f"{pluralize(count, 'grant')} left out: {LEFT_OUT[why]}")
    for each in exported.troubled:
        output.print_notice(
            f"{pluralize(each.grants, 'grant')} of connection {each.connection} exported, which an import refuses "
            f"until this is put right: {each.problem}"
        )


async def _export(
    settings: Settings,
    named: tuple[str | None, str | None, bool],
    file: Path | None,
    key_file: Path | None,
    plaintext: bool,
    pause: bool,
    by: str,
    reason: str,
) -> _Exported:
    from worker.vault import pauses
    from worker.vault.transfers.cipher import TransferCipher
    from worker.vault.transfers.exported import count_left_out
    from worker.vault.vault import open_vault

    cipher = None if plaintext else TransferCipher(read_keys(key_file) or settings.refresh_keys)
    keys, exported = (settings.access_keys, settings.refresh_keys), _Exported()
    async with open_vault(environment.database_url(settings), *keys, connections=2) as vault:
        scopes = await select_scopes(vault, settings, *named)
        with _opened(file) as lines:
            if pause:
                now = await vault.now()
                for scope in scopes:
                    await pauses.start(vault, scope, reason=reason, by=by, until=None, now=now)
                await wait_for_calls(vault, scopes)
            # It may have been paused before, as by an export that is repeated.
            exported.is_paused = all(
                [await pauses.find(vault, each.tenant, each.connection) for each in scopes]
            )
            for scope in scopes:
                await _write(vault, scope, lines, cipher, f"{by}: {reason}", exported)
                for each in await count_left_out(vault, scope):
                    if each.why is None:
                        exported.troubled.append(each)
                    else:
                        exported.left_out[each.why] += each.grants
    return exported


async def _write(
    vault: Vault,
    scope: PauseScope,
    lines: TextIO,
    cipher: TransferCipher | None,
    reason: str,
    exported: _Exported,
) -> None:
    """Write a line for each grant."""
    from worker.transfer.lines import TransferLine, format_line
    from worker.vault.transfers.exported import export

    async for grant in export(vault, scope, reason=reason):
        if grant.refresh is None:
            exported.left_out["undecryptable"] += 1
            continue
        exported.grants += 1
        encrypted = None if cipher is None else cipher.encrypt(grant.key, grant.refresh)
        line = TransferLine(
            exported.grants, grant.key, grant.refresh, encrypted,
            scopes=grant.scopes, consented_at=grant.consented_at,
        )  # fmt: skip
        lines.write(format_line(line) + "\n")


@contextmanager
def _opened(file: Path | None) -> Iterator[TextIO]:
    """Open a new file, or standard output.

    The file is for its owner alone.

    Raises:
        ConfigurationError: it is there already, or cannot be made.
    """
    if file is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(f"--output: {file} cannot be made: {error.strerror}") from None
    with os.fdopen(opened, "w", encoding="utf-8") as lines:
        yield lines
        lines.flush()
        os.fsync(opened)
