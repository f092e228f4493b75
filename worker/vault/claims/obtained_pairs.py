"""Stores pairs that arrived together, in one statement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.token_pair import TokenPair
from worker.vault.claims.claim import Claim
from worker.vault.claims.outcome import encrypt_pair
from worker.vault.db.sql import load
from worker.vault.kept_connection import KeptConnection
from worker.vault.vault import Vault
from worker.vault.wakeups import wake

_STORE_PAIRS = load(__file__, "store_pairs")


@dataclass(frozen=True, slots=True)
class ObtainedPair:
    """A pair that came for a claim.

    Attributes:
        obtained_at: when the request was sent, on the database's clock.
        due_at: when the grant is next due.
        is_failing: tell that this grant's renewals bring no access token.
    """

    claim: Claim
    pair: TokenPair
    obtained_at: datetime
    due_at: datetime
    is_failing: bool = False


async def store_pairs(
    vault: Vault, obtained: Sequence[ObtainedPair], *, connection: KeptConnection | None = None
) -> set[int]:
    """Commit pairs in one statement, each under its own compare-and-swap.

    It stores the usual ones: the grant's own access token, under a claim that is still held.

    Args:
        connection: runs the statement; by default any of the pool's.

    Returns:
        The positions of the stored pairs. Call ``store_pair`` for the others: it decides each.
    """
    answers = [
        _as_json(vault, position, each)
        for position, each in enumerate(obtained)
        if each.claim.target.is_default and each.pair.access is not None
    ]
    if not answers:
        return set()
    stored = await (connection or KeptConnection(vault)).run(_STORE_PAIRS, {"answers": json.dumps(answers)})
    await wake(vault, [grant_id for _, grant_id, was_awaited in stored if was_awaited])
    return {position for position, _, _ in stored}


def _as_json(vault: Vault, position: int, obtained: ObtainedPair) -> dict[str, Any]:
    claim, pair = obtained.claim, obtained.pair
    access, refresh, extra = encrypt_pair(vault, claim, pair)
    return {
        "n": position, "id": claim.id, "user_id": claim.key.user_id, "owner": str(claim.owner),
        "access_version": claim.access_version, "refresh_version": claim.refresh_version,
        "access_ciphertext": access and access.decode(), "refresh_ciphertext": refresh and refresh.decode(),
        "extra_ciphertext": extra and extra.decode(), "scopes": pair.scopes, "expires_at": _text(pair.expires_at),
        "refresh_expires_at": _text(pair.refresh_expires_at), "consent_expires_at": _text(pair.consent_expires_at),
        "counted_consent_end": _text(pair.counted_consent_end),
        "obtained_at": _text(obtained.obtained_at), "due_at": _text(obtained.due_at),
    }  # fmt: skip


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
