"""``token-vault completion``: commands and options at the tab key."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from worker.cli import output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json

PROGRAM = "token-vault"
# The name that typer derives from the program's.
VARIABLE = "_TOKEN_VAULT_COMPLETE"


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell that it is for.")],
    as_json: Json = False,
) -> int:
    """Print a script that completes commands and options.

    bash and zsh: eval "$(token-vault completion bash)"; fish: token-vault completion fish | source.
    """
    # Exported for nobody but typer's own options, which install more than is asked for here.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)
    if as_json:
        output.print_json({"shell": shell, "script": script})
    else:
        output.print_raw(script)
    return ExitCode.OK


def prepare() -> None:
    """Get ready for a shell's question, if this is one.

    Typer does so by itself only together with options of its own.
    """
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
