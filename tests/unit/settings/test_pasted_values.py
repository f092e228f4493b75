"""Values as people paste them: quoted, unexpanded, with a byte order mark, or half a URL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bare_environment import set_home_alone
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.cli.environment import load_settings
from worker.settings import load

TENANT = {"AUTH0_DOMAIN": "acme.eu.auth0.com", "AUTH0_CLIENT_ID": "id", "AUTH0_CLIENT_SECRET": "canary"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing of the vault's is set but a home that is empty."""
    set_home_alone(monkeypatch, tmp_path / "home")
    return tmp_path


@pytest.fixture
def toml(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Path]:
    """Write the file that TOKEN_VAULT_CONFIG names."""

    def write(content: bytes) -> Path:
        path = bare / "vault.toml"
        path.write_bytes(content)
        monkeypatch.setenv("TOKEN_VAULT_CONFIG", str(path))
        return path

    return write


def refused(load: Callable[[], object] = load) -> list[str]:
    """Load and be refused; return the mistakes, none of which holds a secret."""
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert "canary" not in repr(caught.value)
    return [str(problem) for problem in getattr(caught.value, "problems", ())]


@pytest.mark.parametrize(
    "name", [*TENANT, "DATABASE_URL", "REDIS_URL", "VAULT_ACCESS_KEYS", "TOKEN_VAULT_SPOOL"]
)
@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ('"canary"', "is in quotes, which are a part of it here: remove them"),
        ("'canary'", "is in quotes, which are a part of it here: remove them"),
        ("${CANARY_NAME}", "is a reference that nothing has put a value in for: write the value itself"),
        ("$CANARY_NAME", "is a reference that nothing has put a value in for: write the value itself"),
        ("{{ canary }}", "is a reference that nothing has put a value in for: write the value itself"),
    ],
)
def test_a_variable_in_quotes_or_unexpanded_is_one_mistake(
    monkeypatch: pytest.MonkeyPatch, name: str, pasted: str, said: str
) -> None:
    """As `docker --env-file` and unit files hand them over: it is told once, with the fix."""
    for variable, value in {**TENANT, name: pasted}.items():
        monkeypatch.setenv(variable, value)
    assert refused() == [f"{name} {said}"]


def test_blanks_around_a_secret_are_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break at the end counts neither in a variable nor in a file."""
    for variable, value in {**TENANT, "AUTH0_CLIENT_SECRET": " canary\r\n"}.items():
        monkeypatch.setenv(variable, value)
    assert load().tenants["default"].client_secret == Secret("canary")


def test_a_variable_in_lower_case_is_another_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers do not see it either: an address has one meaning for all."""
    monkeypatch.setenv("database_url", "postgresql://localhost/canary")
    assert load().embedded


def test_a_secret_that_cannot_be_read_is_one_mistake(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """That it is missing as well is not told: it is given."""
    for variable, value in {**TENANT, "AUTH0_CLIENT_SECRET": ""}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AUTH0_CLIENT_SECRET_FILE", str(bare / "absent"))
    (told,) = refused()
    assert told.startswith("AUTH0_CLIENT_SECRET_FILE: the file cannot be read")


def test_wrong_keys_are_told_with_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever corrects the other mistakes does not find the next one behind them."""
    monkeypatch.setenv("AUTH0_PLAN", "gold")
    monkeypatch.setenv("TOKEN_VAULT_LOG_LEVEL", "loud")
    monkeypatch.setenv("DATABASE_URL", "mysql://canary@localhost/d")
    monkeypatch.setenv("VAULT_ACCESS_KEYS", "canary")
    for variable, value in TENANT.items():
        monkeypatch.setenv(variable, value)
    assert {told.split()[0].rstrip(":") for told in refused(load_settings)} == {
        "AUTH0_PLAN", "TOKEN_VAULT_LOG_LEVEL", "DATABASE_URL", "VAULT_ACCESS_KEYS",
    }  # fmt: skip


@pytest.mark.parametrize(
    "domain",
    ["<tenant>.auth0.com", "http://acme.eu.auth0.com", "acme eu", "https://acme.eu.auth0.com:port", "ftp://acme.eu.auth0.com",
     "a@acme.eu.auth0.com", "https://[::1"],
)  # fmt: skip
def test_a_domain_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    """Before anything starts, not at the first call to Auth0."""
    for variable, value in {**TENANT, "AUTH0_DOMAIN": domain}.items():
        monkeypatch.setenv(variable, value)
    (told,) = refused()
    assert told.startswith("AUTH0_DOMAIN has to be the tenant's domain alone")


def test_a_byte_order_mark_is_no_text(
    bare: Path, toml: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Editors of Windows begin files with one: the TOML file and a secret's are read all the same."""
    toml("\ufeff[schedule]\r\nrenew = 7\r\n".encode())
    (bare / "secret").write_text("\ufeff" + "canary" * 6 + "\r\n", encoding="utf-8")
    monkeypatch.setenv("AUTH0_HOOK_SECRET_FILE", str(bare / "secret"))
    settings = load()
    assert settings.schedule.renew == 7
    assert settings.hooks.auth0["default"].secret == (Secret("canary" * 6),)


def test_a_file_in_another_encoding_is_told_with_the_fix(toml: Callable[[bytes], Path]) -> None:
    """The error is about the encoding, not about Python."""
    path = toml('[connections."é"]\n'.encode("latin-1"))
    assert refused() == [f"TOKEN_VAULT_CONFIG points to {path}, which is not in UTF-8: save it as UTF-8"]


@pytest.mark.parametrize(
    "url",
    ["git.acme.example/oauth/token", " https://git.acme.example/token", "http://git.acme.example/token", "${TOKEN_URL}",
     "https://user:canary@git.acme.example/token", "https://git.acme.example:99999/token", "https://[::1/token",
     "https://git.acme.example/token#canary", "ftp://git.acme.example/token"],
)  # fmt: skip
@pytest.mark.parametrize(
    "key",
    [
        "connections.acme.token_url",
        "connections.acme.revocation_url",
        "providers.acme.token_url",
        "providers.acme.refresh_url",
    ],
)
def test_a_url_that_is_none_is_told_by_its_key(toml: Callable[[bytes], Path], key: str, url: str) -> None:
    """Where tokens are sent is looked at before anything starts."""
    table, _, name = key.rpartition(".")
    toml(f"[{table}]\n{name} = '{url}'\n".encode())
    (told,) = refused()
    assert f"line 2: [{key}] has to be a URL with https" in told


@pytest.mark.parametrize(
    "url", ["https://git.acme.example/oauth/token?v=1", "http://127.0.0.1:8080/token", "http://[::1]/token"]
)
def test_a_whole_url_is_taken(toml: Callable[[bytes], Path], url: str) -> None:
    """Plain http goes to loopback."""
    toml(f"[connections.acme]\ntoken_url = '{url}'\n".encode())
    assert load().connections["acme"].token_url == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[connections]]\nname = 'a'", "[connections] has to be a table"),
        ("schedule = 5", "[schedule] has to be a table"),
        ("egress = '203.0.113.7'\negress_check_url = 'https://x.example'", "[egress] has to be a list"),
        ("[connections.a]\nclient_id = 5", "[connections.a.client_id] has to be a text"),
        ("[connections.a]\nclient_secret = 5", "[connections.a.client_secret] has to be a text"),
        ("[consumers.a]\nrole = 'a'\nconnections = ['c']\ntenants = ['defualt']", "[consumers.a.tenants] names the tenant defualt"),
        (
            f"[webhooks.a]\nurl = 'https://x.example'\nsecret = 'whsec_{'A' * 32}'\ntenants = ['defualt']",
            "[webhooks.a.tenants] names the tenant defualt, which is none of default: did you mean default?",
        ),
        ("[connections.a]\nheaders = { x = \"canary\\nb\" }", "[connections.a.headers] a header has a name of letters"),
        ("[connections.a]\nheaders = { \"x y\" = 'canary' }", "[connections.a.headers] a header has a name of letters"),
        ("[providers.a]\nheaders = { x = \"canary\\r\" }", "[providers.a.headers] a header has a name of letters"),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_kind_is_told_in_words_of_toml(
    monkeypatch: pytest.MonkeyPatch, toml: Callable[[bytes], Path], text: str, said: str
) -> None:
    """A table is a table, a list a list; a tenant that nobody has is no silence."""
    for variable, value in TENANT.items():
        monkeypatch.setenv(variable, value)
    toml(text.encode())
    (told,) = refused()
    assert said in told
