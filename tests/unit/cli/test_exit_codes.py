"""What commands say by their exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import token_vault.errors
import worker
from token_vault.errors import VaultError
from worker.auth0.errors import (
    Auth0Error,
    Auth0NotFound,
    Auth0RateLimited,
    Auth0Refused,
    Auth0Unreachable,
    MissingScope,
)
from worker.cli import main, output
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
    auth0: dict[type[VaultError], int] = {
        Auth0Error: 1, Auth0NotFound: 1, Auth0Refused: 2, MissingScope: 2, Auth0Unreachable: 6, Auth0RateLimited: 6,
    }  # fmt: skip
    assert {kind: ExitCode.of(kind.__new__(kind)) for kind in auth0} == auth0


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


def test_a_closed_pipe_fails_no_help() -> None:
    """`token-vault --help | head -1` ends as if all had been read."""
    reader, writer = os.pipe()
    os.close(reader)
    asked = [sys.executable, "-m", "worker.cli", "--help"]
    done = subprocess.run(asked, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    """The script asks the program itself by the variable that typer reads."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "token-vault" in script
    assert f"_TOKEN_VAULT_COMPLETE=complete_{shell}" in script


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """Bash gets the commands that begin so, and the options of a command."""
    program = tmp_path / "token-vault"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.argv[0] = \'token-vault\'; '
                       'from worker.cli import main; sys.exit(main())" "$@"\n')  # fmt: skip
    program.chmod(0o755)
    script = subprocess.run(
        [program, "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    for words, expected in (
        ("token-vault rec", "reconnect"),
        ("token-vault list --js", "--json --json-lines"),
    ):
        index = len(words.split()) - 1
        asked = f'{script}\nCOMP_WORDS=({words}); COMP_CWORD={index}; _token_vault_completion token-vault; echo "${{COMPREPLY[*]}}"'
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", asked], capture_output=True, text=True, check=True, env=os.environ | {"PATH": path}
        )
        assert done.stdout.strip() == expected, done.stderr


def test_what_is_broken_is_red_on_a_terminal() -> None:
    """States that need somebody are coloured; ``NO_COLOR`` and pipes get plain text."""
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        console = Console(
            file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm", **variables}
        )
        console.print(
            output.rich_table(
                ["state", "trouble"], [["blocked", ""], ["active", "no_client_secret"], ["active", ""]]
            )
        )
        blocked, troubled, fine = console.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]
        assert ("\x1b[1;31mblocked" in blocked, "\x1b[1;31mno_client" in troubled) == (coloured, coloured)
        assert "31m" not in fine


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written_is_told(options: list[str], tmp_path: Path) -> None:
    """On a full disk a command ends with one message and code 1, as nobody has what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTH0_")}
    environment["TOKEN_VAULT_HOME"] = str(tmp_path)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", "keys", "generate", *options],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "token-vault: standard output cannot be written (No space left on device): what was printed is lost or cut off\n"
    )
