"""The emulated Auth0 tenant of ``up --demo``.

A small company with providers, users and their troubles.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.cli.environment import DEMO_CONFIG
from worker.cli.up.processes import Child
from worker.consumer_rules import hash_api_key, make_api_key
from worker.embedded import private_home
from worker.embedded.files import write_private
from worker.embedded.server import is_free

TENANT = "demo"
CLIENT_ID = "demo-worker"
# As the emulated tenant knows them: its API, and the page of examples/spa-proxy.
AUDIENCE = "https://vault.example"
SPA_ORIGIN = "http://127.0.0.1:3000"
EXAMPLE_GRANT = ("google-oauth2|1111", "google-oauth2")
"""A user whose token is always there to be got, and the connection."""

PACKAGES = ("emulators", "python_multipart")
"""What the emulation is made of; the extra ``demo`` brings what the worker itself does not need."""
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Demo:
    """An emulated tenant that belongs to one home.

    Attributes:
        folder: where its state is kept from one start to the next.
        port: on 127.0.0.1; the same at each start, where it is free.
    """

    folder: Path
    port: int
    client_secret: Secret

    @property
    def url(self) -> str:
        """Where the emulation answers, instead of an Auth0 domain."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_key_file(self) -> Path:
        """The file of the key that reads over HTTP."""
        return self.folder / "api-key"

    @property
    def config(self) -> Path:
        """The TOML file that leads the vault there."""
        return self.folder / DEMO_CONFIG

    @property
    def command(self) -> list[str]:
        """What starts the emulation, in any folder."""
        return [
            # -P: do not import a folder "emulators" of the working directory.
            *(sys.executable, "-P", "-m", "emulators", "--demo", "--port", str(self.port)),
            *("--state-file", str(self.folder / "state.json")),
            *("--write-config", str(self.folder / "endpoints.toml")),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """The emulation's environment: nothing of the vault's own secrets."""
        passed = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
        return passed | {
            "EMULATOR_CLIENT_ID": CLIENT_ID,
            "EMULATOR_CLIENT_SECRET": self.client_secret.reveal(),
        }

    async def ready(self, emulator: Child) -> None:
        """Wait for the emulation, then write the vault's configuration.

        Raises:
            ConfigurationError: it does not start.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as http:
                while not emulator.restarts:
                    if await self._answers(http):
                        self._write_config()
                        return
                    await asyncio.sleep(0.1)
        raise ConfigurationError(
            f"the emulated tenant did not start: {emulator.log.last or 'it says nothing'}"
        )

    async def _answers(self, http: httpx.AsyncClient) -> bool:
        """Whether this home's emulation listens there."""
        try:
            endpoints = (await http.get(f"{self.url}/control/endpoints")).json()
            return Secret(str(endpoints["client_secret"])) == self.client_secret
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False

    def _write_config(self) -> None:
        tenant = {
            "domain": self.url,
            "client_id": CLIENT_ID,
            "client_secret_file": str(self.folder / "client-secret"),
            "audience": f"{self.url}/api/v2/",
            "plan": "unlimited",
        }
        lines = [
            "# The emulated tenant of `token-vault up`; written at each start.",
            f"[tenants.{TENANT}]",
            *(f"{name} = {json.dumps(value)}" for name, value in tenant.items()),
            "",
            "[consumers.demo]  # reads over HTTP by the key in the file api-key",
            f'api_key_hash = "{hash_api_key(_api_key(self.api_key_file))}"',
            'connections = ["*"]',
            "admins = true",
            "refresh = true",
            "",
            "[api]  # access tokens of the application spa: docs/spa.md",
            f'audience = "{AUDIENCE}"',
            f'origins = ["{SPA_ORIGIN}"]',
            "",
            '[proxy."google-oauth2"]',
            f"base_url = {json.dumps(f'{self.url}/idp/google')}",
            'allow = ["GET /calendar/v3/*"]',
            "",
            "[schedule]  # seconds; its tokens live for a minute",
            "renew = 2",
            "changes = 15",
            "connections = 60",
            "",
            (self.folder / "endpoints.toml").read_text(encoding="utf-8"),
        ]
        write_private(self.config, "\n".join(lines))


def prepare(home: Path) -> Demo:
    """Prepare the demo's emulated tenant for its start.

    Raises:
        ConfigurationError: the emulation is not part of this installation.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigurationError(
            f"the emulated tenant needs {' and '.join(missing)}: pip install 'idp-token-vault[demo]', "
            "or set AUTH0_DOMAIN, AUTH0_CLIENT_ID and AUTH0_CLIENT_SECRET"
        )
    folder = private_home(home)
    return Demo(folder, _port(folder / "port"), _client_secret(folder / "client-secret"))


def _port(remembered: Path) -> int:
    """Return the last start's port, or a free one."""
    with suppress(FileNotFoundError, ValueError):
        port = int(remembered.read_text())
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    write_private(remembered, str(port))
    return port


def _api_key(file: Path) -> str:
    if not file.exists():
        write_private(file, make_api_key() + "\n")
    return file.read_text(encoding="utf-8").strip()


def _client_secret(file: Path) -> Secret:
    if not file.exists():
        write_private(file, secrets.token_urlsafe(32))
    return Secret(file.read_text(encoding="utf-8").strip())
