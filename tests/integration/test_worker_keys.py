"""Workers and their keys: refused at the start, replaced while they run, and never in a core dump."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulators.client import Emulation
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.processes import Site, site
from tests.support.wait import WAIT_SECONDS, until
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker import embedded
from worker.vault.vault import Vault

USER = "google-oauth2|1111"
QUIET = "renew = 600\nchanges = 600"


@pytest.fixture
def here(
    servers: embedded.Servers,
    database_url: Secret,
    redis_url: Secret,
    vault: Vault,
    tenant: Emulation,
    tmp_path: Path,
) -> Iterator[Site]:
    """A vault of these keys, and no process yet."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_user(USER, [{"connection": "google-oauth2"}])
    with site(servers, tenant, tmp_path, schedule=QUIET) as made:
        yield made


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"VAULT_REFRESH_KEYS": KeyRing.generate()}, "refresh ring does not open this vault"),
        ({"VAULT_ACCESS_KEYS": KeyRing.generate()}, "access ring does not open this vault"),
        ({"VAULT_ACCESS_KEYS": REFRESH_KEY}, "is in the other ring too"),
        ({"VAULT_REFRESH_KEYS": Secret("short")}, "key 1 of 1 is not a Fernet key"),
    ],
)
def test_a_worker_with_wrong_keys_does_not_start(here: Site, keys: dict[str, Secret], said: str) -> None:
    """It ends with exit code 2, and its log names the ring."""
    here.environment |= {name: key.reveal() for name, key in keys.items()}
    worker = here.worker("w", "interactive", ready=False)
    until(lambda: not worker.running, "the worker ends")
    assert worker.terminate() == 2
    assert said in worker.log
    assert "ready." not in worker.log


def test_a_beat_with_unsafe_keys_does_not_start(here: Site) -> None:
    """Beat needs no key; where it has both rings, it refuses what workers refuse."""
    here.environment["VAULT_ACCESS_KEYS"] = REFRESH_KEY.reveal()
    beat = here.beat()
    until(lambda: not beat.running, "beat ends")
    assert beat.terminate() == 2
    assert "is in the other ring too" in beat.log


def test_new_keys_are_taken_by_sighup(here: Site, tmp_path: Path, sql: Any) -> None:
    """A worker encrypts under the new key after SIGHUP, without a restart, and keeps its keys where the new are wrong."""
    new = KeyRing.generate()
    for name, key in (("ACCESS", ACCESS_KEY), ("REFRESH", REFRESH_KEY)):
        del here.environment[f"VAULT_{name}_KEYS"]
        here.environment[f"VAULT_{name}_KEYS_FILE"] = str(tmp_path / name)
        (tmp_path / name).write_text(key.reveal(), encoding="utf-8")
    worker = here.worker("w", "interactive,sync,renew")
    core = next(
        line for line in Path(f"/proc/{worker.pid}/limits").read_text().splitlines() if "core" in line
    )
    assert core.split()[4:6] == ["0", "0"]
    here.ask(("worker.sync_user", "sync", {"user_id": USER}))

    (tmp_path / "ACCESS").write_text(KeyRing.generate().reveal(), encoding="utf-8")
    worker.signal(signal.SIGHUP)
    worker.says("keys.refused", WAIT_SECONDS)
    (tmp_path / "ACCESS").write_text(f"{new.reveal()}\n{ACCESS_KEY.reveal()}", encoding="utf-8")
    worker.signal(signal.SIGHUP)
    worker.says("keys.reloaded", WAIT_SECONDS)

    asked = {"user_id": USER, "connection": "google-oauth2", "force": True}
    [refreshed] = here.ask(("worker.refresh_token", "interactive", asked))
    assert refreshed["renewed"]
    [row] = sql("SELECT * FROM grants")
    context = EncryptionContext.of_access_token(
        GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"]),
        row["access_version"],
        row["expires_at"],
    )
    assert KeyRing("access", [new]).decrypt(context, row["access_ciphertext"])
    assert worker.log.count("ready.") == 1
