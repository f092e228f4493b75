"""A headless Chromium, and all that it sends and receives.

It speaks the Chrome DevTools Protocol over two pipes, so that no port and no library is needed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.wait import WAIT_SECONDS

Json = dict[str, Any]

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--no-first-run",
    "--no-proxy-server",
)  # fmt: skip
# Chromium reads commands from descriptor 3, and writes to 4.
_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a browser.

    Attributes:
        events: of the network, as the protocol tells them.
        bodies: of answers.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._pending = b""
        self._last_id = 0
        self._results: dict[int, Json] = {}
        self._wanted_bodies: set[int] = set()
        self._session: str | None = None
        self.events: list[Json] = []
        self.bodies: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Network.enable", maxPostDataSize=65_536)

    @property
    def network_log(self) -> str:
        """All that went over the network, headers and bodies included."""
        return json.dumps(self.events) + "\n".join(self.bodies)

    @property
    def requests(self) -> list[Json]:
        """What was asked for, in order; a preflight is the browser's own."""
        return [each["params"] for each in self.events if each["method"] == "Network.requestWillBeSent"]

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return what an expression gives in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression gives something true, and return it."""
        end = time.monotonic() + WAIT_SECONDS
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression}: {self.evaluate('document.body.innerText')}"
            self._read(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click an element once it is shown."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} !== null && {found}.checkVisibility()")
        self.evaluate(f"{found}.click()")

    def wait_for_network(self) -> None:
        """Wait until all that was asked for has ended and is told of; the protocol tells it after the page."""
        end = time.monotonic() + WAIT_SECONDS
        while unended := self._unended():
            assert time.monotonic() < end, unended
            self._read(0.05)

    def _unended(self) -> set[str]:
        ended = {"Network.loadingFinished", "Network.loadingFailed"}
        of = [(each["method"], each["params"].get("requestId", "")) for each in self.events]
        sent = {request for method, request in of if method == "Network.requestWillBeSent"}
        bodies = {f"body {number}" for number in self._wanted_bodies}
        return sent - {request for method, request in of if method in ended} | bodies

    def _call(self, method: str, **parameters: Any) -> Json:
        number = self._send(method, parameters)
        end = time.monotonic() + WAIT_SECONDS
        while number not in self._results:
            assert time.monotonic() < end, method
            self._read(1)
        answer = self._results.pop(number)
        assert "error" not in answer, (method, answer)
        return dict(answer["result"])

    def _send(self, method: str, parameters: Json) -> int:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._last_id

    def _read(self, seconds: float) -> None:
        if not select.select([self._answers], [], [], seconds)[0]:
            return
        data = os.read(self._answers, 1 << 20)
        assert data, "the browser has ended"
        *messages, self._pending = (self._pending + data).split(b"\0")
        for message in map(json.loads, messages):
            self._take(message)

    def _take(self, message: Json) -> None:
        number = message.get("id")
        if number in self._wanted_bodies:
            self._wanted_bodies.discard(number)
            self.bodies.append(message.get("result", {}).get("body", ""))
        elif number is not None:
            self._results[number] = message
        elif message["method"].startswith("Network."):
            self.events.append(message)
            if message["method"] == "Network.loadingFinished":
                wanted = {"requestId": message["params"]["requestId"]}
                self._wanted_bodies.add(self._send("Network.getResponseBody", wanted))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser, its profile in a folder, until the block ends."""
    assert PROGRAM is not None
    child_reads, commands = os.pipe()
    answers, child_writes = os.pipe()
    # Above 4, so that neither is overwritten before it is copied.
    passed = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (child_reads, child_writes)]
    command = [sys.executable, "-c", _LAUNCH, *map(str, passed)]
    command += [PROGRAM, *_OPTIONS, f"--user-data-dir={folder}"]
    with subprocess.Popen(
        command, pass_fds=passed, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        for each in (child_reads, child_writes, *passed):
            os.close(each)
        try:
            yield Browser(commands, answers)
        finally:
            process.kill()
            os.close(commands)
            os.close(answers)
