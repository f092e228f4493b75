"""Leases: named work that one process does at a time.

A lease is a row, which readers' roles cannot write. An advisory lock would not do: any role may take it, and hold it
without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from token_vault.errors import TemporarilyUnavailable
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# After the death of its holder, a lease is free again after this time.
LEASE_SECONDS = 15.0
# The interval of extensions: several attempts fit into a lease, so that one lost connection does not end the work.
EXTEND_SECONDS = 3.0
# How often a waiting process checks whether the lease is free.
POLL_SECONDS = 0.25
# The longest wait, while the holder reads a tenant's connections, or mints a token.
MAX_WAIT_SECONDS = 90.0

# The caller's own row counts as free, because the statement runs twice if its first answer is lost.
_TAKE = text("""
INSERT INTO leases AS l (name, owner, held_until) VALUES (:name, :owner, clock_timestamp() + make_interval(secs => :life))
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, held_until = excluded.held_until
    WHERE l.held_until <= clock_timestamp() OR l.owner = excluded.owner
RETURNING owner
""")
_EXTEND = text("""
UPDATE leases SET held_until = clock_timestamp() + make_interval(secs => :life)
WHERE name = :name AND owner = :owner RETURNING owner
""")
_RELEASE = text("DELETE FROM leases WHERE name = :name AND owner = :owner")


@asynccontextmanager
async def lease(vault: Vault, name: str, *, wait: float = MAX_WAIT_SECONDS) -> AsyncIterator[None]:
    """Wait for a lease, and hold it within the block.

    Args:
        wait: the most seconds to wait.

    Raises:
        TemporarilyUnavailable: another process held it for all that time, or it was lost.
    """
    until = asyncio.get_running_loop().time() + wait
    while True:
        async with try_lease(vault, name) as is_held:
            if is_held:
                yield
                return
        if asyncio.get_running_loop().time() >= until:
            raise TemporarilyUnavailable(f"another process is still at the {name}", POLL_SECONDS)
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def try_lease(vault: Vault, name: str) -> AsyncIterator[bool]:
    """Hold a lease; yield False if another process does.

    The block is cancelled if the lease cannot be extended before its end.

    Raises:
        TemporarilyUnavailable: the lease was lost.
    """
    values = {"name": name, "owner": uuid4().hex, "life": LEASE_SECONDS}
    began = asyncio.get_running_loop().time()
    if not await vault.run(_TAKE, values):
        yield False
        return
    end = asyncio.timeout_at(began + LEASE_SECONDS)
    extending: asyncio.Task[None] | None = None
    try:
        async with end:
            extending = asyncio.create_task(_extend(vault, values, end))
            yield True
    except TimeoutError:
        if not end.expired():
            raise
        lost = TemporarilyUnavailable(f"another process may have taken over the {name}", LEASE_SECONDS)
        raise lost from None
    finally:
        if extending is not None:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)
        try:
            await vault.run(_RELEASE, values)
        except SQLAlchemyError as error:  # the lease ends by itself
            log.warning("lease.return_failed", lease=name, error=type(error).__name__)


async def _extend(vault: Vault, values: dict[str, object], end: asyncio.Timeout) -> None:
    """Extend a lease until cancelled or lost."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(EXTEND_SECONDS)
        began = loop.time()
        try:
            is_held = bool(await vault.run(_EXTEND, values))
        except (SQLAlchemyError, OSError) as error:
            log.warning("lease.extension_failed", lease=values["name"], error=type(error).__name__)
            continue
        if end.expired():
            return
        end.reschedule(began + LEASE_SECONDS if is_held else loop.time())
        if not is_held:
            return
