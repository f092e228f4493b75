"""Keys that a command prints, as the client of a key management service does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.tracebacks import rendered
from token_vault.environment import read_secret
from token_vault.errors import ConfigurationError
from token_vault.keyring import KeyRing
from worker.settings import load

CANARY = "canary-Zk3vN8qLw0aB1cD2eF3gH4iJ5kL6mN7o"


def printing(folder: Path, program: str) -> str:
    """A command that runs this program; its path has a blank."""
    script = folder / "a program.py"
    script.write_text(program, encoding="utf-8")
    return f"{sys.executable} '{script}'"


def test_a_command_gives_the_rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and readers have the keys that the command prints, one a line."""
    keys = [KeyRing.generate() for _ in range(2)]
    lines = "\\n".join(key.reveal() for key in keys)
    command = printing(tmp_path, f"print('{lines}')")
    monkeypatch.setenv("VAULT_ACCESS_KEYS_COMMAND", command)
    monkeypatch.setenv("VAULT_REFRESH_KEYS_COMMAND", command)
    settings = load()
    assert list(settings.access_keys) == keys == list(settings.refresh_keys)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (f"print('{CANARY}'); raise SystemExit(3)", "fails with exit code 3"),
        (f"import sys; sys.exit('{CANARY}')", "fails with exit code 1"),
        ("", "prints nothing"),
        ("import sys; sys.stdout.buffer.write(b'\\xff" + CANARY + "')", "cannot be run"),
    ],
)
def test_a_command_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    """The setting is named, and nothing of what the command printed is shown."""
    monkeypatch.setenv("VAULT_ACCESS_KEYS_COMMAND", printing(tmp_path, program))
    with pytest.raises(ConfigurationError, match=f"VAULT_ACCESS_KEYS_COMMAND: the command {said}") as failed:
        read_secret("VAULT_ACCESS_KEYS")
    assert CANARY not in rendered(failed.value)


@pytest.mark.parametrize(
    ("command", "said"), [(f"/none/{CANARY}", "cannot be run"), ("sleep 60", "does not end within 0 s")]
)
def test_a_command_that_is_not_there_or_hangs_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    """A key may have been given in the command's place; a start is not held up without end."""
    monkeypatch.setattr("token_vault.secret_command.COMMAND_SECONDS", 0)
    monkeypatch.setenv("VAULT_ACCESS_KEYS_COMMAND", command)
    with pytest.raises(ConfigurationError, match=said) as failed:
        read_secret("VAULT_ACCESS_KEYS")
    assert CANARY not in str(failed.value)


def test_two_sources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring has one source."""
    monkeypatch.setenv("VAULT_ACCESS_KEYS", CANARY)
    monkeypatch.setenv("VAULT_ACCESS_KEYS_COMMAND", "true")
    with pytest.raises(
        ConfigurationError, match="both VAULT_ACCESS_KEYS and VAULT_ACCESS_KEYS_COMMAND are set"
    ):
        read_secret("VAULT_ACCESS_KEYS")


def test_no_other_secret_comes_from_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the rings do: a variable of another program is not run."""
    monkeypatch.setenv("REDIS_URL_COMMAND", "false")
    assert read_secret("REDIS_URL") is None
