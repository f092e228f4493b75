"""The queue of refresh requests.

Many workers share it; each request is claimed by one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text

from token_vault.token_target import TokenTarget
from worker.vault.db.sql import load
from worker.vault.vault import Vault
from worker.vault.wakeups import wake

CHANNEL = "token_vault_requests"

# If a worker dies, another may claim its request after this time. A request that takes longer is handled twice, which is
# harmless: the claim on the grant prevents a second call.
CLAIM_TIME = timedelta(seconds=60)

_CLAIM, _FINISH = load(__file__, "claim"), load(__file__, "finish")
# A handled request is kept for a moment, because it enforces the least interval until the grant's next one. Rows that are
# locked are skipped: a reader may repeat a request in a transaction that it leaves open.
_DELETE_OVER = text("""
DELETE FROM refresh_requests WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM refresh_requests
    WHERE handled_at < now() - interval '10 seconds' OR (wanted_until < now() AND coalesce(claimed_until < now(), true))
    FOR UPDATE SKIP LOCKED))
""")


class RefreshRequest(NamedTuple):
    """One role's request for a grant's token with more life.

    Attributes:
        requested_at: a later time in the row means that it was requested again.
        min_ttl: seconds of life that the token must have left; 0 for the default.
        rejected_version: of the access token that an API refused; None if none was.
        resource, scope: what the token is for; both empty for the grant's own.
        request_id, traceparent: the app's, for log and trace.
    """

    grant_id: int
    requested_by: str
    requested_at: datetime
    min_ttl: float
    rejected_version: int | None = None
    resource: str = ""
    scope: str = ""
    request_id: str | None = None
    traceparent: str | None = None

    @property
    def target(self) -> TokenTarget:
        """What the token is for."""
        return TokenTarget(self.resource, self.scope)


async def claim(vault: Vault, tenants: Sequence[str], *, limit: int) -> list[RefreshRequest]:
    """Claim requests that are due, for ``CLAIM_TIME``."""
    values = {"tenants": list(tenants), "limit": limit, "claim": CLAIM_TIME}
    return [RefreshRequest._make(row[:9]) for row in await vault.run(_CLAIM, values)]


async def finish(vault: Vault, request: RefreshRequest) -> None:
    """Record the end of a request, and wake its readers.

    It stays due if it was requested again meanwhile.

    Raises:
        DBAPIError: the role that requested it keeps the row locked.
    """
    await vault.run(_FINISH, request._asdict())
    await wake(vault, [request.grant_id])


async def delete_over(vault: Vault) -> None:
    """Delete requests that were handled, or that nobody waits for."""
    await vault.run(_DELETE_OVER, {})
