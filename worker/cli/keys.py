"""``token-vault keys``: the vault's encryption keys."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.options import Json

app = typer.Typer(help="The vault's encryption keys.", no_args_is_help=True)


class Ring(StrEnum):
    """Which ring a key is for."""

    ACCESS = "access"
    REFRESH = "refresh"


@app.callback()
def _keys() -> None:
    """Keep the group a group while it has one command."""


@app.command()
def generate(
    ring: Annotated[Ring | None, typer.Option(help="Print the bare key for one ring.")] = None,
    as_json: Json = False,
) -> int:
    """Make new keys for both rings, as lines for the environment. They are printed here and kept nowhere."""
    from worker.vault.keyring import VARIABLES, KeyRing

    made: dict[str, str] = {name: KeyRing.generate().reveal() for name in VARIABLES if ring in (None, name)}
    if as_json:
        output.document(made)
    elif ring is not None:
        output.say(made[ring])
    else:
        for name, key in made.items():
            output.say(f"VAULT_{name.upper()}_KEYS={key}")
    return output.OK
