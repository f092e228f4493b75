"""Which tenant's users [proxy.*] and [reconnect] mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from token_vault.errors import ConfigurationError
from worker.settings import Settings, load
from worker.settings.file import read_file

PROXY = '[proxy.google-oauth2]\nbase_url = "https://www.googleapis.com"\nallow = ["GET /a"]\n'
RECONNECT = f'[reconnect]\nclient_id = "web"\nredirect_uri = "https://a.example/"\nsecret = "{"s" * 32}"\n'
TENANTS = "".join(
    f'[tenants.{name}]\ndomain = "{name}.eu.auth0.com"\nclient_id = "c"\nclient_secret = "s"\n'
    for name in ("a", "b")
)


def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str) -> Settings:
    """Load a file, with nothing in the environment."""
    for name in ("AUTH0_DOMAIN", "AUTH0_CLIENT_ID", "AUTH0_CLIENT_SECRET", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "vault.toml"
    path.write_text(toml, encoding="utf-8")
    return load(path)


@pytest.mark.parametrize("table", [PROXY, RECONNECT])
def test_among_several_tenants_one_is_named(tmp_path: Path, table: str) -> None:
    """The same user id may be somebody else's at another tenant, so none is guessed."""
    path = tmp_path / "vault.toml"
    for tenant, words in (
        (None, "has to name its tenant: there are a, b"),
        ("c", "names the tenant c"),
        ("a", None),
    ):
        path.write_text(TENANTS + table + (f'tenant = "{tenant}"\n' if tenant else ""), encoding="utf-8")
        if words is None:
            read_file(path, {})
        else:
            with pytest.raises(ConfigurationError, match=words):
                read_file(path, {})


def test_the_application_is_at_its_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link leads to the tenant's domain, and there is none for a tenant whose application it is not."""
    found = settings(tmp_path, monkeypatch, TENANTS + RECONNECT + 'tenant = "b"\n')
    application = found.reconnect_application("b")
    assert application is not None
    assert application.base_url == "https://b.eu.auth0.com"
    assert found.reconnect_application("a") is None
    own = settings(tmp_path, monkeypatch, TENANTS + RECONNECT + 'tenant = "b"\ndomain = "login.b.example"\n')
    application = own.reconnect_application("b")
    assert application is not None
    assert application.base_url == "https://login.b.example"


def test_a_process_without_a_tenant_uses_the_issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's own process knows no tenant, but who issues the access tokens that it takes."""
    api = '[api]\naudience = "https://vault.example"\nissuer = "https://acme.eu.auth0.com/"\n'
    application = settings(tmp_path, monkeypatch, api + RECONNECT).reconnect_application("default")
    assert application is not None
    assert application.base_url == "https://acme.eu.auth0.com"
    assert settings(tmp_path, monkeypatch, RECONNECT).reconnect_application("default") is None
    # Who knows tenants does not guess: the issuer may be another tenant's.
    one = TENANTS.partition("[tenants.b]")[0]
    assert settings(tmp_path, monkeypatch, api + one + RECONNECT).reconnect_application("other") is None
