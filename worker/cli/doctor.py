"""``token-vault doctor``: what is wrong, and who mends it."""

from __future__ import annotations

from worker.cli import output
from worker.cli.options import Json


def doctor(as_json: Json = False) -> int:
    """Check everything the vault stands on."""
    return output.OK
