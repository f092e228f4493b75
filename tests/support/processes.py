"""The vault as in production, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulators.client import Emulation
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.wait import WAIT_SECONDS, until
from worker.embedded import Servers

REPOSITORY = Path(__file__).parents[2]

# What an operator's shell gives any program; everything else a process gets is named in `Site.environment`.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")

# An application of somebody else: it knows Celery, the broker, and the names of tasks.
FOREIGN = """
import json, os, sys
from celery import Celery
app = Celery("foreign", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
given = json.load(sys.stdin)
asked = [app.send_task(name, kwargs=arguments, queue=queue) for name, queue, arguments in given["messages"]]
answers = [each.get(timeout=100, propagate=False) for each in asked if given["wait"]]
assert not [name for name in sys.modules if name == "worker" or name.startswith("worker.")]
print(json.dumps([repr(answer) if isinstance(answer, Exception) else answer for answer in answers]))
"""

READ = """
import json, sys
from token_vault import TokenVault
with TokenVault.from_env() as vault:
    tokens = [vault.user_token(**asked) for asked in json.load(sys.stdin)]
print(json.dumps([token.value for token in tokens]))
"""


class Process:
    """A process with its log, in its own group."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """What it has written so far, to stdout and stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def says(self, text: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until its log holds this text."""
        until(lambda: text in self.log or not self.running, f"{self.name} says {text!r}", seconds=seconds)
        assert text in self.log, f"{self.name} has ended: {self.log[-2000:]}"

    def terminate(self, seconds: float = WAIT_SECONDS) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self.signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """Kill its process group (SIGKILL)."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(WAIT_SECONDS)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)


@dataclass
class Site:
    """One vault's environment, and the processes in it.

    Attributes:
        environment: all that its processes are given.
        folder: where its TOML file and its logs lie.
        launcher: a command that starts the others, as another user or in another place.
    """

    environment: dict[str, str]
    folder: Path
    processes: list[Process] = field(default_factory=list)
    launcher: tuple[str, ...] = ()

    def worker(self, name: str, queues: str, threads: int = 4, *, ready: bool = True) -> Process:
        """Start a Celery worker; wait unless its broker is away."""
        process = self.start(
            name,
            *_CELERY,
            "worker",
            "-Q",
            queues,
            "-P",
            "threads",
            "-c",
            str(threads),
            "-n",
            f"{name}@%h",
            *_ALONE,
        )
        if ready:
            process.says("ready.")
        return process

    def beat(self, name: str = "beat") -> Process:
        """Start a beat."""
        return self.start(name, *_CELERY, "beat")

    def start(self, name: str, *command: str) -> Process:
        """Start any process."""
        process = Process(name, (*self.launcher, *command), self.environment, self.folder / f"{name}.log")
        self.processes.append(process)
        return process

    def run(self, program: str, given: object = None) -> Any:
        """Run a Python program here, with JSON in and out."""
        found = subprocess.run(
            [sys.executable, "-c", program], env=self.environment, cwd=self.folder, input=json.dumps(given),
            capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def ask(self, *messages: tuple[str, str, dict[str, Any]]) -> list[Any]:
        """Send tasks from a foreign application, and return their results.

        Each message is a task's name, queue and arguments.
        """
        return list(self.run(FOREIGN, {"messages": messages, "wait": True}))

    def send(self, *messages: tuple[str, str, dict[str, Any]]) -> None:
        """As ``ask``, without waiting for results."""
        self.run(FOREIGN, {"messages": messages, "wait": False})

    def read(self, *asked: dict[str, Any]) -> list[str]:
        """Read tokens in a new process, by arguments of ``user_token``."""
        return list(self.run(READ, asked))


_CELERY = (sys.executable, "-m", "celery", "-A", "worker.app")
# Workers have nothing to tell each other that Postgres does not know.
_ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@contextmanager
def site(
    servers: Servers, tenant: Emulation, folder: Path, *, schedule: str, **environment: str
) -> Iterator[Site]:
    """Make a site; kill its processes at the end.

    The tenant's connections have to be there: their endpoints go into the TOML file.
    """
    config = folder / "vault.toml"
    config.write_text(f"{tenant.config_toml()}\n[schedule]\n{schedule}\n", encoding="utf-8")
    made = Site(
        {name: os.environ[name] for name in _INHERITED if name in os.environ}
        | {
            "PYTHONUNBUFFERED": "1",
            "DATABASE_URL": servers.database_url.reveal(),
            "REDIS_URL": servers.redis_url.reveal(),
            "VAULT_ACCESS_KEYS": ACCESS_KEY.reveal(),
            "VAULT_REFRESH_KEYS": REFRESH_KEY.reveal(),
            "AUTH0_DOMAIN": tenant.auth0_domain,
            "AUTH0_CLIENT_ID": tenant.client_id,
            "AUTH0_CLIENT_SECRET": tenant.client_secret,
            "AUTH0_AUDIENCE": tenant.audience,
            "AUTH0_PLAN": "unlimited",
            "TOKEN_VAULT_CONFIG": str(config),
            "TOKEN_VAULT_HOME": str(folder / "home"),
        }
        | environment,
        folder,
    )
    try:
        yield made
    finally:
        for process in made.processes:
            process.kill()
