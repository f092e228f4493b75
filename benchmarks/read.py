"""Reads per second, against a bare driver and decryption."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import psycopg
from cryptography.fernet import Fernet

from benchmarks.stage import Result, Stage, fill
from token_vault import TokenVault

GRANTS = 1000
# Many short rounds in turn: what else the machine does falls on all three alike.
READS = 200
ROUNDS = 60
TOKEN = "t" * 1800
STATEMENT = "SELECT access_ciphertext, expires_at FROM grants WHERE user_id = %s AND connection = %s"


def measure(stage: Stage) -> list[Result]:
    """Read the same rows by ``TokenVault`` and by hand."""
    stage.empty()
    asyncio.run(fill(stage, GRANTS, TOKEN))
    users = [f"auth0|{number % GRANTS}" for number in range(READS)]
    fernet = Fernet(stage.access_key.reveal())
    with (
        TokenVault(stage.servers.database_url, [stage.access_key]) as vault,
        psycopg.connect(stage.servers.database_url.reveal(), autocommit=True) as connection,
    ):

        def bare(user: str, *, binary: bool) -> None:
            row = connection.execute(STATEMENT, (user, "partner"), prepare=True, binary=binary).fetchone()
            assert row is not None
            fernet.decrypt(row[0])

        def ours(user: str) -> None:
            vault.user_token(user, "partner", min_ttl=60)

        def plain(user: str) -> None:
            bare(user, binary=False)

        def binary(user: str) -> None:
            bare(user, binary=True)

        for warm_up in (ours, plain, binary):
            _rate(warm_up, users)
        rates = [(_rate(ours, users), _rate(plain, users), _rate(binary, users)) for _ in range(ROUNDS)]
    read, by_hand, best = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(mine / theirs for mine, theirs, _ in rates)
    return [
        Result(
            "reads a second, one connection", f"{read:.0f}/s", f"{by_hand:.0f}/s bare prepared SELECT + Fernet",
            f"{ratio:.2f}", "≥ 0.9", ratio >= 0.9,
        ),
        Result(
            "… against the same in binary format", f"{read:.0f}/s", f"{best:.0f}/s", f"{read / best:.2f}",
        ),
    ]  # fmt: skip


def _rate(read: Callable[[str], None], users: list[str]) -> float:
    began = time.perf_counter()
    for user in users:
        read(user)
    return len(users) / (time.perf_counter() - began)
