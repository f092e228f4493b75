"""Maintains the audit's partitions and its copy in a file.

Partitions are created for the coming months; the file has a JSON line for each record.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from token_vault.errors import ConfigurationError
from worker.vault.audit import records
from worker.vault.vault import Vault


async def keep_audit(vault: Vault, path: Path | None) -> int:
    """Maintain partitions, and append new records to the file.

    If a worker dies in between, some records are appended twice.

    Args:
        path: of the file; None for no copy.

    Returns:
        How many records were appended.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    await records.maintain(vault)
    if path is None:
        return 0

    async def append(batch: Sequence[dict[str, Any]]) -> None:
        await asyncio.to_thread(_append, path, batch)

    shipped = 0
    while count := await records.ship(vault, append):
        shipped += count
    return shipped


def _append(path: Path, batch: Sequence[dict[str, Any]]) -> None:
    """Append records, and return once they are on disk."""
    lines = "".join(json.dumps(record, default=_plain, ensure_ascii=False) + "\n" for record in batch)
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            with open(file, "wb", buffering=0, closefd=False) as opened:
                opened.write(lines.encode())
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigurationError(f"[audit] path: {path} cannot be written: {error.strerror}") from None


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is in no record")
