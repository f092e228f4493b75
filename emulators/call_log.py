"""What was asked of the emulation.

Tokens appear as digests only.
"""

import time
from collections import Counter, deque
from typing import Any

Entry = dict[str, Any]
KEPT = 200_000


class CallLog:
    """The calls, all counted and the newest in full.

    `KEPT` says how many are kept in full.
    """

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._counts: Counter[str] = Counter()

    def open(self, at: float, method: str, path: str) -> Entry:
        """Begin an entry; the handlers fill it in."""
        entry: Entry = {
            "time": at,
            "method": method,
            "path": path,
            "template": path,
            "query": "",
            "client_id": None,
            "auth": None,
            "grant": None,
            "token": None,
            "status": None,
            "error": None,
            "fault": None,
            "note": "",
            "outcome": "unanswered",
            "arrived": time.time(),  # real times, whatever the emulation's clock says
            "left": None,
        }
        self._entries.append(entry)
        return entry

    def close(self, entry: Entry) -> None:
        """Count the call and put its outcome into one word."""
        entry["left"] = time.time()
        self._counts[f"{entry['method']} {entry['template']}"] += 1
        entry["outcome"] = entry["fault"] or entry["error"] or str(entry["status"])

    def calls(self, prefix: str = "") -> dict[str, int]:
        """Count by method and path template."""
        return {
            name: count for name, count in self._counts.items() if name.partition(" ")[2].startswith(prefix)
        }

    def log(self, prefix: str = "") -> list[Entry]:
        """List the calls below a path, oldest first."""
        return [entry for entry in self._entries if entry["path"].startswith(prefix)]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._counts.clear()
