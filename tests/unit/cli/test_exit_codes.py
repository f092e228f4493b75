"""What commands say by their exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import token_vault.errors
import worker
from token_vault.errors import VaultError
from worker.auth0.errors import Auth0Error
from worker.cli import main
from worker.cli.exit_codes import MEANINGS, ExitCode

ROOT = Path(__file__).parents[3]

ERRORS = {
    "ConfigurationError": 2,
    "CannotDecrypt": 2,
    "WrongContext": 2,
    "TokenNotFound": 3,
    "ReauthorizationRequired": 4,
    "MissingScopes": 4,
    "TokenExpired": 5,
    "TemporarilyUnavailable": 6,
    "AmbiguousAccount": 7,
    "AccessDenied": 8,
    "VaultError": 1,
}


def test_each_error_of_readers_has_its_code() -> None:
    """No error that a reader raises shares a code with another kind; other errors are 1."""
    kinds = {name: kind for name, kind in vars(token_vault.errors).items() if isinstance(kind, type)}
    found = {name: kind for name, kind in kinds.items() if issubclass(kind, VaultError)}
    assert {name: ExitCode.of(kind.__new__(kind)) for name, kind in found.items()} == ERRORS
    assert ExitCode.of(Auth0Error.__new__(Auth0Error)) == 1


def test_several_failures_of_one_kind_keep_its_code() -> None:
    """Failures of several kinds are a failure; successes beside a failure do not hide it."""
    assert ExitCode.of_several([ExitCode.OK]) == 0
    assert ExitCode.of_several([ExitCode.OK, ExitCode.USAGE_ERROR, ExitCode.USAGE_ERROR]) == 2
    assert ExitCode.of_several([ExitCode.USAGE_ERROR, ExitCode.EXPIRED]) == 1


def test_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """The help and the guide name each code with its meaning."""
    guide = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert set(MEANINGS) == set(ExitCode)
    for code, meaning in MEANINGS.items():
        assert f"| {int(code)} | {meaning} |\n" in guide
        assert f"{int(code)}  {meaning}" in [line.strip() for line in shown]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version and does nothing else."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"token-vault {worker.__version__}\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_closed_pipe_fails_no_command(options: list[str], tmp_path: Path) -> None:
    """Where nobody reads the output any more, as after `head`, a command still says what it did by its code."""
    reader, writer = os.pipe()
    os.close(reader)
    asked = ["plan", "--plan", "free", "--users", "500000", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTH0_")}
    environment["TOKEN_VAULT_HOME"] = str(tmp_path)
    try:
        for logins, code in (("10", 0), ("400000", 1)):
            done = subprocess.run(
                [sys.executable, "-m", "worker.cli", *asked, "--logins-per-day", logins, "--no-lists-carry-tokens"],
                env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == code, done.stderr
            assert "Broken" not in done.stderr
    finally:
        os.close(writer)
