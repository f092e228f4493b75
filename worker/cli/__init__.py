"""The command ``token-vault``: everything an operator does with the vault.

Heavy rooms are imported inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from token_vault.errors import VaultError
from worker.cli import (
    adopt,
    audit,
    completion,
    connections,
    consumers,
    doctor,
    env,
    events,
    export_grants,
    follow,
    forget,
    get,
    import_grants,
    keys,
    list_grants,
    migrate,
    output,
    pause,
    plan,
    reconnect,
    renew,
    revoke,
    serve,
    show,
    status,
    sync,
)
from worker.cli.exit_codes import MEANINGS, ExitCode
from worker.cli.unexpected import explain_unexpected
from worker.cli.up import command as up

app = typer.Typer(
    help="Keeps the identity providers' tokens behind Auth0 fresh, encrypted and at hand.",
    epilog="\b\nExit codes:\n" + "\n".join(f"{code:>5}  {said}" for code, said in MEANINGS.items()),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its panels cost more time than all the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("up", up.up), ("migrate", migrate.migrate), ("sync", sync.sync), ("follow", follow.follow),
    ("renew", renew.renew), ("revoke", revoke.revoke), ("forget", forget.forget), ("get", get.get), ("list", list_grants.list_grants),
    ("show", show.show), ("status", status.status), ("doctor", doctor.doctor), ("audit", audit.audit), ("plan", plan.plan),
    ("import", import_grants.import_grants), ("export", export_grants.export_grants), ("pause", pause.pause),
    ("resume", pause.resume), ("adopt", adopt.adopt), ("serve", serve.serve), ("env", env.env),
    ("reconnect", reconnect.reconnect), ("completion", completion.completion),
):  # fmt: skip
    app.command(name=name)(command)
app.add_typer(connections.app, name="connections")
app.add_typer(keys.app, name="keys")
app.add_typer(events.app, name="events")
app.add_typer(consumers.app, name="consumers")


def _print_version(wanted: bool) -> None:
    if wanted:
        from worker import __version__

        output.print_line(f"token-vault {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take the options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return an ``ExitCode``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        with _sigterm_as_interrupt():
            return _run(given, as_json=as_json)
    except VaultError as error:
        return output.report_error(error, as_json=as_json)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # operators get a message, never a traceback
        return output.report_error(explain_unexpected(error), as_json=as_json)


def _run(arguments: list[str], *, as_json: bool) -> int:
    completion.prepare()
    try:
        code: Any = typer.main.get_command(app).main(arguments, "token-vault", standalone_mode=False)
    except typer.TyperException as wrong:
        said = wrong.format_message().replace("Value error, ", "")
        if "\n" in said:
            typer.echo(said, err=True)  # the help, where no command is given
        else:
            output.print_notice(said)
        if as_json:
            output.print_json({"error": {"type": "UsageError", "message": said}})
        return wrong.exit_code
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return ExitCode.OK  # the reader of the help has read enough, as `head`
    except typer.Abort:
        return ExitCode.INTERRUPTED
    return int(code or 0)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does.

    What is under way is seen to its end, and what it started is stopped.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # the shell sends it, then the kernel again: the second means no haste
            signal.signal(number, signal.SIG_IGN)
        # Within ``asyncio.run`` SIGINT's handler cancels the command's task alone. An exception raised here would cancel
        # all tasks, also one that holds a provider's only answer.
        as_interrupt = signal.getsignal(signal.SIGINT)
        (as_interrupt if callable(as_interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # An ignored signal stays ignored, as under nohup.
    numbers = [
        each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    # SIGINT is the exception: shells ignore it for background jobs. asyncio replaces only Python's own handler, and
    # without asyncio's a SIGTERM would cancel all tasks.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
