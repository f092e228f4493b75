"""``token-vault up``: everything in the foreground, with one command."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.cli.up.demo import Demo
    from worker.settings import Settings


def up(
    demo: Annotated[
        bool | None,
        typer.Option(
            "--demo/--no-demo",
            help="With an emulated Auth0 tenant; the default where no tenant is configured.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Run everything in the foreground.

    Servers where they are embedded, migrations, workers, beat; Ctrl-C stops them in order.
    """
    from worker import embedded
    from worker.cli.up import demo as emulated
    from worker.cli.up.screen import choose_screen
    from worker.cli.up.supervisor import STOP_SIGNALS, Supervisor
    from worker.core_dumps import forbid_core_dumps
    from worker.settings import load

    forbid_core_dumps()
    environment.configure_log()
    settings = load()
    is_demo = _wants_demo(settings, demo)
    if is_demo:
        settings = load(home=_demo_home(settings))
    with embedded.home_lock(settings.home), choose_screen(as_json=as_json) as up_screen:
        prepared = emulated.prepare(settings.home) if is_demo else None
        up_screen.report(_headline(settings, prepared))
        complete = environment.with_keys(settings)
        with environment.running_servers(complete, redis=True) as complete:
            *_, left = environment.migrate_to_head(complete)
            output.print_statements([*left, *environment.apply_configured_consumers(complete)])
            supervisor = Supervisor(
                complete,
                prepared,
                up_screen,
                own_database=settings.database_url is None,
                own_broker=settings.redis_url is None,
            )
            asyncio.run(supervisor.run())
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # the servers stop in order, within seconds
    return ExitCode.OK


def _wants_demo(settings: Settings, demo: bool | None) -> bool:
    if demo or (demo is None and not settings.tenants):
        return True
    from worker.runtime import credentials_of

    for tenant in environment.select_tenants(settings, None):
        credentials_of(settings, tenant)  # report bad credentials here, once, instead of from every worker
    return False


def _demo_home(settings: Settings) -> Path:
    """Return the demo's own folder.

    Raises:
        ConfigurationError: the demo would use the operator's servers.
    """
    from token_vault.home import DEMO, is_demo_home
    from worker.embedded import private_home

    if settings.database_url is not None or settings.redis_url is not None:
        raise ConfigurationError(
            "the demo has servers of its own and leaves yours alone: unset DATABASE_URL and REDIS_URL for it, or set "
            "AUTH0_DOMAIN and what belongs to it for a tenant"
        )
    return settings.home if is_demo_home(settings.home) else private_home(settings.home) / DEMO


def _headline(settings: Settings, demo: Demo | None) -> str:
    if demo is None:
        return f"starting with {', '.join(tenant.domain for tenant in settings.tenants.values())}"
    why = "asked for by --demo" if settings.tenants else "no AUTH0_DOMAIN is set"
    said = f"DEMO: starting with an emulated Auth0 tenant ({why}); data under {output.relative_path(settings.home)}"
    # The demo uses its own file: tell operators why their webhooks are silent.
    return f"{said}; TOKEN_VAULT_CONFIG is not used" if os.environ.get("TOKEN_VAULT_CONFIG") else said
