"""What libpq is told of each connection to Postgres."""

from __future__ import annotations

from typing import Any

CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 10,
    # Detect a host that lost power within ten seconds; the kernel's defaults are 15 minutes and two hours.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Parameters of a connection, times in seconds but ``tcp_user_timeout``; of no effect over a Unix socket.

Source: PostgreSQL documentation, 32.1.2 Parameter Key Words.
"""
