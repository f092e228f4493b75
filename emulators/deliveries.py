"""Posts to receivers from a thread, as tenant and providers do.

At least once, in order, and no more than a few times after failures.
"""

import queue
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

TRIES = 4
WAIT = 0.2  # seconds before the next try, doubled each time
TIMEOUT = 10.0


@dataclass(frozen=True)
class Post:
    """A body on its way."""

    url: str
    body: bytes
    headers: dict[str, str]


class Deliveries:
    """Posts bodies one after another, and keeps the answers' statuses."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self._waiting: queue.SimpleQueue[Post] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # No proxy of the environment stands between an emulator and its receiver.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(self, url: str, body: bytes, **headers: str) -> None:
        """Post a body soon. A header's name has underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._waiting.put(Post(url, body, named))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            post = self._waiting.get()
            for number in range(TRIES):
                status = self._send(post)
                self.statuses.append(status)
                if 200 <= status < 500:  # a refusal is not repeated
                    break
                time.sleep(WAIT * 2**number)

    def _send(self, post: Post) -> int:
        request = urllib.request.Request(post.url, post.body, post.headers, method="POST")
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:
            return 0
