"""The queue of changed users.

It holds only ids, and a bounded number, so that a caller of a hook cannot fill the disk. A lost row loses no change, as
the change feeds name the same users a little later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text

from token_vault.errors import TemporarilyUnavailable
from worker.vault.db.sql import load
from worker.vault.vault import Database, Vault
from worker.vault.wakeups import announce

CHANNEL = "token_vault_changed_users"

# Stands in place of a user's id: the tenant's connections have changed. An empty user id means the connection itself, as
# in the table of grants.
CONNECTIONS = ""

# Of one tenant. More are refused; Auth0 sends them again a little later.
MAX_PENDING_USERS = 100_000
FULL_RETRY_SECONDS = 30.0
# The least time between two syncs of a user who is named again.
LEAST_INTERVAL = timedelta(seconds=2)
# If a worker dies, another may claim its users after this time: longer than a batch waits for Auth0's rate limit.
CLAIM_TIME = timedelta(seconds=120)

_RECORD, _CLAIM, _FINISH = load(__file__, "record"), load(__file__, "claim"), load(__file__, "finish")
_COUNT = text("SELECT count(*) FROM (SELECT FROM changed_users WHERE tenant = :tenant LIMIT :most) pending")
_POSTPONE = text("""
UPDATE changed_users SET claimed_until = NULL, due_at = now() + make_interval(secs => :seconds)
WHERE tenant = :tenant AND user_id = ANY (:user_ids)
""")
# A row that was not claimed for a day belongs to a tenant that no worker is configured for.
_DELETE_OVER = text("""
DELETE FROM changed_users
WHERE synced_at < now() - interval '10 seconds' OR reported_at < now() - interval '1 day'
""")


class ChangedUser(NamedTuple):
    """A user whom a hook named.

    Attributes:
        reported_at: when it was last named; a later time in the row means that it was named again.
    """

    user_id: str
    reported_at: datetime


async def record(database: Database, tenant: str, user_ids: Collection[str]) -> None:
    """Record users to be synced, and wake a worker.

    Raises:
        TemporarilyUnavailable: the queue is full.
    """
    if not user_ids:
        return
    ((pending,),) = await database.run(_COUNT, {"tenant": tenant, "most": MAX_PENDING_USERS})
    if pending >= MAX_PENDING_USERS:
        raise TemporarilyUnavailable("too many changed users wait to be synced", FULL_RETRY_SECONDS)
    values = {"tenant": tenant, "user_ids": sorted(set(user_ids)), "interval": LEAST_INTERVAL}
    await database.run(_RECORD, values)
    await announce(database, CHANNEL)


async def claim(vault: Vault, tenant: str, *, limit: int) -> list[ChangedUser]:
    """Claim users who are due, for ``CLAIM_TIME``."""
    values = {"tenant": tenant, "limit": limit, "claim": CLAIM_TIME}
    return [ChangedUser._make(row) for row in await vault.run(_CLAIM, values)]


async def finish(vault: Vault, tenant: str, users: Sequence[ChangedUser]) -> None:
    """Record that users are synced."""
    values = {
        "tenant": tenant,
        "user_ids": [user.user_id for user in users],
        "times": [user.reported_at for user in users],
        "interval": LEAST_INTERVAL,
    }
    await vault.run(_FINISH, values)


async def postpone(vault: Vault, tenant: str, users: Sequence[ChangedUser], *, seconds: float) -> None:
    """Make users due again later."""
    values = {"tenant": tenant, "user_ids": [user.user_id for user in users], "seconds": seconds}
    await vault.run(_POSTPONE, values)


async def delete_over(vault: Vault) -> None:
    """Delete the rows of users who are synced, or unclaimed."""
    await vault.run(_DELETE_OVER)
