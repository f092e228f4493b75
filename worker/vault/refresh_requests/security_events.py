"""Refresh requests that providers' security events cause."""

from __future__ import annotations

from collections.abc import Sequence

from worker.vault.db.sql import load
from worker.vault.refresh_requests.queue import CHANNEL
from worker.vault.vault import Database
from worker.vault.wakeups import announce

# Who asks, in place of a reader's role: workers take turns between those who ask.
SECURITY_EVENTS = "security events"

_REPORT = load(__file__, "report_security_event")


async def report_security_event(
    database: Database, *, tenants: Sequence[str] | None, connections: Sequence[str], account: str
) -> int:
    """Have an account's grants tried soon.

    Args:
        tenants: None for all.
        connections: whose grants.
        account: the user's id at the provider.

    Returns:
        How many grants are tried.
    """
    values = {
        "requested_by": SECURITY_EVENTS,
        "tenants": None if tenants is None else list(tenants),
        "connections": list(connections),
        "account": account,
    }
    tried = await database.run(_REPORT, values)
    if tried:
        await announce(database, CHANNEL)
    return len(tried)
