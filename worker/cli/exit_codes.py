"""What the exit code of a command says."""

from __future__ import annotations

from enum import IntEnum

from token_vault.errors import ConfigurationError, VaultError


class ExitCode(IntEnum):
    """What a command's exit code says.

    Part of the public surface.

    Attributes:
        OK: what was asked for holds.
        FAILED: it does not hold.
        USAGE_ERROR: usage or configuration is wrong.
        INTERRUPTED: SIGINT, as shells count signals: 128 and the signal's number.
    """

    OK = 0
    FAILED = 1
    USAGE_ERROR = 2
    INTERRUPTED = 130

    @classmethod
    def of(cls, error: VaultError) -> ExitCode:
        """Return USAGE_ERROR for a configuration error, else FAILED."""
        return cls.USAGE_ERROR if isinstance(error, ConfigurationError) else cls.FAILED
