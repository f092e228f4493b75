"""Claims: who may spend a refresh token, and what follows.

A claim is one committed row update, made before the request is sent: with an owner, and a deadline beyond the
longest possible call. It is also the journal. A claim found past its deadline means that its owner died or lost
the database after the request may have reached the provider: the grant is in doubt since that claim was made.

Outcomes are stored under compare-and-swap on the version of the very token that was spent, not on the claim's
owner: a late answer is still stored if nobody has replaced that token, and stores nothing if a newer login has.
"""

from worker.vault.claims.claim import (
    FORCE_INTERVAL,
    Claim,
    backoff_left,
    claim_due,
    claim_one,
    decrypt_access_token,
    decrypt_refresh_token,
    is_held,
    may_be_forced,
    unchanged_due_at,
)
from worker.vault.claims.obtained_pairs import ObtainedPair, store_pairs
from worker.vault.claims.order import count_ordered, order_renewals
from worker.vault.claims.outcome import end_early, mark_reused, release, release_unspent, store_pair
from worker.vault.claims.wait import mark_awaited, wait_for_release

__all__ = [
    "FORCE_INTERVAL",
    "Claim",
    "ObtainedPair",
    "backoff_left",
    "claim_due",
    "claim_one",
    "count_ordered",
    "decrypt_access_token",
    "decrypt_refresh_token",
    "end_early",
    "is_held",
    "mark_awaited",
    "mark_reused",
    "may_be_forced",
    "order_renewals",
    "release",
    "release_unspent",
    "store_pair",
    "store_pairs",
    "unchanged_due_at",
    "wait_for_release",
]
