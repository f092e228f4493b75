"""Distinguishes the vault from its copies, by where it lives.

A copy has the same refresh tokens. Whichever uses one first invalidates the other's, so a copy sends nothing until the
operator has confirmed that the original is stopped.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.errors import ConfigurationError
from worker.vault.db.sql import load

FIND_DIFFERENCE = load(__file__, "location")
_RECORD = load(__file__, "record_location")

_DIFFERENCES = {
    "unrecorded": "its table vault_location is empty, as after a partial restore",
    "cluster": "it is in another Postgres cluster than the one where it was in use",
    "database": "it is in another database than the one where it was in use",
    "restored": "it was restored from a dump",
}


class CopiedVault(ConfigurationError):
    """The database is a copy; its original may run."""


def describe(code: str) -> str:
    """Say how this place differs from the recorded location."""
    return _DIFFERENCES[code]


def check(code: str | None) -> None:
    """Check that a database is not a copy.

    The copy of a whole disk shows no difference.

    Args:
        code: as ``FIND_DIFFERENCE`` returns it.

    Raises:
        CopiedVault: it is a copy, or may be one.
    """
    if code is not None:
        raise CopiedVault(
            f"this vault may be a copy: {describe(code)}. Two that renew the same grants end each other's refresh "
            "tokens, so nothing is sent from here. Where the first one is stopped for good, run `token-vault adopt`"
        )


async def record_location(connection: AsyncConnection) -> None:
    """Record that the vault lives here, in the caller's transaction."""
    await connection.execute(_RECORD)
