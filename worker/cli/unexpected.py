"""Failures that no command foresees."""

from __future__ import annotations

import os

from token_vault.errors import VaultError


def explain_unexpected(error: Exception) -> VaultError:
    """Turn an unexpected failure into a VaultError.

    Its own text may hold anything, secrets too, and is left out.
    """
    import psycopg
    from sqlalchemy.exc import DBAPIError

    from token_vault.database_errors import failure
    from worker.vault.db.errors import explain

    if isinstance(error, DBAPIError):
        return explain(error)
    if isinstance(error, psycopg.Error):
        return failure(error)
    if isinstance(error, OSError) and error.filename is not None:
        return VaultError(f"{os.fsdecode(error.filename)}: {error.strerror}")
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
    return VaultError(f"unforeseen {type(error).__name__}{where}: please report it")
