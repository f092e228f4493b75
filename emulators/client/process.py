"""An emulation in a process of its own."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulators.client.emulation import Emulation, EmulationError
from emulators.client.operations import Json

INSTALLED = Path(__file__).resolve().parents[2]  # the folder that holds this package


@contextmanager
def running(
    *,
    port: int = 0,
    demo: bool = False,
    quiet_demo: bool = True,
    token_life: float | None = None,
    state_file: Path | None = None,
    write_config: Path | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
) -> Iterator[Emulation]:
    """Run an emulation in a process of its own.

    Raises EmulationError when it does not start.
    """
    command = [sys.executable, "-m", "emulators", "--port", str(port)]
    command += ["--demo"] * demo + ["--quiet-demo"] * quiet_demo
    for option, value in (
        ("--token-life", token_life),
        ("--state-file", state_file and state_file.resolve()),
        ("--write-config", write_config and write_config.resolve()),
    ):
        command += [] if value is None else [option, str(value)]
    named = {"EMULATOR_CLIENT_ID": client_id, "EMULATOR_CLIENT_SECRET": client_secret}
    environment = {**os.environ, **{name: value for name, value in named.items() if value is not None}}
    with subprocess.Popen(
        command, cwd=INSTALLED, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            with Emulation(_ready(process)) as emulation:
                yield emulation
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(process: subprocess.Popen[str], timeout: float = 60.0) -> Json:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], timeout)
    line = process.stdout.readline() if readable else ""
    if not line:
        raise EmulationError("the emulation did not start; its stderr says why")
    return dict(json.loads(line))
