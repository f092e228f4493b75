"""Ports for servers that a test starts by number."""

from __future__ import annotations

import secrets

from worker.embedded.server import is_free

# Below those that the kernel gives to whoever connects, as other tests do until the server is there. A Redis in a
# cluster also uses the port that is higher by 10,000, which is below them too.
LOWEST, COUNT = 20_000, 2_700


def free_port() -> int:
    """Return a port that nobody uses."""
    return next(port for port in iter(lambda: LOWEST + secrets.randbelow(COUNT), None) if is_free(port))
