"""Refresh requests that providers' security events cause."""

from __future__ import annotations

from collections.abc import Sequence

from worker.vault.db.sql import load
from worker.vault.grants.refresh_digests import TokenName, find_grants
from worker.vault.refresh_requests.queue import CHANNEL
from worker.vault.vault import Database
from worker.vault.wakeups import announce

# Who asks, in place of a reader's role: workers take turns between those who ask.
SECURITY_EVENTS = "security events"

_REPORT = load(__file__, "report_security_event")


async def report_security_event(
    database: Database,
    *,
    tenants: Sequence[str] | None,
    connections: Sequence[str],
    account: str | None = None,
    refresh_token: TokenName | None = None,
) -> int:
    """Have the grants that an event is about tried soon.

    Args:
        tenants: None for all.
        connections: whose grants.
        account: the user's id at the provider: all its grants.
        refresh_token: the grant that has it.

    Returns:
        How many grants are tried.
    """
    values = {
        "requested_by": SECURITY_EVENTS,
        "tenants": None if tenants is None else list(tenants),
        "connections": list(connections),
        "account": account,
        "grant_ids": await find_grants(database, refresh_token) if refresh_token else [],
    }
    tried = await database.run(_REPORT, values)
    if tried:
        await announce(database, CHANNEL)
    return len(tried)
