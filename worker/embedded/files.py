"""Folders and files that only their owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from token_vault.errors import ConfigurationError


def private_folder(path: Path, uid: int, gid: int = -1) -> None:
    """Make a folder private to its owner.

    An existing folder's permissions are corrected.

    Raises:
        ConfigurationError: it belongs to another user, or cannot be made private.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        if uid != os.geteuid() and path.lstat().st_uid == os.geteuid():
            os.chown(path, uid, gid, follow_symlinks=False)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
            raise ConfigurationError(
                f"{path} is not a folder of user {uid} (it belongs to user {found.st_uid}): "
                "give it back, or set TOKEN_VAULT_HOME to another folder"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be made a private folder of user {uid}: {error.strerror}. Start token-vault as an "
            "ordinary user with TOKEN_VAULT_HOME on a local disk, or set DATABASE_URL and REDIS_URL."
        ) from error


def write_private(path: Path, text: str) -> None:
    """Write a file private to its owner, atomically.

    At any time it has the whole old text or the whole new one.
    """
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    staged.replace(path)
