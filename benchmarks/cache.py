"""Reads from a reader's cache, what its checks cost, and how soon a change is seen."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import suppress

from benchmarks.stage import Result, Stage, fill
from token_vault import TokenNotFound, TokenVault

GRANTS = 1000
ROUNDS = 5
UNCACHED_READS = 500
CACHED_READS = 50_000
CHECKS = 20
CHANGES = 10
TOKEN = "t" * 1800


def measure(stage: Stage) -> list[Result]:
    """Read the same tokens with a cache and without, in turn."""
    stage.empty()
    asyncio.run(fill(stage, GRANTS, TOKEN))
    stage.sql("ANALYZE grants")
    users = [f"auth0|{number}" for number in range(GRANTS)]
    with (
        TokenVault(stage.servers.database_url, [stage.access_key], cache=True) as cached,
        TokenVault(stage.servers.database_url, [stage.access_key]) as uncached,
    ):

        def read_cached(number: int) -> None:
            cached.user_token(users[number % GRANTS], "partner", min_ttl=60)

        def read_uncached(number: int) -> None:
            uncached.user_token(users[number % GRANTS], "partner", min_ttl=60)

        _fill_cache(cached, users)
        times = [
            (_seconds(read_cached, CACHED_READS), _seconds(read_uncached, UNCACHED_READS))
            for _ in range(ROUNDS)
        ]
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(bare / mine for mine, bare in times)
        check = _seconds(lambda _: _check(cached), CHECKS)
        seen = [_until_seen(stage, cached, users[number]) for number in range(CHANGES)]
    return [
        Result(
            "a read from the cache, audited", f"{ours * 1e6:.1f} µs", f"{theirs * 1e6:.0f} µs without a cache",
            f"{ratio:.0f}", "≥ 100", ratio >= 100,
        ),
        Result(f"… a check of {GRANTS:,} entries, twice a second", f"{check * 1000:.1f} ms", "", ""),
        Result(
            f"… until an erasure is seen, the longest of {CHANGES}", f"{max(seen) * 1000:.0f} ms", "", "",
            "< 1 s", max(seen) < 1,
        ),
    ]  # fmt: skip


def _fill_cache(vault: TokenVault, users: list[str]) -> None:
    """Read until all come from the cache."""
    while any(vault.user_token(user, "partner") is not vault.user_token(user, "partner") for user in users):
        time.sleep(0.1)


def _check(vault: TokenVault) -> None:
    assert vault._checks is not None
    assert vault._checks.check()


def _until_seen(stage: Stage, vault: TokenVault, user: str) -> float:
    vault.user_token(user, "partner")
    time.sleep(0.6)
    stage.sql("DELETE FROM grants WHERE user_id = %s", user)
    began = time.perf_counter()
    with suppress(TokenNotFound):
        while True:
            vault.user_token(user, "partner", wait=0)
    return time.perf_counter() - began


def _seconds(read: Callable[[int], None], times: int) -> float:
    began = time.perf_counter()
    for number in range(times):
        read(number)
    return (time.perf_counter() - began) / times
