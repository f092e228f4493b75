"""What the processes wrote that a sound one does not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Each is an error of docs/log-events.md that names a bug, or an answer that is no longer safe.
BUGS = {
    "loop.crashed", "queue.work_crashed", "renewal.decrypt_failed", "renewal.failed", "renewal.run_crashed", "request.failed",
    "spool.answer_rejected", "spool.decrypt_failed", "spool.write_failed",
}  # fmt: skip
# A task that a server's absence ended says so to whoever sent it, and Celery writes its traceback.
_SERVER_AWAY = (
    "token_vault.errors.TemporarilyUnavailable: ", "redis.exceptions.ConnectionError: ",
    "redis.exceptions.BusyLoadingError: ",
    "kombu.exceptions.OperationalError: ",
)  # fmt: skip


def list_failures(folder: Path) -> list[str]:
    """List tracebacks and events that name a bug, by file."""
    return [
        f"{path.name}: {line.strip()[:2000]}"
        for path in sorted(folder.glob("*.log"))
        for line in path.read_text(errors="replace").splitlines()
        if _is_failure(line)
    ]


def _is_failure(line: str) -> bool:
    try:
        event: Any = json.loads(line)
    except ValueError:
        return line.startswith("Traceback ")
    if not isinstance(event, dict):
        return False
    if event.get("event") in BUGS:
        return True
    trace = str(event.get("exception", "")).strip()
    return bool(trace) and not trace.splitlines()[-1].startswith(_SERVER_AWAY)
