"""Keeps answers on disk while Postgres cannot store them.

Each answer is one encrypted file, fsynced. Once the provider has answered, a rotated refresh token exists nowhere else.
So the spool must be writable before a request is sent, and an answer that cannot be committed is written to disk before
anything else is tried.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError
from token_vault.keyring import KeyRing
from worker.token_pair import TokenPair
from worker.vault.claims.claim import Claim
from worker.vault.claims.spooled_answer import SpooledAnswer, decode, encode

# A file that does not have its final name after this time was left by a process that died.
UNFINISHED_SECONDS = 60.0


class Spool:
    """A folder of answers, encrypted under the refresh ring.

    The folder has mode 0700, each file 0600.

    Args:
        folder: created if missing; on a disk that outlives the process.
        ring: the refresh ring.
    """

    def __init__(self, folder: Path, ring: KeyRing) -> None:
        self._folder = folder
        self._ring = ring

    def check(self) -> None:
        """Check that an answer could be written now.

        Raises:
            ConfigurationError: the folder cannot be written, or its disk is full.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(self._folder / f".{uuid4().hex}.check", b"\0" * 8192).unlink()
        except OSError as error:
            raise ConfigurationError(
                f"the spool {self._folder} cannot be written ({error.strerror}): no token is renewed until it can, as "
                "an answer that Postgres cannot take would be lost. Set TOKEN_VAULT_SPOOL to a folder on a lasting disk"
            ) from None

    def save(self, claim: Claim, pair: TokenPair, *, obtained_at: datetime, due_at: datetime) -> Path:
        """Write an answer to disk, fsynced; return its file."""
        name = f"{claim.id}-{uuid4().hex}"
        text = encode(claim, pair, obtained_at=obtained_at, due_at=due_at)
        ciphertext = self._ring.encrypt(_context(name), text)
        unfinished = self._write(self._folder / f".{name}.new", ciphertext)
        return self._publish(unfinished, self._folder / name)

    def list_answers(self) -> list[Path]:
        """Return the answers on disk, oldest first."""
        kept = []
        for path in self.list_files():
            if path.suffix:
                continue
            with suppress(FileNotFoundError):  # another process has just stored it
                kept.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(kept)]

    def _finish(self) -> None:
        """Publish complete answers that a killed process left unpublished."""
        for path in self._folder.glob(".*.new"):
            with suppress(FileNotFoundError, CannotDecrypt):
                if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    name = path.name.removeprefix(".").removesuffix(".new")
                    self._ring.decrypt(_context(name), path.read_bytes())
                    self._publish(path, self._folder / name)

    def read(self, path: Path) -> SpooledAnswer | None:
        """Decrypt one answer; None if it was just stored.

        Raises:
            CannotDecrypt: it was encrypted under a key that the refresh ring lacks.
        """
        try:
            ciphertext = path.read_bytes()
        except FileNotFoundError:
            return None
        return decode(path, self._ring.decrypt(_context(path.name), ciphertext))

    def list_files(self) -> list[Path]:
        """Return all answers on disk, including those that Postgres refused."""
        if not self._folder.is_dir():
            return []
        self._finish()
        return [path for path in self._folder.iterdir() if not path.name.startswith(".")]

    def key_index(self, path: Path) -> int | None:
        """Return which key encrypted an answer, 0 for the newest.

        None if another process has just stored it.

        Raises:
            CannotDecrypt: no key of the ring did, or the answer belongs to another file.
        """
        with suppress(FileNotFoundError):
            return self._ring.key_index(_context(path.stem), path.read_bytes())
        return None

    def reencrypt(self, path: Path) -> bool:
        """Encrypt an answer under the newest key, in one step.

        If a worker stores the answer in between, the file appears again, and storing it twice does no harm. The file
        keeps its owner, who may not be the user who runs this command, and its time, which orders the answers.

        Returns:
            False if it already is under the newest key, or was just stored.

        Raises:
            CannotDecrypt: no key of the ring decrypts it, or the answer belongs to another file.
        """
        fresh_file = self._folder / f".{path.name}.{uuid4().hex}.reencrypted"
        try:
            status = path.stat()
            fresh = self._ring.reencrypt(_context(path.stem), path.read_bytes())
            if fresh is None:
                return False
            self._write(fresh_file, fresh, like=status)
            path.stat()
            self._publish(fresh_file, path)
        except FileNotFoundError:
            return False
        finally:
            fresh_file.unlink(missing_ok=True)
        return True

    def remove_leftovers(self) -> None:
        """Remove copies that a killed ``reencrypt`` has left.

        The answers themselves are complete.
        """
        for suffix in ("reencrypted", "resealed"):  # version 0.1 used the second one
            for path in self._folder.glob(f".*.{suffix}"):
                path.unlink(missing_ok=True)

    def reject(self, path: Path) -> Path:
        """Rename an answer whose content Postgres refuses.

        It is kept for the operator.
        """
        return path.rename(path.with_suffix(".rejected"))

    def remove(self, path: Path) -> bool:
        """Remove an answer that is stored, or superseded.

        Returns:
            False if another process has already removed it.
        """
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _write(self, path: Path, content: bytes, *, like: os.stat_result | None = None) -> Path:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if like is not None:
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
                os.utime(file.fileno(), ns=(like.st_atime_ns, like.st_mtime_ns))
            os.fsync(file.fileno())
        return path

    def _publish(self, unfinished: Path, path: Path) -> Path:
        """Give a file its final name, and fsync the folder."""
        unfinished.rename(path)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path


def _context(name: str) -> EncryptionContext:
    return EncryptionContext("spool", (name,), "answer")
