"""The demo has a folder of its own, and a tenant's vault never shares it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from token_vault.errors import ConfigurationError
from token_vault.home import vault_home
from worker.cli.environment import load_settings
from worker.settings import load

TENANT = {"AUTH0_DOMAIN": "acme.eu.auth0.com", "AUTH0_CLIENT_ID": "m2m", "AUTH0_CLIENT_SECRET": "s"}
DEMO_CONFIG = '[tenants.demo]\ndomain = "http://127.0.0.1:9"\nclient_id = "demo"\nclient_secret = "s"\n'


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home in which a demo has run, and no tenant."""
    for name in os.environ:
        if name.startswith(("AUTH0_", "VAULT_", "TOKEN_VAULT_", "DATABASE_", "REDIS_URL")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(home))
    demo = home / "demo"
    (demo / "postgres/data").mkdir(parents=True)
    for name, text in {"vault.toml": DEMO_CONFIG, "client-secret": "s", "port": "9"}.items():
        (demo / name).write_text(text, encoding="utf-8")
    return home


def test_without_a_tenant_the_demo_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, workers and readers find the demo below the home, or where the home is the demo's own."""
    for given in (home, home / "demo"):
        monkeypatch.setenv("TOKEN_VAULT_HOME", str(given))
        settings = load_settings()
        assert (list(settings.tenants), settings.home, settings.spool) == (
            ["demo"], home / "demo", home / "demo/spool",
        )  # fmt: skip
        assert load().home == vault_home(given) == home / "demo"


def test_a_tenant_has_its_own_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenant the vault is in the home itself, whatever demo lies below; the demo's own folder is refused."""
    for name, value in TENANT.items():
        monkeypatch.setenv(name, value)
    assert load_settings().home == home
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(home / "demo"))
    with pytest.raises(
        ConfigurationError, match=r"TOKEN_VAULT_HOME names the demo's own folder, .*another one"
    ):
        load()


def test_nobody_guesses_which_vault_is_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both have run and no tenant is configured, a command asks which one; an app gets the tenant's."""
    (home / "postgres/data").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=f"TOKEN_VAULT_HOME={home / 'demo'}"):
        load_settings()
    assert vault_home(home) == home
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(home / "demo"))
    assert load_settings().home == home / "demo"
