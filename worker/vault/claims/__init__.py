"""Claims: who may spend a refresh token, and the outcome.

A claim is one row update, committed before the request is sent. It has an owner, and a deadline beyond the longest
possible call. It is also a journal: a claim that is found past its deadline shows that its owner died or lost the
database, when the request may already have reached the provider. The grant is then in doubt since that claim.

Outcomes are stored under compare-and-swap on the version of the token that was spent, not on the claim's owner. So a
late answer is still stored if nobody has replaced that token, and is dropped if a newer login has.
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
