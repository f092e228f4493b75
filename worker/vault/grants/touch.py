"""Updates of grants that change no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from token_vault.freshness import READ_NOTE_INTERVAL
from token_vault.grant_key import GrantKey
from worker.vault.db.sql import load
from worker.vault.grants.identities import identity_parameters
from worker.vault.vault import Vault

_TOUCH_OBSERVED = load(__file__, "touch_observed")


async def touch_observed(
    vault: Vault, identities: Sequence[tuple[GrantKey, datetime, datetime | None]]
) -> None:
    """Record when identities without tokens were last observed.

    Stored tokens are kept.

    Args:
        identities: of one tenant, each with ``updated_at`` and ``created_at`` of its user, as read by id.
    """
    if not identities:
        return
    values = identity_parameters(
        [key for key, _, _ in identities],
        updated_at=[updated_at for _, updated_at, _ in identities],
        created_at=[created_at for _, _, created_at in identities],
    )
    await vault.run(_TOUCH_OBSERVED, values | {"tenant": identities[0][0].tenant})


_RECORD_READ = text("""
UPDATE grants SET last_read_at = :now,
    due_at = CASE WHEN state = 'active' AND claim_owner IS NULL AND attempts = 0 THEN least(due_at, :due_at) ELSE due_at END
WHERE id = :id AND (last_read_at IS NULL OR last_read_at < :noted)
""")


async def record_read(vault: Vault, grant_id: int, *, now: datetime, due_at: datetime) -> None:
    """Record that a grant is read, and so not dormant.

    At most once in ``READ_NOTE_INTERVAL``.

    Args:
        due_at: when the grant is due now that it is kept fresh.
    """
    values = {"id": grant_id, "now": now, "noted": now - READ_NOTE_INTERVAL, "due_at": due_at}
    await vault.run(_RECORD_READ, values)
