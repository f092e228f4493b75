"""Secrets that a command prints, e.g. a key management client."""

from __future__ import annotations

import shlex
import subprocess

from token_vault.errors import ConfigurationError

# A key management service answers within a second; one that does not must not delay a start for long.
COMMAND_SECONDS = 30


def secret_from_command(command: str, name: str) -> str:
    """Run a command, and return what it prints.

    Args:
        command: split as a shell splits it, but not run by one.
        name: the setting that gave it.

    Raises:
        ConfigurationError: it fails, takes too long or prints nothing; its output is never shown.
    """
    found, problem = _run(command)
    # Raised here, where no variable holds the command's output.
    if problem:
        raise ConfigurationError(f"{name}: the command {problem}")
    return found


def _run(command: str) -> tuple[str, str]:
    """Return what the command prints, or what is wrong."""
    try:
        ran = subprocess.run(  # noqa: S603  # the operator's own command
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        printed = ran.stdout.decode("utf-8").strip()
    except subprocess.TimeoutExpired:
        return "", f"does not end within {COMMAND_SECONDS} s"
    except (OSError, ValueError, IndexError) as error:
        return "", f"cannot be run ({type(error).__name__})"
    if ran.returncode:
        return "", f"fails with exit code {ran.returncode}: run it by hand to see why"
    return printed, "" if printed else "prints nothing"
