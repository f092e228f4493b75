"""Bugs that the suite has to find, planted into the workers that it starts.

Each is a function that changes the production code in one process, before the suite's own points are attached.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLANTS: dict[str, Callable[[Path], None]] = {}


def _plant(change: Callable[[Path], None]) -> Callable[[Path], None]:
    PLANTS[change.__name__.strip("_").replace("_", "-")] = change
    return change


@_plant
def _answer_dropped(control: Path) -> None:
    """One rotated answer in a hundred is thrown away."""
    from worker.renewal.commit import AnswerCommitter
    from worker.renewal.outcome import Outcome

    storing = AnswerCommitter.store

    async def store(self: Any, claim: Any, pair: Any, **rest: Any) -> Outcome:
        if pair.refresh is not None and _count(control / "answers") % 100 == 0:
            return Outcome.RENEWED
        return await storing(self, claim, pair, **rest)

    AnswerCommitter.store = store  # type: ignore[method-assign]


def _count(path: Path) -> int:
    """Count through all processes: one byte in a file each."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, b".")
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


@_plant
def _commit_after_use(control: Path) -> None:
    """Claims are committed when their tokens were sent."""
    del control
    from contextlib import asynccontextmanager

    from worker.vault import claims
    from worker.vault.claims import claim as module

    class Late:
        """A vault whose statements are committed a while later."""

        def __init__(self, vault: Any) -> None:
            self._vault = vault

        @asynccontextmanager
        async def statement(self) -> Any:
            connection = await self._vault.engine.connect()
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            commits.add(asyncio.create_task(_commit(connection)))

    async def _commit(connection: Any) -> None:
        try:
            await asyncio.sleep(0.3)
            await connection.commit()
        finally:
            await connection.close()

    commits = set[asyncio.Task[None]]()
    for name in ("claim_due", "claim_one"):
        claiming = getattr(module, name)

        async def late(vault: Any, *args: Any, claiming: Any = claiming, **rest: Any) -> Any:
            return await claiming(Late(vault), *args, **rest)

        setattr(claims, name, late)


def _change_sql(module: Any, name: str, old: str, new: str) -> None:
    from sqlalchemy import text

    before = str(getattr(module, name))
    assert old in before, f"{name} has changed: the bug cannot be planted"
    setattr(module, name, text(before.replace(old, new)))


@_plant
def _claim_without_compare(control: Path) -> None:
    """A grant is claimed by id though another holds it."""
    del control
    from worker.vault.claims import claim

    _change_sql(claim, "_CLAIM_ONE", "AND (claim_until IS NULL OR claim_until <= :now)", "")
    compared = "AND access_version = coalesce(CAST(:expected_access_version AS bigint), access_version)"
    # The parameter stays, compared with nothing.
    _change_sql(
        claim, "_CLAIM_ONE", compared, "AND coalesce(CAST(:expected_access_version AS bigint), 0) >= 0"
    )
    _deceive_database(claim, "_CLAIM_ONE")


@_plant
def _early_takeover(control: Path) -> None:
    """A claimed grant is claimed again after an eighth of its claim."""
    del control
    from worker.vault.claims import claim

    _change_sql(
        claim,
        "_CLAIM_DUE",
        "AND (claim_until IS NULL OR claim_until <= :now)",
        "AND (claim_until IS NULL OR claimed_at + (claim_until - claimed_at) / 8 <= :now)",
    )
    _deceive_database(claim, "_CLAIM_DUE")


def _deceive_database(module: Any, name: str) -> None:
    """Date claims so that the database takes an earlier one for ended."""
    later = "claimed_at = greatest(CAST(:now AS timestamptz), claim_until)"
    _change_sql(module, name, "claimed_at = :now", later)


@_plant
def _spool_not_synced(control: Path) -> None:
    """A spooled answer is in the page cache alone."""
    del control
    import worker.vault.claims.spool

    class Unsynced:
        """The module ``os``, but for one function."""

        def __getattr__(self, name: str) -> Any:
            return (lambda descriptor: None) if name == "fsync" else getattr(os, name)

    module: Any = worker.vault.claims.spool
    module.os = Unsynced()


@_plant
def _doubt_forgotten(control: Path) -> None:
    """Who takes over a dead worker's claim takes its token for good."""
    del control
    from worker.vault.claims import claim

    for name in ("_CLAIM_DUE", "_CLAIM_ONE"):
        _change_sql(claim, name, "ELSE coalesce(in_doubt_since, claimed_at) END", "ELSE in_doubt_since END")


@_plant
def _stale_copy_taken(control: Path) -> None:
    """What Auth0 shows is stored however old it is."""
    del control
    import worker.vault.ingest.ingest
    from worker.vault.ingest.freshness import Freshness

    def compare_freshness(stored: Any, incoming: Any, now: Any) -> Freshness:
        del stored, now
        return Freshness(access=incoming.access is not None, refresh=incoming.refresh is not None)

    ingest: Any = worker.vault.ingest.ingest
    ingest.compare_freshness = compare_freshness
    _change_sql(ingest, "_FIND_CHANGED", "WHERE coalesce(", "WHERE true OR coalesce(")


@_plant
def _death_not_told(control: Path) -> None:
    """A grant dies without an event."""
    del control
    from sqlalchemy import text

    from worker.vault import claims

    releasing = claims.release
    told = text("UPDATE grants SET reported_trouble = 'grant.reauthorization_required' WHERE id = :id")

    async def release(vault: Any, claim: Any, **rest: Any) -> bool:
        if rest.get("state") == "reauthorization_required":
            await vault.run(told, {"id": claim.id})
        return await releasing(vault, claim, **rest)

    claims.release = release
