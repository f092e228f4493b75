"""Refresh requests caused by providers' security events."""

from __future__ import annotations

from collections.abc import Sequence

from worker.vault.db.sql import load
from worker.vault.grants.refresh_digests import TokenName, find_grants
from worker.vault.refresh_requests.queue import CHANNEL
from worker.vault.vault import Database
from worker.vault.wakeups import announce

# The requester, in place of a reader's role: workers take turns between requesters.
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
    """Request a refresh of the grants of an event.

    Args:
        tenants: None for all.
        connections: of these grants.
        account: the user's id at the provider, for all grants of the account.
        refresh_token: for the grant that has this token.

    Returns:
        The number of these grants.
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
