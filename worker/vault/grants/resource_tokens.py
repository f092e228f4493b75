"""Access tokens of a grant for other resources or scopes."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text

from token_vault.token_target import TokenTarget
from worker.vault.db.sql import load
from worker.vault.vault import Vault

_RECORD_REFUSAL = load(__file__, "record_refusal")
_VERSION = text(
    "SELECT version FROM resource_tokens WHERE grant_id = :id AND resource = :resource AND scope = :scope"
)
# Calls for a grant's resource tokens in one interval. Each target has an interval of its own too, but an app can name any
# number of targets.
MAX_TARGET_CALLS = 16
CALL_INTERVAL = timedelta(minutes=1)
_CALLED_AT = text("""
SELECT called_at FROM (
    SELECT greatest(obtained_at, refused_at) AS called_at FROM resource_tokens
    WHERE grant_id = :id AND refusal_blame IS DISTINCT FROM 'denied') calls
ORDER BY called_at DESC OFFSET :calls - 1 LIMIT 1
""")


async def seconds_to_next_call(vault: Vault, grant_id: int, *, now: datetime) -> float:
    """Return seconds until a resource token may be requested."""
    rows = await vault.run(_CALLED_AT, {"id": grant_id, "calls": MAX_TARGET_CALLS})
    return max(0.0, (rows[0][0] + CALL_INTERVAL - now).total_seconds()) if rows else 0.0


async def read_version(vault: Vault, grant_id: int, target: TokenTarget) -> int:
    """Return the version of a target's token; 0 without one."""
    values = {"id": grant_id, "resource": target.resource, "scope": target.scope}
    rows = await vault.run(_VERSION, values)
    return int(rows[0][0]) if rows else 0


async def record_refusal(
    vault: Vault, grant_id: int, target: TokenTarget, *, code: str, blame: str, now: datetime
) -> None:
    """Record that a token for a target was refused.

    Args:
        code: of the refusal.
        blame: who has to act: ``user``, ``operator``, or ``denied`` if the operator's settings forbid the target.
    """
    values = {
        "id": grant_id, "resource": target.resource, "scope": target.scope, "code": code, "blame": blame, "now": now,
    }  # fmt: skip
    await vault.run(_RECORD_REFUSAL, values)
