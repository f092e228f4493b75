"""``token-vault consumers`` and ``token-vault audit``, over a real database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_log import log_as_commands
from tests.support.readers import Rows, Sql
from tests.support.role_members import NewMember, role_members
from token_vault.secret import Secret
from worker.cli import main
from worker.consumer_rules import hash_api_key
from worker.vault.vault import Vault

Run = Callable[..., tuple[int, str, str]]

CALENDAR = '[consumers.calendar]\nrole = "app_calendar"\nconnections = ["custom"]\n'


@pytest.fixture
def new_member(database_url: Secret) -> Iterator[NewMember]:
    """Makes members of the vault's roles."""
    with role_members(database_url) as make:
        yield make


@pytest.fixture
def run(environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; returns its exit code, its output and its notices."""
    log_as_commands(monkeypatch)

    def ran(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def document(ran: tuple[int, str, str]) -> Any:
    assert ran[0] == 0, ran
    return json.loads(ran[1])


def test_consumers_are_those_of_the_file(run: Run, environment: Path) -> None:
    """``apply`` writes them, says what changed and what their roles need, and ``list`` shows them."""
    environment.write_text(CALENDAR)
    code, out, err = run("consumers", "apply")
    assert (code, out) == (0, "added calendar\n")
    assert "CREATE ROLE \"app_calendar\" LOGIN PASSWORD '…' CONNECTION LIMIT 60 IN ROLE vault_reader;" in err
    (listed,) = document(run("consumers", "list", "--json"))["consumers"]
    assert (listed["name"], listed["connections"], listed["admins"]) == ("calendar", ["custom"], False)
    environment.write_text("")
    assert document(run("migrate", "--json"))["left_to_run"] == []
    assert len(document(run("consumers", "list", "--json"))["consumers"]) == 1
    assert document(run("consumers", "apply", "--json"))["removed"] == ["calendar"]


def test_migrate_applies_the_file(run: Run, environment: Path) -> None:
    """After ``migrate`` the consumers of the file are in force."""
    environment.write_text(CALENDAR)
    assert "IN ROLE vault_reader" in document(run("migrate", "--json"))["left_to_run"][0]
    assert "app_calendar" in run("consumers", "list")[1]


def test_a_key_is_shown_once(run: Run) -> None:
    """The key goes to standard output, its hash to the file, and the table has neither before ``apply``."""
    code, key, err = run("consumers", "key", "calendar")
    assert code == 0
    assert f'api_key_hash = "{hash_api_key(key.strip())}"' in err
    assert key.strip() not in err


async def test_a_command_leaves_a_record_of_its_read(
    run: Run, vault: Vault, sql: Sql, new_member: NewMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``get`` is recorded with its reason, and so is one that gets nothing; the operator's role lists both."""
    await Rows(vault, sql).add(value="canary")
    assert main(["get", "--user", "oauth2|u1", "--connection", "custom", "--reason", "ticket 7"]) == 0
    assert main(["get", "--user", "oauth2|nobody", "--connection", "custom"]) == 3
    monkeypatch.setenv("DATABASE_URL", new_member("vault_operator").reveal())
    monkeypatch.delenv("VAULT_ACCESS_KEYS")
    monkeypatch.delenv("VAULT_REFRESH_KEYS")
    run("consumers", "list")  # what was printed so far is the token
    reads = document(run("audit", "--json", "--since", "1h"))["reads"]
    assert [(row["user_id"], row["outcome"], row["source"], row["reason"]) for row in reads] == [
        ("oauth2|nobody", "TokenNotFound", "command", None),
        ("oauth2|u1", "served", "command", "ticket 7"),
    ]
    assert "canary" not in str(reads)
    assert (
        document(run("audit", "--json", "--user", "oauth2|u1", "--connection", "custom"))["reads"]
        == reads[1:]
    )
    assert document(run("audit", "--json", "--consumer", "calendar"))["reads"] == []
    assert document(run("audit", "--json", "--limit", "1"))["more"]
    assert "ticket 7" in run("audit")[1]
