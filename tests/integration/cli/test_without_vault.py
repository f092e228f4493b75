"""What commands do where nobody has made a vault."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from emulators.client import Emulation
from token_vault.secret import Secret
from worker.cli import main

COMMANDS = (
    "migrate", "sync", "follow", "renew", "renew --all --force", "get --user u --connection c", "list", "show --user u",
    "status", "doctor", "plan --reconsent", "events", "forget --user u", "revoke --user u", "connections trust c",
    "consumers apply", "consumers list", "audit", "keys status", "keys rotate", "serve", "adopt", "env",
)  # fmt: skip


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, an Auth0 tenant, two keys in each ring, and a misspelt DATABASE_URL."""
    for name in list(os.environ):
        if name.startswith(("AUTH0_", "VAULT_", "TOKEN_VAULT_", "DATABASE_", "REDIS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABSE_URL", "postgresql://u:the-password@127.0.0.1:1/vault")
    for name in ("VAULT_ACCESS_KEYS", "VAULT_REFRESH_KEYS"):
        monkeypatch.setenv(name, f"{Fernet.generate_key().decode()},{Fernet.generate_key().decode()}")
    for name in ("DOMAIN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"AUTH0_{name}", "tenant.example.auth0.com")
    monkeypatch.setattr("worker.logs.configure", lambda **_: None)  # other tests log too
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_but_up_makes_a_vault(
    command: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits 2, names the variable, its misspelling and `up`, and leaves the folder empty."""
    assert main(command.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(each in said.err for each in ("DATABASE_URL", "DATABSE_URL", "token-vault up"))
    assert "the-password" not in said.err
    assert len(said.err.splitlines()) == 1
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize("command", ["plan --users 10", "consumers key c", "keys generate"])
def test_commands_without_a_vault_make_none(command: str, nowhere: Path) -> None:
    """What needs no vault works without one, and leaves the folder empty."""
    assert main(command.split()) in (0, 1)
    assert list(nowhere.iterdir()) == []


def test_measuring_a_tenant_makes_no_vault(
    nowhere: Path, tenant: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plan --measure` asks Auth0 alone, before anything is deployed, and leaves the folder empty."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 2)
    monkeypatch.setenv("AUTH0_DOMAIN", tenant.auth0_domain)
    monkeypatch.setenv("AUTH0_CLIENT_ID", tenant.client_id)
    monkeypatch.setenv("AUTH0_CLIENT_SECRET", tenant.client_secret)
    monkeypatch.setenv("AUTH0_AUDIENCE", tenant.audience)
    assert main(["plan", "--measure", "--plan", "free"]) == 0
    assert list(nowhere.iterdir()) == []


def test_keys_of_an_empty_database_are_kept(
    nowhere: Path, database_url: Secret, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database that holds nothing of a vault says nothing about its keys."""
    monkeypatch.setenv("DATABASE_URL", database_url.reveal())
    for command in ("status", "rotate"):
        assert main(["keys", command, "--json"]) == int(command == "rotate")
        rings = json.loads(capsys.readouterr().out)["rings"]
        assert [ring["older_keys_removable"] for ring in rings.values()] == [False, False]
        main(["keys", command])
        said = capsys.readouterr().out
        assert "no check row" in said
        assert "may be taken out" not in said
