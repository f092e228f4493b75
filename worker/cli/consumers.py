"""``token-vault consumers``: who may read what."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.consumer_rules import ConsumerRules

app = typer.Typer(help="Consumers: the apps that may read tokens, and which.", no_args_is_help=True)


@app.command()
def apply(as_json: Json = False) -> int:
    """Write the TOML file's consumers to the database.

    What is not in the file may read nothing afterwards, the roles of earlier versions among them.
    """
    environment.configure_log()
    with environment.running_vault(rings=()) as settings:
        applied = environment.apply_consumers(settings, keep_inherited=False)
    if as_json:
        output.print_json({name: list(values) for name, values in applied._asdict().items()})
        return ExitCode.OK
    for what in ("added", "changed", "removed"):
        for name in getattr(applied, what):
            output.print_line(f"{what} {name}")
    if not (applied.added or applied.changed or applied.removed):
        output.print_line("all consumers are as the file has them")
    output.print_statements(applied.statements)
    return ExitCode.OK


@app.command()
def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The consumer's name.")], as_json: Json = False
) -> int:
    """Make a consumer's API key, and its hash.

    The hash goes into the TOML file. The key is printed here and kept nowhere.
    """
    from worker.consumer_rules import hash_api_key, make_api_key

    known = environment.load_settings().consumers  # before a key is shown that a mistake would follow
    made = make_api_key()
    if as_json:
        output.print_json({"consumer": name, "api_key": made, "api_key_hash": hash_api_key(made)})
        return ExitCode.OK
    typer.echo(made)
    output.print_notice("this key is shown once: give it to the app, and its hash to the TOML file:")
    typer.echo(f'[consumers.{name}]\napi_key_hash = "{hash_api_key(made)}"', err=True)
    if name not in known:
        output.print_notice(f"the file has no consumer {name} yet")
    return ExitCode.OK


@app.command("list")
def list_consumers(as_json: Json = False) -> int:
    """List the consumers that the database has."""
    from worker.vault.consumers import consumers

    environment.configure_log()
    with environment.running_vault(rings=()) as settings:
        found = consumers.list_consumers(environment.database_url(settings))
    if as_json:
        output.print_json({"consumers": [_document(each) for each in found]})
        return ExitCode.OK
    columns = (
        "consumer",
        "known by",
        "connections",
        "tenants",
        "may read",
        "refresh",
        "impersonate",
        "audit",
    )
    rows = [
        [
            each.name + (" (from an earlier version)" if each.inherited else ""),
            ", ".join(_identities(each)), each.connections, "all" if each.tenants is None else each.tenants,
            ", ".join(kind for kind in ("users", "admins") if getattr(each, kind)), each.refresh,
            each.impersonate, each.audit,
        ]
        for each in found
    ]  # fmt: skip
    output.print_table(columns, rows)
    return ExitCode.OK


def _identities(rules: ConsumerRules) -> list[str]:
    return [
        *([f"client {rules.client_id}"] if rules.client_id else []),
        *([f"role {rules.role}"] if rules.role else []),
        *(["API key"] if rules.api_key_hash else []),
    ]


def _document(rules: ConsumerRules) -> dict[str, object]:
    document = asdict(rules) | {"connections": list(rules.connections)}
    return document | {"tenants": None if rules.tenants is None else list(rules.tenants)}
