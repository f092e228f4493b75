"""Ciphertexts rotated per second, against cryptography and a bulk UPDATE."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psycopg
from cryptography.fernet import Fernet, MultiFernet

from benchmarks.stage import Result, Stage, fill
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.vault.rotation import rotate

GRANTS = 20_000
TOKEN = "t" * 1800
PAGE = 500
SEALED = "SELECT access_ciphertext FROM grants UNION ALL SELECT refresh_ciphertext FROM grants"


def measure(stage: Stage) -> list[Result]:
    """Rotate in memory, write back in bulk, then rotate in the vault."""
    stage.empty()
    asyncio.run(fill(stage, GRANTS, TOKEN))
    fresh = KeyRing.generate()
    by_hand, in_bulk = _by_hand(stage, fresh), _in_bulk(stage)
    url = stage.servers.database_url
    # Put back afterwards: other measurements open the same vault with the stage's own keys.
    there: rotate.Rings = {
        "access": KeyRing("access", [fresh, stage.access_key]),
        "refresh": KeyRing("refresh", [fresh, stage.refresh_key]),
    }
    back: rotate.Rings = {
        "access": KeyRing("access", [stage.access_key, fresh]),
        "refresh": KeyRing("refresh", [stage.refresh_key, fresh]),
    }
    began = time.perf_counter()
    reencrypted = sum(tally.reencrypted for tally in rotate.rotate(url, there, None))
    rate = reencrypted / (time.perf_counter() - began)
    began = time.perf_counter()
    counted = sum(tally.by_key.total() for tally in rotate.inspect(url, there, None))
    looked = counted / (time.perf_counter() - began)
    rotate.rotate(url, back, None)
    if reencrypted < 2 * GRANTS:
        raise SystemExit(f"{reencrypted} of {2 * GRANTS} ciphertexts were rotated")
    return [
        Result(
            "ciphertexts rotated a second, committed", f"{rate:.0f}/s",
            f"{by_hand:.0f}/s bare MultiFernet.rotate in memory", f"{rate / by_hand:.2f}",
        ),
        Result(
            "… against a bulk UPDATE", f"{rate:.0f}/s", f"{in_bulk:.0f}/s, {PAGE} rows a statement, as they are",
            f"{rate / in_bulk:.2f}",
        ),
        Result(
            "… against the slower of the two", f"{rate:.0f}/s", f"{min(by_hand, in_bulk):.0f}/s",
            f"{rate / min(by_hand, in_bulk):.2f}", "≥ 0.5", rate / min(by_hand, in_bulk) >= 0.5,
        ),
        Result("… and looked at once more, by `keys status`", f"{looked:.0f}/s", "", ""),
    ]  # fmt: skip


def _by_hand(stage: Stage, fresh: Secret) -> float:
    """Rotate both rings' ciphertexts as a script in memory does."""
    keys = [Fernet(key.reveal()) for key in (fresh, stage.access_key, stage.refresh_key)]
    rings = [MultiFernet([keys[0], keys[1]]), MultiFernet([keys[0], keys[2]])]
    with psycopg.connect(stage.servers.database_url.reveal()) as connection:
        sealed = [row[0] for row in connection.execute(SEALED, binary=True)]
    half = len(sealed) // 2
    began = time.perf_counter()
    for ring, part in zip(rings, (sealed[:half], sealed[half:]), strict=True):
        for each in part:
            ring.rotate(each)
    return len(sealed) / (time.perf_counter() - began)


def _in_bulk(stage: Stage) -> float:
    """Write all tokens back as they are, page by page, compared with nothing."""
    with psycopg.connect(stage.servers.database_url.reveal(), autocommit=True) as connection:
        written, began = 0, time.perf_counter()
        for column in ("access_ciphertext", "refresh_ciphertext"):
            rows = connection.execute(f"SELECT id, {column} FROM grants ORDER BY id", binary=True).fetchall()
            for page in _pages(rows):
                statement = f"""
                    UPDATE grants SET {column} = fresh
                    FROM unnest(%b::bigint[], %b::bytea[]) AS given(given_id, fresh) WHERE id = given_id
                """
                connection.execute(statement, [list(values) for values in zip(*page, strict=True)])
                written += len(page)
        return written / (time.perf_counter() - began)


def _pages(rows: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the rows in pages."""
    for first in range(0, len(rows), PAGE):
        yield rows[first : first + PAGE]
