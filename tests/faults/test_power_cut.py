"""What the fault suite leaves of a spool when it cuts the power."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.injection import drop_unsynced
from tests.faults.journal import Journal
from tests.faults.points import note_syncs


def write_synced(folder: Path, name: str) -> None:
    """Write a file as the spool does: content, name, and both synced."""
    with (folder / f".{name}.new").open("wb") as file:
        file.write(b"answer")
        file.flush()
        os.fsync(file.fileno())
    (folder / f".{name}.new").rename(folder / name)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_unsynced(folder: Path, name: str) -> None:
    """Write a file, and leave it to the page cache."""
    (folder / name).write_bytes(b"answer")


def write_without_content(folder: Path, name: str) -> None:
    """Sync the name alone."""
    write_unsynced(folder, name)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("write", "left"),
    [(write_synced, b"answer"), (write_without_content, b""), (write_unsynced, None)],
)
def test_a_power_cut_leaves_what_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None], left: bytes | None
) -> None:
    """A file whose content was not synced is empty after it, and one whose name was not is gone."""
    monkeypatch.setattr(os, "fsync", os.fsync)  # given back at the end
    note_syncs(Journal(tmp_path / "journal", "worker"))
    spool = tmp_path / "spool"
    spool.mkdir()
    write(spool, "7-answer")
    drop_unsynced([spool / "7-answer"], tmp_path / "journal")
    path = spool / "7-answer"
    assert (path.read_bytes() if path.exists() else None) == left
