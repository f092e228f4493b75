from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault.claims import Claim
from worker.vault.claims.spool import Spool
from worker.vault.claims.spooled_answer import SpooledAnswer

RING = KeyRing("refresh", [KeyRing.generate()])
AT = "2026-11-01T12:00:00+00:00"
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
OWNER = "aa28f9a4-5f8b-4f2c-8df4-3a5a6b3e8b6f"
# As version 0.1 wrote it, before the fields of a claim had the names of their columns.
BY_VERSION_0_1 = {
    "claim": {
        "id": 7, "key": {"tenant": "default", "connection": "c", "user_id": "c|1", "provider_user_id": "1"},
        "owner": OWNER, "began": AT, "until": AT, "state": "in_doubt", "access_sealed": None, "access_version": 3,
        "refresh_sealed": None, "refresh_version": 4, "expires_at": None, "doubt_since": AT, "attempts": 1,
        "obtained_at": None, "refresh_expires_at": AT, "last_read_at": None,
    },
    "pair": {
        "access": "access", "refresh": "refresh", "expires_at": AT, "refresh_expires_at": None, "scopes": ["a", "b"],
    },
    "obtained_at": AT, "due_at": AT,
}  # fmt: skip
CLAIM = Claim(
    id=7, key=GrantKey("default", "c", "c|1", "1"), owner=UUID(OWNER), claimed_at=NOON, until=NOON, state="in_doubt",
    access_ciphertext=None, access_version=3, refresh_ciphertext=None, refresh_version=4, expires_at=None,
    in_doubt_since=NOON, attempts=1, refresh_expires_at=NOON,
)  # fmt: skip
PAIR = TokenPair(Secret("access"), Secret("refresh"), NOON, None, ("a", "b"))


def test_an_answer_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """A file that a worker of version 0.1 left behind still gives its claim and its pair."""
    context = EncryptionContext("spool", ("7-left",), "answer")
    path = tmp_path / "7-left"
    path.write_bytes(RING.encrypt(context, Secret(json.dumps(BY_VERSION_0_1))))
    assert Spool(tmp_path, RING).read(path) == SpooledAnswer(path, CLAIM, PAIR, NOON, NOON)


def test_an_answer_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What is put on disk comes back whole."""
    spool = Spool(tmp_path, RING)
    for pair in (
        PAIR,
        TokenPair(None, Secret("refresh"), consent_expires_at=NOON, extra={"instance_url": "https://x"}),
    ):
        path = spool.save(CLAIM, pair, obtained_at=NOON, due_at=NOON)
        assert spool.read(path) == SpooledAnswer(path, CLAIM, pair, NOON, NOON)


def test_an_answer_is_synced_before_it_has_its_name_and_so_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves a whole answer or none: its content is on disk before its name, and then its name."""
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if is_folder else f"sync {os.fstat(descriptor).st_size > 100}")
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    spool = Spool(tmp_path, RING)
    spool.save(CLAIM, PAIR, obtained_at=NOON, due_at=NOON)
    assert steps == ["sync True", "rename", "sync folder"]


def test_answers_are_listed_oldest_first(tmp_path: Path) -> None:
    """The order is that of their times, whatever they are called."""
    spool = Spool(tmp_path, RING)
    paths = sorted(spool.save(CLAIM, PAIR, obtained_at=NOON, due_at=NOON) for _ in range(3))
    for path, second in zip(paths, (2, 3, 1), strict=True):
        os.utime(path, (second, second))
    assert spool.list_answers() == [paths[2], paths[0], paths[1]]
