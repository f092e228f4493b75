"""How Postgres is reached: what each connection to it tells libpq."""

from __future__ import annotations

from typing import Any

CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 10,
    # A host that loses power says no word. A question to it is given up after ten seconds, and so is one that it
    # took and never answers; the kernel's own patience is a quarter of an hour, and two hours.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Parameters of a connection, times in seconds but ``tcp_user_timeout``; of no effect over a Unix socket.

Source: PostgreSQL documentation, 32.1.2 Parameter Key Words.
"""
