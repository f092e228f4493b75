"""Answers on disk: whole or not at all, private, in order, and under the newest key."""

from __future__ import annotations

import json
import os
import resource
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault.claims import Claim
from worker.vault.claims.spool import Spool
from worker.vault.claims.spooled_answer import SpooledAnswer, encode

OLD_KEY, NEW_KEY = KeyRing.generate(), KeyRing.generate()
RING = KeyRing("refresh", [OLD_KEY])
ROTATED = KeyRing("refresh", [NEW_KEY, OLD_KEY])
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


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool in a folder that is not there yet."""
    return Spool(tmp_path / "home" / "spool", RING)


@pytest.fixture
def answer(spool: Spool) -> Path:
    """An answer in that spool."""
    spool.check()
    return save(spool)


def save(spool: Spool) -> Path:
    return spool.save(CLAIM, PAIR, obtained_at=NOON, due_at=NOON)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_check_makes_a_private_folder_and_leaves_it_empty(spool: Spool, tmp_path: Path) -> None:
    """Checked as often as one likes, the folder is the owner's alone and holds answers only."""
    for _ in range(2):
        spool.check()
    folder = tmp_path / "home" / "spool"
    assert mode(folder) == 0o700
    assert list(folder.iterdir()) == []
    assert mode(save(spool)) == 0o600


def test_a_folder_that_cannot_be_written_is_named(spool: Spool, tmp_path: Path) -> None:
    """Where no answer could be kept the check says which folder, and what to set."""
    (tmp_path / "home").touch()
    with pytest.raises(ConfigurationError, match=r"home/spool cannot be written .*TOKEN_VAULT_SPOOL"):
        spool.check()


def test_a_full_disk_is_found_before_a_request_is_sent(spool: Spool) -> None:
    """A file of an answer's size is written for a trial, and a part of one is no spool."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ConfigurationError, match="cannot be written"):
            spool.check()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_spool_without_a_folder_is_empty(spool: Spool) -> None:
    """Before anything was kept there is nothing to list."""
    assert spool.list_files() == []


def test_an_answer_that_is_set_aside_is_kept_but_not_stored(spool: Spool, answer: Path) -> None:
    """What Postgres refuses is among the files, and no answer any more."""
    rejected = spool.reject(answer)
    assert rejected == answer.with_suffix(".rejected")
    assert not answer.exists()
    assert (spool.list_files(), spool.list_answers()) == ([rejected], [])
    others = [save(spool) for _ in range(6)]
    set_aside = [spool.reject(path) for path in others[::2]]
    assert {*spool.list_files()} == {rejected, *set_aside, *others[1::2]}
    assert {*spool.list_answers()} == {*others[1::2]}


def test_an_answer_is_removed_once(spool: Spool, answer: Path) -> None:
    """Of two processes that store it one alone removes it, and it cannot be read any more."""
    assert spool.remove(answer)
    assert not spool.remove(answer)
    assert spool.read(answer) is None
    assert spool.key_index(answer) is None


@pytest.fixture
def unfinished(spool: Spool, answer: Path) -> Path:
    """A whole answer whose process was killed before it had its name."""
    return answer.rename(answer.with_name(f".{answer.name}.new"))


@pytest.mark.parametrize(("age", "is_left"), [(60.0, False), (60.25, True)])
def test_a_whole_answer_without_a_name_gets_it(
    spool: Spool, answer: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch, age: float, is_left: bool
) -> None:
    """What a killed process has left is published, and what another one is just writing is not."""
    os.utime(unfinished, (1000, 1000))
    monkeypatch.setattr(time, "time", lambda: 1000 + age)
    assert spool.list_answers() == ([answer] if is_left else [])
    assert unfinished.exists() is not is_left
    if is_left:
        assert spool.read(answer) == SpooledAnswer(answer, CLAIM, PAIR, NOON, NOON)


def test_half_an_answer_gets_no_name(spool: Spool, unfinished: Path) -> None:
    """A file that cannot be decrypted may be one of which only a part was written."""
    unfinished.write_bytes(unfinished.read_bytes()[:-1])
    os.utime(unfinished, (1, 1))
    assert spool.list_files() == []
    assert unfinished.exists()


@pytest.mark.parametrize("is_rejected", [False, True])
def test_an_answer_is_put_under_the_newest_key(spool: Spool, answer: Path, is_rejected: bool) -> None:
    """Encrypted anew it is as private and as old as before, and nothing is left beside it."""
    path = spool.reject(answer) if is_rejected else answer
    os.utime(path, ns=(1_234_567_891, 9_876_543_211))
    rotated = Spool(path.parent, ROTATED)
    assert (rotated.key_index(path), spool.key_index(path)) == (1, 0)
    assert rotated.reencrypt(path)
    assert rotated.key_index(path) == 0
    assert not rotated.reencrypt(path)
    with pytest.raises(CannotDecrypt):
        spool.key_index(path)
    assert (path.stat().st_mtime_ns, mode(path)) == (9_876_543_211, 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_new_copy_has_the_owner_of_the_old_one(answer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that another user runs takes no answer away from the workers."""
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, user, group: owners.append((user, group)))
    Spool(answer.parent, ROTATED).reencrypt(answer)
    assert owners == [(answer.stat().st_uid, answer.stat().st_gid)]


def test_an_answer_that_was_just_stored_is_not_encrypted_anew(
    answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker removes meanwhile does not come back, and leaves nothing behind."""
    rotated, write = Spool(answer.parent, ROTATED), Spool._write

    def write_and_lose(spool: Spool, path: Path, content: bytes, *, like: os.stat_result | None) -> Path:
        answer.unlink()
        return write(spool, path, content, like=like)

    monkeypatch.setattr(Spool, "_write", write_and_lose)
    assert not rotated.reencrypt(answer)
    assert list(answer.parent.iterdir()) == []
    assert not rotated.reencrypt(answer)


def test_leftovers_are_removed_and_answers_are_not(spool: Spool, answer: Path, unfinished: Path) -> None:
    """Of what a killed rotation has left, by either of its names, nothing stays; the answers do."""
    for suffix in ("reencrypted", "resealed"):
        unfinished.with_name(f".{answer.name}.1.{suffix}").touch()
    other = save(spool)
    spool.remove_leftovers()
    assert {*answer.parent.iterdir()} == {unfinished, other}


def test_leftovers_that_another_process_removes_are_no_trouble(
    spool: Spool, answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rotations that clear up at the same time clear up."""
    leftovers = [answer.with_name(f".{answer.name}.{number}.reencrypted") for number in range(2)]
    for path in leftovers:
        path.touch()
    unlink = Path.unlink

    def lose(path: Path, *, missing_ok: bool = False) -> None:
        for other in leftovers:
            unlink(other, missing_ok=True)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", lose)
    spool.remove_leftovers()
    assert list(answer.parent.iterdir()) == [answer]


def test_no_file_is_written_twice(spool: Spool, answer: Path) -> None:
    """A name that is taken is not written over."""
    with pytest.raises(FileExistsError):
        spool._write(answer, b"")


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/dev/fd").iterdir()}


def test_answers_leave_no_descriptor_open(spool: Spool, answer: Path) -> None:
    """However many answers a worker puts on disk, it does not run out of descriptors."""
    before = open_descriptors()
    save(spool)
    assert open_descriptors() == before


def test_what_has_no_text_is_refused() -> None:
    """A value that could not be read again is not written as something else."""
    with pytest.raises(TypeError, match="object"):
        encode(CLAIM, TokenPair(None, None, extra={"x": object()}), obtained_at=NOON, due_at=NOON)  # type: ignore[dict-item]
