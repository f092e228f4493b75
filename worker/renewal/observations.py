"""Records what answers show of a provider, with its connection.

Observations only make renewal more careful.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from token_vault.secret import Secret
from worker.providers import Provider
from worker.renewal.concurrency import ConnectionLimiter
from worker.token_pair import TokenPair
from worker.vault.claims import Claim
from worker.vault.connections.observations import record_observations
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# Providers count in whole seconds, so an end that moves by less than this counts as unchanged.
MIN_EXTENSION = timedelta(seconds=10)
# A life counts as shorter than another only below this fraction of it.
SHORTER_LIFE = 0.9


async def record_from_pair(
    vault: Vault, limiter: ConnectionLimiter, claim: Claim, pair: TokenPair, *, spent: Secret | None
) -> None:
    """Record an answer's observations, if they are new.

    Args:
        limiter: of the connection; it keeps the observations that this run recorded last.
        claim: its ``claimed_at`` is when the request was sent.
        pair: the answer.
        spent: the refresh token that was sent.
    """
    observed = _observe(limiter, claim, pair, spent)
    if not any(observed.values()) or limiter.observed == observed:
        return
    limiter.observed = observed
    try:
        await record_observations(vault, tenant=claim.key.tenant, name=claim.key.connection, **observed)
    except (SQLAlchemyError, OSError) as error:  # the next answer gives the same observations
        log.warning("observation.record_failed", error=type(error).__name__)


async def record_from_loss(vault: Vault, claim: Claim, provider: Provider) -> None:
    """Record that a provider's grace is shorter than declared.

    Called when a token in doubt was refused, as it may have been within the declared grace.
    """
    if provider.grace and claim.in_doubt_since:
        lasted = (claim.claimed_at - claim.in_doubt_since).total_seconds()
        if lasted < provider.grace:
            await record_observations(
                vault, tenant=claim.key.tenant, name=claim.key.connection, grace=max(lasted, 0)
            )


def _observe(
    limiter: ConnectionLimiter, claim: Claim, pair: TokenPair, spent: Secret | None
) -> dict[str, Any]:
    """Return an answer's observations beyond the stored ones.

    The names are arguments of ``record_observations``.
    """
    stored, provider = limiter.connection.stored, limiter.connection.provider
    is_replaced = pair.refresh is not None and pair.refresh != spent
    observed: dict[str, Any] = {}
    if provider and not (provider.rotates or provider.keeps_old_refresh):
        observed["rotating"] = is_replaced
    life = pair.expires_at and pair.expires_at - claim.claimed_at
    if life and _is_shorter(life, stored.observed_life):
        observed["life"] = life
    refresh_life = _refresh_life(claim, pair) if is_replaced else None
    if refresh_life and _is_shorter(refresh_life, stored.observed_refresh_life):
        observed["refresh_life"] = refresh_life
    return observed


def _is_shorter(life: timedelta, shortest: timedelta | None) -> bool:
    return shortest is None or life < shortest * SHORTER_LIFE


def _refresh_life(claim: Claim, pair: TokenPair) -> timedelta | None:
    """Return how long new refresh tokens live, by this answer.

    None if the answer names the rest of the grant's life, which renewals do not extend: LinkedIn and Google count it down
    from the consent. Taken for the life of every refresh token, one user's last minutes would make all other grants be
    renewed each minute.
    """
    ends, before = pair.refresh_expires_at, claim.refresh_expires_at
    if ends is None or (before is not None and ends < before + MIN_EXTENSION):
        return None
    return ends - claim.claimed_at
