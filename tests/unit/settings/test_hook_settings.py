"""``[hooks]`` and ``AUTH0_HOOK_SECRET``: what is wrong is refused, naming the place and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from token_vault.errors import ConfigurationError
from worker.settings import Settings, load

SECRET, OTHER = "s" * 32, "o" * 32
EVENTS = '[hooks.events.google]\nissuer = "https://accounts.google.com"\naudience = "a"\nconnections = "google-oauth2"\n'


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No tenant is configured."""
    for name in ("AUTH0_DOMAIN", "AUTH0_HOOK_SECRET", "DATABASE_URL", "TOKEN_VAULT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(tmp_path))
    return


def read(tmp_path: Path, toml: str) -> Settings:
    (tmp_path / "vault.toml").write_text(toml, encoding="utf-8")
    return load(tmp_path / "vault.toml")


def tenant(name: str) -> str:
    return f'[tenants.{name}]\ndomain = "{name}.auth0.com"\nclient_id = "c"\nclient_secret = "x"\n'


def test_a_transmitter_has_defaults(tmp_path: Path) -> None:
    """Its keys are found by its issuer, and each token has to say what it is."""
    found = read(tmp_path, EVENTS).hooks.events["google"]
    assert (found.audience, found.connections, found.typed) == (("a",), ("google-oauth2",), True)
    assert found.discovery_url == "https://accounts.google.com/.well-known/ssf-configuration"
    deeper = read(tmp_path, EVENTS.replace("google.com", "google.com/a/")).hooks.events["google"]
    assert deeper.discovery_url == "https://accounts.google.com/.well-known/ssf-configuration/a"


def test_the_environment_s_secret_is_the_only_tenant_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API may know no tenant; where it knows one, the secret is that one's."""
    monkeypatch.setenv("AUTH0_HOOK_SECRET", f"{SECRET}\n{OTHER}")
    assert list(read(tmp_path, "").hooks.auth0) == ["default"]
    hooks = read(tmp_path, tenant("acme")).hooks
    assert [each.reveal() for each in hooks.auth0["acme"].secret] == [SECRET, OTHER]
    with pytest.raises(ConfigurationError, match="not configured: acme, bcme"):
        read(tmp_path, tenant("acme") + tenant("bcme"))


@pytest.mark.parametrize(("secret", "words"), [("short-canary", "32 characters"), (SECRET, "same secret")])
def test_the_environment_s_secret_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, words: str
) -> None:
    """It can be guessed no more than one of the file, and is no other tenant's; the variable is named."""
    hook = f"[hooks.auth0.acme]\nsecret = '{SECRET}'\n"
    monkeypatch.setenv("AUTH0_HOOK_SECRET", secret)
    with pytest.raises(ConfigurationError, match=f"AUTH0_HOOK_SECRET: .*{words}") as refused:
        read(tmp_path, tenant("default") + tenant("acme") + hook)
    assert secret not in str(refused.value)
    monkeypatch.setenv("AUTH0_HOOK_SECRET", OTHER)
    assert read(tmp_path, tenant("default") + tenant("acme") + hook).hooks.auth0.keys() == {"acme", "default"}


def test_another_process_may_have_its_tenant_from_the_environment(tmp_path: Path) -> None:
    """The HTTP API takes the hook of ``AUTH0_*``'s tenant beside one of the file, and knows the latter alone."""
    hook = f"[hooks.auth0.default]\nsecret = '{SECRET}'\n"
    assert list(read(tmp_path, tenant("acme") + hook).hooks.auth0) == ["default"]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[hooks.auth0.acme]\nsecret = "short-canary"', "32 characters"),
        (f'[hooks.auth0.acme]\nsecret = "{SECRET} short-canary"', "32 characters"),
        ('[hooks.auth0.acme]\nsecret = ""', "give one secret"),
        ("[hooks.auth0.acme]", "secret"),
        (f'[hooks.auth0.a]\nsecret = "{SECRET}"\n[hooks.auth0.b]\nsecret = "{SECRET}"', "same secret"),
        (
            f'[hooks.auth0.a]\nsecret = "{OTHER} {SECRET}"\n[hooks.auth0.b]\nsecret = "{SECRET}"',
            "same secret",
        ),
        (f'{tenant("acme")}[hooks.auth0.bcme]\nsecret = "{SECRET}"', "bcme"),
        (f"[hooks.auth0.default]\nsecret = '{SECRET}'", "AUTH0_HOOK_SECRET"),
        (EVENTS.replace("https:", "http:"), "https://"),
        (EVENTS + 'jwks_uri = "https://x/a?b"', "without query"),
        (EVENTS + 'jwks_uri = "https://u:canary@x/a"', "no user or password"),
        (EVENTS + 'jwks_uri = "https://x/a"\ndiscovery = "https://x/b"', "either discovery or jwks_uri"),
        (EVENTS.replace('audience = "a"', "audience = []"), "audience"),
        (EVENTS + 'secret = "short-canary"', "32 characters"),
    ],
)
def test_what_is_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str, words: str
) -> None:
    """The message says what to write, and repeats no secret."""
    if "AUTH0_HOOK_SECRET" in words:
        monkeypatch.setenv("AUTH0_HOOK_SECRET", SECRET)
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, toml)
    assert words in str(error.value)
    assert SECRET not in str(error.value)
    assert "canary" not in str(error.value)
