"""``token-vault export``: refresh tokens for another vault."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.import_grants import KeyFile, read_keys
from worker.cli.options import Connection, Json, Tenant
from worker.cli.pause import By, Everything, name_operator, select_scopes, wait_for_calls

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.vault.pauses import PauseScope
    from worker.vault.transfers.cipher import TransferCipher
    from worker.vault.vault import Vault


@dataclass(slots=True)
class _Counts:
    exported: int = 0
    undecryptable: int = 0


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
    Each grant is in the audit before its line is written. Renewal goes on unless --pause is given: at a provider that
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
        counts = asyncio.run(
            _export(settings, named, file, key_file, plaintext, pause, name_operator(by), reason.strip())
        )
    ok = not counts.undecryptable
    if as_json:
        output.print_json({"ok": ok, "exported": counts.exported, "undecryptable": counts.undecryptable})
    else:
        output.print_notice(f"{counts.exported} grants exported; `token-vault audit` lists them")
    if not pause:
        output.print_notice("renewal goes on here, which may end these tokens: pause it, or give --pause")
    if counts.undecryptable:
        output.print_notice(
            f"{counts.undecryptable} do not decrypt and were left out: `token-vault keys status` names them"
        )
    return ExitCode.OK if ok else ExitCode.FAILED


async def _export(
    settings: Settings,
    named: tuple[str | None, str | None, bool],
    file: Path | None,
    key_file: Path | None,
    plaintext: bool,
    pause: bool,
    by: str,
    reason: str,
) -> _Counts:
    from worker.vault import pauses
    from worker.vault.transfers.cipher import TransferCipher
    from worker.vault.vault import open_vault

    cipher = None if plaintext else TransferCipher(read_keys(key_file) or settings.refresh_keys)
    keys, counts = (settings.access_keys, settings.refresh_keys), _Counts()
    async with open_vault(environment.database_url(settings), *keys, connections=2) as vault:
        scopes = await select_scopes(vault, settings, *named)
        with _opened(file) as lines:
            if pause:
                now = await vault.now()
                for scope in scopes:
                    await pauses.start(vault, scope, reason=reason, by=by, until=None, now=now)
                await wait_for_calls(vault, scopes)
            for scope in scopes:
                await _write(vault, scope, lines, cipher, f"{by}: {reason}", counts)
    return counts


async def _write(
    vault: Vault,
    scope: PauseScope,
    lines: TextIO,
    cipher: TransferCipher | None,
    reason: str,
    counts: _Counts,
) -> None:
    """Write a line for each grant."""
    from worker.transfer.lines import TransferLine, format_line
    from worker.vault.transfers.exported import export

    async for grant in export(vault, scope, reason=reason):
        if grant.refresh is None:
            counts.undecryptable += 1
            continue
        counts.exported += 1
        encrypted = None if cipher is None else cipher.encrypt(grant.key, grant.refresh)
        line = TransferLine(counts.exported, grant.key, grant.refresh, encrypted, scopes=grant.scopes)
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
