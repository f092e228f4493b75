"""Users per second in a full sync, against loops."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
from cryptography.fernet import Fernet

from benchmarks.stage import TENANT, Result, Stage
from worker.runtime import Runtime

USERS = 5000
ROUNDS = 3

# What somebody would begin with: a row for each token pair, a hash that tells whether it is the same, one index.
TABLE = """
DROP TABLE IF EXISTS synced_by_hand;
CREATE TABLE synced_by_hand (
    user_id text, connection text, access bytea, refresh bytea, hash bytea, due_at timestamptz DEFAULT now(),
    PRIMARY KEY (user_id, connection));
CREATE INDEX ON synced_by_hand (due_at)
"""


def measure(stage: Stage) -> list[Result]:
    """Sync into an empty vault, then again with nothing changed."""
    stage.add_users(USERS)
    return asyncio.run(_measure(stage))


async def _measure(stage: Stage) -> list[Result]:
    first, again, bare, new_by_hand, same_by_hand = [], [], [], [], []
    async with stage.worker() as runtime:
        for _ in range(ROUNDS):
            bare.append(await _rate(stage, by_hand=False))
            stage.sql("TRUNCATE grants, connections CASCADE")
            first.append(await _sync(runtime))
            again.append(await _sync(runtime))
            stage.sql(TABLE)
            new_by_hand.append(await _rate(stage, by_hand=True))
            same_by_hand.append(await _rate(stage, by_hand=True))
    stage.sql("DROP TABLE synced_by_hand")
    pages = statistics.median(bare)
    results = []
    for what, rates, wanted, loop, by_hand in (
        ("all new", first, 0.3, "encrypts and inserts", new_by_hand),
        ("none changed", again, 0.5, "hashes and compares", same_by_hand),
    ):
        rate, theirs = statistics.median(rates), statistics.median(by_hand)
        results += [
            Result(
                f"users a second, full sync ({what})", f"{rate:.0f}/s", f"{pages:.0f}/s bare page loop",
                f"{rate / pages:.2f}", f"≥ {wanted}", rate / pages >= wanted,
            ),
            Result(
                f"… against a loop that {loop}", f"{rate:.0f}/s",
                f"{theirs:.0f}/s, {theirs / pages:.2f} of the bare page loop", f"{rate / theirs:.2f}",
            ),
        ]  # fmt: skip
    return results


async def _sync(runtime: Runtime) -> float:
    sync = await runtime.tenant_sync(TENANT)
    began = time.perf_counter()
    report = await sync.sync_all()
    if report.seen != USERS or not report.ok:
        raise SystemExit(f"the sync did not see every user: {report}")
    return USERS / (time.perf_counter() - began)


async def _rate(stage: Stage, *, by_hand: bool) -> float:
    """Read page after page, as a user would write it.

    Args:
        by_hand: store what is read.
    """
    fernet, seen, began = Fernet(Fernet.generate_key()), 0, time.perf_counter()
    async with await psycopg.AsyncConnection.connect(stage.servers.database_url.reveal()) as connection:
        async for users in _pages(stage):
            if by_hand:
                await _store(connection, users, fernet)
            seen += len(users)
    return seen / (time.perf_counter() - began)


async def _pages(stage: Stage) -> AsyncIterator[list[dict[str, Any]]]:
    emulation = stage.emulation
    async with httpx.AsyncClient(base_url=emulation.base_url, timeout=60) as http:
        grant = {
            "grant_type": "client_credentials", "client_id": emulation.client_id,
            "client_secret": emulation.client_secret, "audience": emulation.audience,
        }  # fmt: skip
        token = (await http.post("/oauth/token", json=grant)).raise_for_status().json()["access_token"]
        for page in range(USERS // 100):
            answer = await http.get(
                "/api/v2/users",
                params={"per_page": 100, "page": page, "include_totals": "true", "sort": "created_at:1"},
                headers={"Authorization": f"Bearer {token}"},
            )
            yield answer.raise_for_status().json()["users"]


async def _store(connection: psycopg.AsyncConnection, users: list[dict[str, Any]], fernet: Fernet) -> None:
    """Insert the token pairs whose hash is not stored yet."""
    cursor = await connection.execute(
        "SELECT user_id, connection, hash FROM synced_by_hand WHERE user_id = ANY(%s)",
        ([user["user_id"] for user in users],),
        binary=True,
    )
    stored = {(user, name): known async for user, name, known in cursor}
    rows = []
    for user in users:
        for identity in user["identities"]:
            access, refresh = identity["access_token"].encode(), identity["refresh_token"].encode()
            key, pair = (user["user_id"], identity["connection"]), hashlib.sha256(access + refresh).digest()
            if stored.get(key) != pair:
                rows.append((*key, fernet.encrypt(access), fernet.encrypt(refresh), pair))
    if rows:
        copying = cursor.copy("COPY synced_by_hand (user_id, connection, access, refresh, hash) FROM STDIN")
        async with copying as copy:
            for row in rows:
                await copy.write_row(row)
    await connection.commit()
