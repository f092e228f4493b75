"""Runs the processes of ``up``, and stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from token_vault.errors import ConfigurationError
from worker import embedded
from worker.cli import environment, output
from worker.cli.up.demo import EXAMPLE_GRANT, TENANT, Demo
from worker.cli.up.processes import Child
from worker.cli.up.screen import Screen
from worker.cli.up.watch import watch
from worker.embedded.files import private_folder
from worker.embedded.server import is_free
from worker.settings import Settings, load
from worker.settings.api import STOP_SECONDS as API_STOP_SECONDS
from worker.vault.vault import open_vault

# For workers to finish their tasks.
WORKER_STOP_SECONDS = 55.0
# For the API to close, beside the time in which it answers what is under way.
API_CLOSE_SECONDS = 5.0
# For every other process to stop.
STOP_SECONDS = 10.0
# Between checks whether the embedded servers live.
SERVER_CHECK_SECONDS = 5.0
# Ports tried for the API, from the configured one on.
MAX_PORTS = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        settings = self._settings
        private_folder(settings.home / "logs", os.geteuid())
        keys = (settings.access_keys, settings.refresh_keys)
        async with open_vault(environment.database_url(settings), *keys, connections=2) as vault:
            if self._demo is not None:
                await self._start_demo(self._demo)
            variables = _environment_of_children(settings.home, self._demo)
            self._start_workers(variables)
            self._start_api(variables)
            restarting = asyncio.create_task(self._restart_dead_servers())
            tenants, example = ([TENANT], EXAMPLE_GRANT) if self._demo else (list(settings.tenants), None)
            try:
                await watch(vault, tenants, self._children, self._screen, example=example)
            finally:
                restarting.cancel()

    async def _start_demo(self, demo: Demo) -> None:
        """Start the emulated tenant; let its API key read all."""
        emulator = self._start("emulated tenant", demo.command, demo.environment)
        await demo.ready(emulator)
        self._screen.report(f"the emulated tenant answers at {demo.url}")
        url = environment.database_url(self._settings)
        settings = load(demo.config).model_copy(update={"database_url": url})
        await asyncio.to_thread(environment.apply_configured_consumers, settings)

    def _start_api(self, variables: dict[str, str]) -> None:
        """Serve over HTTP.

        On the next port where the configured one is taken.
        """
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
            options = ("-Q", queues, "-P", "threads", "-c", str(threads), "-n", f"{name}@%h")
            quietly = ("--without-gossip", "--without-mingle", "--without-heartbeat")
            self._start(f"{name} worker", (*celery, "worker", *options, *quietly), variables)
        self._start("beat", (*celery, "beat"), variables)

    def _start(self, name: str, command: Sequence[str], variables: dict[str, str]) -> Child:
        log = self._settings.home / "logs" / f"{name.replace(' ', '-')}.log"
        child = Child(name, command, environment=variables, log=log, report=self._screen.report)
        self._children.append(child)
        return child

    async def _restart_dead_servers(self) -> None:
        """Restart embedded servers that died.

        They keep their addresses, so nobody else has to know.
        """

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

    async def _stop(self) -> None:
        """Stop beat and API, then workers, then the rest.

        Beat first, so that no work is added; the API before the workers, which answer those who wait.
        """
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


def _environment_of_children(home: Path, demo: Demo | None) -> dict[str, str]:
    """Return the environment of workers, beat and API."""
    # They cannot share a port or a file; the API shows the vault's metrics.
    variables = {**os.environ, "TOKEN_VAULT_HOME": str(home), "TOKEN_VAULT_METRICS_PORT": "0"}
    unwanted = ["TOKEN_VAULT_LIVENESS_FILE", "TOKEN_VAULT_READINESS_FILE"]
    if demo is not None:  # nothing of a tenant's, its spool neither
        unwanted += ["TOKEN_VAULT_SPOOL", *(name for name in variables if name.startswith("AUTH0_"))]
        variables["TOKEN_VAULT_CONFIG"] = str(demo.config)
    return {name: value for name, value in variables.items() if name not in unwanted}
