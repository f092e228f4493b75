"""What answers show of a provider, kept with its connection: renewal becomes more careful by it, never bolder."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.providers import Provider
from worker.renewal.concurrency import ConnectionLimiter
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import Claim
from worker.vault.connections import stored as connections
from worker.vault.db.database import Vault

log = structlog.get_logger(__name__)

# An end that an answer puts off by less is the end of before, as providers count in whole seconds.
MIN_EXTENSION = timedelta(seconds=10)


async def record_from_pair(
    vault: Vault, limiter: ConnectionLimiter, claim: Claim, pair: TokenPair, sent_at: datetime
) -> None:
    """Keep what the answer has shown of its provider, where that is new."""
    stored, provider = limiter.connection.stored, limiter.connection.provider
    life = pair.expires_at and pair.expires_at - sent_at
    is_new = pair.refresh is not None and pair.refresh != claims.open_refresh(vault, claim)
    refresh_life = _refresh_life(claim, pair, sent_at) if is_new else None
    news: dict[str, Any] = {}
    if provider and not (provider.rotates or provider.keeps_old_refresh):
        news["rotating"] = is_new
    for name, seen, shown in (
        ("life", stored.observed_life, life), ("refresh_life", stored.observed_refresh_life, refresh_life)
    ):  # fmt: skip
        if shown and (seen is None or shown < seen * 0.9):  # lives that differ a little are no news
            news[name] = shown
    if any(news.values()) and limiter.observed != news:
        limiter.observed = news
        try:
            await connections.learn(vault, tenant=claim.key.tenant, name=claim.key.connection, **news)
        except (SQLAlchemyError, OSError) as error:  # the next answer shows it again
            log.warning("renew.unlearned", problem=type(error).__name__)


def _refresh_life(claim: Claim, pair: TokenPair, sent_at: datetime) -> timedelta | None:
    """How long a new refresh token lives; None for the rest of a grant's life, which no renewal makes longer.

    LinkedIn and Google count that down from consent: taken for a rule, one user's last minutes would have all
    others renewed each minute.
    """
    ends, before = pair.refresh_expires_at, claim.refresh_expires_at
    if ends is None or (before is not None and ends < before + MIN_EXTENSION):
        return None
    return ends - sent_at


async def record_from_loss(vault: Vault, claim: Claim, provider: Provider) -> None:
    """Keep how short a provider's grace was: a token in doubt was refused within what was said to be its grace."""
    if provider.grace and claim.in_doubt_since:
        lasted = (claim.claimed_at - claim.in_doubt_since).total_seconds()
        if lasted < provider.grace:
            await connections.learn(
                vault, tenant=claim.key.tenant, name=claim.key.connection, grace=max(lasted, 0)
            )
