"""Ciphertexts rotated per second, against ``MultiFernet.rotate`` in memory."""

from __future__ import annotations

import asyncio
import time

import psycopg
from cryptography.fernet import Fernet, MultiFernet

from benchmarks.stage import Result, Stage, fill
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.vault.rotation import rotate

GRANTS = 20_000
TOKEN = "t" * 1800
SEALED = "SELECT access_ciphertext FROM grants UNION ALL SELECT refresh_ciphertext FROM grants"


def measure(stage: Stage) -> list[Result]:
    """Rotate the same ciphertexts in memory, then in the vault."""
    stage.empty()
    asyncio.run(fill(stage, GRANTS, TOKEN))
    fresh = KeyRing.generate()
    by_hand = _by_hand(stage, fresh)
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
