"""``token-vault import``: refresh tokens from another store."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json, Tenant
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.transfer.imports import ImportedLine
    from worker.transfer.lines import TransferLine

# Mistakes and lines that are printed for people; `--json` has all.
MAX_SHOWN = 50

REMEDIES = {
    "refused": "the provider says that the token is dead: the user has to sign in again",
    "unverified": "no renewal has succeeded yet: the workers go on, or run this again",
    "stopped": "the first grants of the connection were not renewed: `token-vault doctor` says why, then run this again",
    "erased": "the user was erased here: a login alone brings the grant back",
    "revoked": "it was revoked here: a login alone brings the grant back",
    "busy": "its token is with the provider just now: run this again",
    "elsewhere": "the vault has this identity under another user: correct the line's user_id, or run `token-vault sync` first",
}

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", metavar="FILE", help="Fernet keys of the move; by default the refresh ring's."
    ),
]


def import_grants(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines; - for standard input.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check each line and say what would happen; import nothing.")
    ] = False,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=1000, metavar="N", help="Lines stored together, all or none.")
    ] = 100,
    key_file: KeyFile = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Import refresh tokens from another store.

    Each line has user_id, connection and refresh_token. Mistakes are told all at once, and nothing is stored then.
    Each token is verified by one renewal, of each connection one before the others. Stop the other store first. If it
    is killed, run it again: it goes on. Exits 0 when the vault has every grant, alive.
    """
    text = _read(file)
    environment.configure_log()
    with environment.running_vault() as settings:
        tenants = environment.select_tenants(settings, tenant)
        lines, mistakes = _parse(text, tenants[0] if len(tenants) == 1 else None)
        unknown = {line.number: [f"no tenant is called {line.key.tenant}"] for line in lines
                   if line.key.tenant not in settings.tenants}  # fmt: skip
        if not lines and not mistakes:
            raise ConfigurationError(f"{file} has no line")
        if mistakes or unknown:
            return _show_mistakes(mistakes | unknown, as_json=as_json)
        keys = read_keys(key_file) or settings.refresh_keys
        return asyncio.run(_import(settings, lines, keys, batch, dry_run=dry_run, as_json=as_json))


def read_keys(key_file: Path | None) -> list[Secret]:
    """Read Fernet keys, one on each line."""
    from token_vault.secret_files import secret_file

    return [Secret(key) for key in secret_file(str(key_file), "--key-file").split()] if key_file else []


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not in UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None


def _parse(text: str, tenant: str | None) -> tuple[list[TransferLine], dict[int, list[str]]]:
    """Parse all lines; blank ones are passed over."""
    from worker.transfer.lines import parse_line

    lines, mistakes = [], {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        parsed = parse_line(number, line, tenant=tenant)
        if isinstance(parsed, list):
            mistakes[number] = parsed
        else:
            lines.append(parsed)
    return lines, mistakes


async def _import(
    settings: Settings,
    lines: Sequence[TransferLine],
    keys: Sequence[Secret],
    batch: int,
    *,
    dry_run: bool,
    as_json: bool,
) -> int:
    from worker.runtime import open_runtime
    from worker.transfer.imports import Importer
    from worker.vault.transfers.cipher import TransferCipher

    async with open_runtime(settings) as runtime:
        for tenant in sorted({line.key.tenant for line in lines}):
            # Connections carry the clients that renewal needs.
            await (await runtime.tenant_sync(tenant)).sync_connections()
        with output.progress_bar("grants") as bar:
            importer = Importer(
                runtime.vault, runtime.connections, runtime.engine, TransferCipher(keys), batch, bar
            )
            if mistakes := await importer.find_mistakes(lines):
                return _show_mistakes(mistakes, as_json=as_json)
            found = await importer.run(lines, dry_run=dry_run)
    return _show(found, as_json=as_json)


def _show_mistakes(mistakes: Mapping[int, Sequence[str]], *, as_json: bool) -> int:
    told = [(number, said) for number in sorted(mistakes) for said in mistakes[number]]
    if as_json:
        output.print_json(
            {"ok": False, "mistakes": [{"line": number, "mistake": said} for number, said in told]}
        )
    for number, said in told[:MAX_SHOWN]:
        output.print_notice(f"line {number}: {said}")
    if len(told) > MAX_SHOWN:
        output.print_notice(f"and {len(told) - MAX_SHOWN} more; --json has all of them")
    output.print_notice("nothing was imported")
    return ExitCode.USAGE_ERROR


def _show(found: Sequence[ImportedLine], *, as_json: bool) -> int:
    counts = dict(Counter(each.result.value for each in found))
    failed = [_plain(each) for each in found if not each.result.holds]
    if as_json:
        output.print_json({"ok": not failed, "results": counts, "failed": failed})
        return ExitCode.FAILED if failed else ExitCode.OK
    output.print_line(f"{pluralize(len(found), 'grant')}: {output.format_value(counts)}")
    if failed:
        columns = ("line", "connection", "user", "result", "reason")
        rows = [
            [row[name] for name in ("line", "connection", "user_id", "result", "reason")] for row in failed
        ]
        output.print_table(columns, rows[:MAX_SHOWN])
    for result in sorted({row["result"] for row in failed}):
        output.print_notice(f"{result}: {REMEDIES[result]}")
    return ExitCode.FAILED if failed else ExitCode.OK


def _plain(each: ImportedLine) -> dict[str, Any]:
    key = each.line.key
    return {
        "line": each.line.number, "tenant": key.tenant, "connection": key.connection, "user_id": key.user_id or "(admin)",
        "account": key.provider_user_id, "result": each.result.value, "reason": each.reason,
    }  # fmt: skip
