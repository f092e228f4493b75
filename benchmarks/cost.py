"""Processor time and WAL of renewals and reads, beside loops by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
from cryptography.fernet import Fernet

from benchmarks.processes import cpu_seconds, postgres_pids
from benchmarks.stage import TENANT, Result, Stage
from token_vault import TokenVault
from worker.renewal.outcome import Outcome

GRANTS = 1000
READS = 5000
# Renewals of the loop by hand that are under way at a time.
AT_ONCE = 8

# What somebody would begin with: one row for a token, and an index on what is due.
TABLE = """
CREATE TABLE by_hand (
    id bigint PRIMARY KEY, access bytea, refresh bytea, expires_at timestamptz, due_at timestamptz, user_id text);
CREATE INDEX ON by_hand (due_at);
CREATE INDEX ON by_hand (user_id)
"""


@dataclass
class Cost:
    """What something took.

    Attributes:
        own, postgres: processor seconds of this process, and of Postgres.
        wal: bytes.
    """

    own: float = 0.0
    postgres: float = 0.0
    wal: int = 0


def measure(stage: Stage) -> list[Result]:
    """Renew and read by the vault and by hand, each in turn."""
    stage.add_users(GRANTS)
    return asyncio.run(_measure(stage))


async def _measure(stage: Stage) -> list[Result]:
    async with stage.worker() as runtime:
        await (await runtime.tenant_sync(TENANT)).sync_all()
        stage.emulation.configure_provider("custom", rotates=False)
        await runtime.engine.renew_due([TENANT])  # nothing is observed for the first time any more
        users = stage.users("partner")
        spent = str(stage.emulation.live(users[0], "partner")["refresh_token"])
        fernet = Fernet(Fernet.generate_key())
        stage.sql("DROP TABLE IF EXISTS by_hand")
        stage.sql(TABLE)
        _fill(stage, users, fernet, spent)
        by_hand = await _renew_by_hand(stage, fernet)
        stage.sql("UPDATE grants SET due_at = now()")
        with _costs(stage) as by_vault:
            outcomes = await runtime.engine.renew_due([TENANT])
        if outcomes != {Outcome.RENEWED: GRANTS}:
            raise SystemExit(f"not every renewal came through: {dict(outcomes)}")
    results = _compare("renewals", by_vault, by_hand, GRANTS)
    results += _compare("reads", _read_by_vault(stage, users), _read_by_hand(stage, users, fernet), READS)
    stage.sql("DROP TABLE by_hand")
    return results


def _compare(what: str, vault: Cost, by_hand: Cost, number: int) -> list[Result]:
    each = 1000 / number
    mine, theirs = vault.own + vault.postgres, by_hand.own + by_hand.postgres
    return [
        Result(
            f"processor seconds for a thousand {what}",
            f"{mine * each:.2f} s, {vault.postgres * each:.2f} of them in Postgres",
            f"{theirs * each:.2f} s by hand, {by_hand.postgres * each:.2f} of them in Postgres",
            f"{mine / theirs:.2f}",
        ),
        Result(
            f"WAL for a thousand {what}",
            f"{vault.wal * each / 1024:.0f} KiB",
            f"{by_hand.wal * each / 1024:.0f} KiB by hand",
            f"{vault.wal / by_hand.wal:.2f}" if by_hand.wal > READS else "",
        ),
    ]


@contextmanager
def _costs(stage: Stage) -> Iterator[Cost]:
    """Measure a block."""
    cost, pids = Cost(), postgres_pids(stage)
    wal, own, postgres = _wal(stage), time.process_time(), cpu_seconds(pids)
    yield cost
    cost.own = time.process_time() - own
    cost.postgres = cpu_seconds(postgres_pids(stage)) - postgres
    cost.wal = _wal(stage) - wal


def _wal(stage: Stage) -> int:
    with psycopg.connect(stage.servers.database_url.reveal(), autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


def _fill(stage: Stage, users: list[str], fernet: Fernet, spent: str) -> None:
    rows = [
        (number, fernet.encrypt(b"t" * 100), fernet.encrypt(spent.encode()), user)
        for number, user in enumerate(users)
    ]
    with psycopg.connect(stage.servers.database_url.reveal()) as connection:
        connection.cursor().executemany("INSERT INTO by_hand VALUES (%s, %s, %s, now(), now(), %s)", rows)


async def _renew_by_hand(stage: Stage, fernet: Fernet) -> Cost:
    """Renew each row, as a careful user would write it without claims."""
    url, left = stage.emulation.token_url("partner"), iter(range(GRANTS))

    async def renew(connection: psycopg.AsyncConnection, http: httpx.AsyncClient) -> None:
        for number in left:
            cursor = await connection.execute("SELECT refresh FROM by_hand WHERE id = %s", (number,))
            row = await cursor.fetchone()
            assert row is not None
            data = {
                "grant_type": "refresh_token", "refresh_token": fernet.decrypt(row[0]).decode(),
                "client_id": "bench", "client_secret": "bench-secret",
            }  # fmt: skip
            answer = (await http.post(url, data=data)).raise_for_status().json()
            ends = datetime.now(UTC) + timedelta(seconds=answer["expires_in"])
            await connection.execute(
                "UPDATE by_hand SET access = %s, expires_at = %s, due_at = %s WHERE id = %s",
                (fernet.encrypt(answer["access_token"].encode()), ends, ends - timedelta(minutes=5), number),
            )

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient())
        database = stage.servers.database_url.reveal()
        connections = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(database, autocommit=True))
            for _ in range(AT_ONCE)
        ]
        with _costs(stage) as cost:
            await asyncio.gather(*(renew(connection, http) for connection in connections))
    return cost


def _read_by_vault(stage: Stage, users: list[str]) -> Cost:
    with _costs(stage) as cost, TokenVault(stage.servers.database_url, [stage.access_key]) as vault:
        for number in range(READS):
            vault.user_token(users[number % GRANTS], "partner", min_ttl=60)
    return cost


def _read_by_hand(stage: Stage, users: list[str], fernet: Fernet) -> Cost:
    """Read without a record of it."""
    with (
        _costs(stage) as cost,
        psycopg.connect(stage.servers.database_url.reveal(), autocommit=True) as connection,
    ):
        for number in range(READS):
            row = connection.execute(
                "SELECT access, expires_at FROM by_hand WHERE user_id = %s",
                (users[number % GRANTS],),
                prepare=True,
            ).fetchone()
            assert row is not None
            fernet.decrypt(row[0])
    return cost
