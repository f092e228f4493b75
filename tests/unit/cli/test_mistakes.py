"""A tired operator's mistakes: each ends in words and the documented exit code, and does nothing by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bare_environment import set_home_alone
from tests.support.command_log import log_as_commands
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from worker.cli import main

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set, and the working directory is empty."""
    log_as_commands(monkeypatch)
    set_home_alone(monkeypatch, tmp_path / "home")
    monkeypatch.chdir(tmp_path)


def test_no_key_is_shown_beside_a_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A TOML file that does not parse is told before a consumer's key is made."""
    (tmp_path / "vault.toml").write_text("[consumers.x", encoding="utf-8")
    monkeypatch.setenv("TOKEN_VAULT_CONFIG", "vault.toml")
    assert main(["consumers", "key", "x"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, "is not valid TOML" in shown.err) == ("", True)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file or directory"), (b"\xff\n", "is not in UTF-8: save it as UTF-8")],
)
def test_a_file_of_grants_that_does_not_read_is_told(
    content: bytes | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says why, in the system's words."""
    if content:
        (tmp_path / "grants.jsonl").write_bytes(content)
    assert main(["import", "grants.jsonl"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "doctor", "migrate", "env"])
def test_a_home_that_is_no_folder_has_no_vault(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where TOKEN_VAULT_HOME names a file, the commands say that no vault runs there, and how to have one."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(tmp_path / "file"))
    assert main([command]) == 2
    assert f"no vault runs under {tmp_path / 'file'}: set it, or start one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["events", "--since", "soon"], "--since"),
        (["audit", "--since", "999999999d"], "--since"),
        (["list", "--expires-before", "2030"], "--expires-before"),
        (["pause", "--all", "--reason", "r", "--until", "24"], "--until"),
    ],
)
def test_a_wrong_time_is_named_by_its_option(
    arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told by the option that has it, with what may stand there."""
    assert main(arguments) == 2
    assert f"Invalid value for '{option}': give a time like" in capsys.readouterr().err


def test_a_read_that_fails_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where Postgres does not answer there is nothing to record, and nothing is said of it."""
    monkeypatch.setenv("DATABASE_URL", NOWHERE)
    monkeypatch.setenv("VAULT_ACCESS_KEYS", ACCESS_KEY.reveal())
    assert main(["get", "--admin", "c"]) == 6
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("token-vault: Postgres does not answer: the connection was refused")


def test_doctor_calls_no_wrong_key_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is none fails the check of keys."""
    monkeypatch.setenv("DATABASE_URL", NOWHERE)
    monkeypatch.setenv("VAULT_ACCESS_KEYS", "abc")
    monkeypatch.setenv("VAULT_REFRESH_KEYS", REFRESH_KEY.reveal())
    assert main(["doctor"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("keys ")]
    assert line.split()[1] == "fail"
    assert "VAULT_ACCESS_KEYS: key 1 of 1 is not a Fernet key" in line
