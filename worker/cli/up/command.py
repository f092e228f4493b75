"""``token-vault up``: everything in the foreground, with one command."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.cli.up.demo import Demo
    from worker.cli.up.processes import Child
    from worker.cli.up.screen import Screen
    from worker.settings import Settings
    from worker.vault.vault import Vault

# For workers to finish their tasks.
WORKER_STOP_SECONDS = 55.0
# For the API to close, beside the time in which it answers what is under way.
API_CLOSE_SECONDS = 5.0
# For every other process to stop.
STOP_SECONDS = 10.0
# Between checks whether the embedded servers live.
SERVER_CHECK_SECONDS = 5.0
# Between two looks at the vault for the screen.
STATUS_SECONDS = 1.0
# Ports tried for the API, from the configured one on.
MAX_PORTS = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
            own_broker = settings.redis_url is None
            own_database = settings.database_url is None
            asyncio.run(
                Supervisor(
                    complete, prepared, up_screen, own_database=own_database, own_broker=own_broker
                ).run()
            )
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


class Supervisor:
    """One run of ``up``, its servers running already.

    Args:
        settings: complete but for an emulated tenant.
        demo: the emulated tenant, if one is wanted.
        screen: where to tell what happens.
        own_database: whether Postgres is embedded.
        own_broker: whether Redis is, and so this vault's alone.
    """

    def __init__(
        self, settings: Settings, demo: Demo | None, screen: Screen, *, own_database: bool, own_broker: bool
    ) -> None:
        self._settings = settings
        self._own_database = own_database
        self._own_broker = own_broker
        self._demo = demo
        self._screen = screen
        self._children: list[Child] = []
        self._stop_requested, self._kill_requested = asyncio.Event(), asyncio.Event()
        self._hint_shown = False

    async def run(self) -> None:
        """Run until a signal, then stop in order.

        A second signal stops at once.

        Raises:
            ConfigurationError: the keys do not fit the vault, or the emulated tenant does not start.
        """
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._request_stop)
        work, stop_wait = (
            asyncio.create_task(self._run_children()),
            asyncio.create_task(self._stop_requested.wait()),
        )
        try:
            await asyncio.wait({work, stop_wait}, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            stop_wait.cancel()
            with suppress(asyncio.CancelledError):
                await work
        finally:
            await self._stop()

    def _request_stop(self) -> None:
        if self._stop_requested.is_set():
            self._kill_requested.set()
        self._stop_requested.set()

    async def _run_children(self) -> None:
        from worker.cli.up.demo import TENANT
        from worker.embedded.files import private_folder
        from worker.vault.vault import open_vault

        settings = self._settings
        private_folder(settings.home / "logs", os.geteuid())
        keys = (settings.access_keys, settings.refresh_keys)
        async with open_vault(environment.database_url(settings), *keys, connections=2) as vault:
            tenants = list(settings.tenants)
            variables = {**os.environ, "TOKEN_VAULT_HOME": str(settings.home)}
            # Its processes cannot share a port or a file; the API shows the vault's metrics.
            variables |= {"TOKEN_VAULT_METRICS_PORT": "0"}
            for name in ("TOKEN_VAULT_LIVENESS_FILE", "TOKEN_VAULT_READINESS_FILE"):
                variables.pop(name, None)
            if self._demo is not None:
                await self._start_demo(self._demo)
                tenants = [TENANT]
                variables = _without_tenant(variables)
                variables["TOKEN_VAULT_CONFIG"] = str(self._demo.config)
                await self._allow_demo_key(self._demo)
            self._start_workers(variables)
            self._start_api(variables)
            restarting = asyncio.create_task(self._restart_dead_servers())
            try:
                await self._show_status(vault, tenants)
            finally:
                restarting.cancel()

    async def _start_demo(self, demo: Demo) -> None:
        emulator = self._start("emulated tenant", demo.command, demo.environment)
        await demo.ready(emulator)
        self._screen.report(f"the emulated tenant answers at {demo.url}")

    async def _allow_demo_key(self, demo: Demo) -> None:
        """Let the demo's API key read everything there is."""
        from worker.settings import load

        url = environment.database_url(self._settings)
        settings = load(demo.config).model_copy(update={"database_url": url})
        await asyncio.to_thread(environment.apply_configured_consumers, settings)

    def _start_api(self, variables: dict[str, str]) -> None:
        """Serve over HTTP.

        On the next port where the configured one is taken.
        """
        from worker.embedded.server import is_free

        api = self._settings.api
        ports = range(api.port, min(api.port + MAX_PORTS, 65_536))
        port = next((port for port in ports if is_free(port)), None)
        if port is None:
            self._screen.report(f"the API does not start: ports {ports[0]} to {ports[-1]} are taken")
            return
        taken = f" (port {api.port} is taken)" if port != api.port else ""
        key = f"; its key is in {output.relative_path(self._demo.api_key_file)}" if self._demo else ""
        self._start(
            "API", (sys.executable, "-P", "-m", "worker.cli", "serve", "--port", str(port)), variables
        )
        self._screen.report(f"the API answers at http://{api.host}:{port}{taken}{key}")

    def _start_workers(self, variables: dict[str, str]) -> None:
        celery = (sys.executable, "-m", "celery", "-A", "worker.app")
        # On a broker of this vault's own also serve Celery's default queue, for apps that name no queue.
        on_demand = "interactive,celery" if self._own_broker else "interactive"
        # One worker for renewals and syncs saves memory and connections; syncs that hang do not stop renewals.
        for name, queues, threads in (("bulk", "renew,sync", 4), ("interactive", on_demand, 8)):
            command = (
                *celery,
                "worker",
                "-Q",
                queues,
                "-P",
                "threads",
                "-c",
                str(threads),
                "-n",
                f"{name}@%h",
            )
            quietly = ("--without-gossip", "--without-mingle", "--without-heartbeat")
            self._start(f"{name} worker", (*command, *quietly), variables)
        self._start("beat", (*celery, "beat"), variables)

    def _start(self, name: str, command: Sequence[str], variables: dict[str, str]) -> Child:
        from worker.cli.up.processes import Child

        log = self._settings.home / "logs" / f"{name.replace(' ', '-')}.log"
        child = Child(name, command, environment=variables, log=log, report=self._screen.report)
        self._children.append(child)
        return child

    async def _show_status(self, vault: Vault, tenants: Sequence[str]) -> None:
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.exc import TimeoutError as PoolTimeout

        from token_vault.database_errors import failure
        from worker.vault.db.errors import explain
        from worker.vault.status.status import load_status

        lost = ""
        while True:
            began = time.monotonic()
            try:
                status = await load_status(vault, tenants)
                await self._show_hint(vault, tenants, status["grants"].get("active", 0))
                self._screen.show(status, self._children)
                trouble = ""
            except (DBAPIError, PoolTimeout) as error:
                trouble = str(explain(error))
            except OSError as error:
                trouble = str(failure(error))
            if trouble != lost:
                self._screen.report(trouble or "Postgres answers again")
            lost = trouble
            # Counting costs what is stored: on a big vault, spend at most a twentieth of the time on it.
            await asyncio.sleep(max(STATUS_SECONDS, 20 * (time.monotonic() - began)))

    async def _restart_dead_servers(self) -> None:
        """Restart embedded servers that died.

        They keep their addresses, so nobody else has to know.
        """
        from token_vault.errors import ConfigurationError
        from worker import embedded

        def ensure_servers() -> bool:
            wanted = {"postgres": self._own_database, "redis": self._own_broker}
            with embedded.servers(self._settings.home, **wanted) as servers:
                return servers.started

        while True:
            await asyncio.sleep(SERVER_CHECK_SECONDS)
            try:
                if await asyncio.to_thread(ensure_servers):
                    self._screen.report("an embedded server had died and was started again")
            except ConfigurationError as error:
                self._screen.report(str(error))

    async def _show_hint(self, vault: Vault, tenants: Sequence[str], active: int) -> None:
        """Show a command that gets a token, once possible."""
        from worker.cli.up.demo import EXAMPLE_GRANT
        from worker.vault.grants import queries

        if self._hint_shown or not active:
            return
        user, connection = EXAMPLE_GRANT
        tenant_option: tuple[str, ...] = ()
        if self._demo is None:
            found = await queries.list_grants(vault, tenants, queries.GrantFilter(state="active"), limit=1)
            if not found:
                return
            user, connection = found[0]["user_id"], found[0]["connection"]
            tenant_option = ("--tenant", found[0]["tenant"]) if len(tenants) > 1 else ()
        wanted = (
            ("--user", user, "--connection", connection, *tenant_option)
            if user
            else ("--admin", connection, *tenant_option)
        )
        self._screen.hint(f"a token, in another terminal: {output.command_line('get', *wanted)}")
        self._hint_shown = True

    async def _stop(self) -> None:
        """Stop beat and API, then workers, then the rest.

        Beat first, so that no work is added; the API before the workers, which answer those who wait.
        """
        from worker.settings.api import STOP_SECONDS as API_STOP_SECONDS

        workers = [child for child in self._children if child.name.endswith("worker")]
        emulators = self._children[:1] if self._demo is not None else []
        first = [child for child in self._children if child not in (*workers, *emulators)]
        for children, stop_seconds in (
            (first, API_STOP_SECONDS + API_CLOSE_SECONDS),
            (workers, WORKER_STOP_SECONDS),
            (emulators, STOP_SECONDS),
        ):
            if running := [child.name for child in children if child.running]:
                self._screen.report(f"stopping: {', '.join(running)} (once more Ctrl-C: at once)")
            await asyncio.gather(*(child.stop(stop_seconds, self._kill_requested) for child in children))


def _without_tenant(variables: dict[str, str]) -> dict[str, str]:
    """Leave out what is a tenant's, its spool too."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith("AUTH0_") and name != "TOKEN_VAULT_SPOOL"
    }
