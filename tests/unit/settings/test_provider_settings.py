"""What the operator says of providers: each field is checked, and what is wrong is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker import providers, renewal_policy
from worker.settings import load


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that holds nothing yet."""
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(tmp_path))
    return tmp_path / "vault.toml"


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ('rotates = "perhaps"', ".rotates", "valid boolean"),
        ("grace = -1", ".grace", "greater than or equal to 0"),
        ("grace = inf", ".grace", "finite number"),
        ("grace = nan", ".grace", "finite number"),
        ("idle_life = 0", ".idle_life", "greater than 0"),
        ('idle_life = "90 days"', ".idle_life", "valid number"),
        ("absolute_life = -5", ".absolute_life", "greater than 0"),
        ("margin = 0", ".margin", "greater than 0"),
        ("default_life = 1e12", ".default_life", "less than or equal to"),
        ("keep_alive = 0", ".keep_alive", "greater than 0"),
        ("read_window = 3600", ".read_window", "greater than or equal to 86400"),
        ('renew = "sometimes"', ".renew", "'eager' or 'on-read'"),
        ('expires_unit = "minutes"', ".expires_unit", "'seconds', 'milliseconds' or 'absolute'"),
        ("rotate = true", ".rotate", "no such setting"),
        ("keep_alive = 100\nidle_life = 100", "", "keep_alive must be shorter than idle_life"),
        ("grace = 30\nrotates = false", "", "grace has no meaning where rotates is false"),
    ],
)
def test_what_is_wrong_is_named(config: Path, line: str, place: str, words: str) -> None:
    """A field that cannot be meant so is refused with its place in the file and what it may be."""
    config.write_text(f"[providers.google]\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        load(config)
    assert f"[providers.google{place}]" in str(refused.value)
    assert words in str(refused.value)


def test_a_mistyped_provider_is_named(config: Path) -> None:
    """A provider that is neither built in nor named by a connection is refused, with those that are known."""
    config.write_text("[providers.gogle]\nrotates = false\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"\[providers.gogle\] is no known provider.*google"):
        renewal_policy.declared(load(config))


def test_a_new_provider_is_the_generic_one_but_for_what_is_said(config: Path) -> None:
    """A name that a connection uses makes a provider of its own; all that is said of it counts."""
    config.write_text(
        '[connections."c"]\nprovider = "acme"\n[providers.acme]\nrotates = true\ngrace = 20\nidle_life = 3600\n'
        'absolute_life = 7200\nmargin = 60\nexpires_unit = "milliseconds"\ndefault_life = 900\n',
        encoding="utf-8",
    )
    acme = renewal_policy.declared(load(config))["acme"]
    assert (acme.name, acme.rotates, acme.grace, acme.hosts) == ("acme", True, 20, ())
    lives = (acme.idle_life, acme.absolute_life, acme.margin, acme.default_life)
    assert lives == tuple(timedelta(seconds=seconds) for seconds in (3600, 7200, 60, 900))
    assert acme.expires_unit == timedelta(milliseconds=1)
    assert acme.auth is providers.get("oauth2").auth


def test_what_is_not_said_stays(config: Path) -> None:
    """A word on one field of a built-in provider leaves its others."""
    config.write_text("[providers.okta]\ngrace = 5\n", encoding="utf-8")
    okta, built_in = renewal_policy.declared(load(config))["okta"], providers.get("okta")
    assert (okta.grace, okta.rotates, okta.idle_life) == (5, built_in.rotates, built_in.idle_life)


def test_request_and_answer_are_said(config: Path) -> None:
    """Shape of request and answer, and error words, come from the file; words add to those built in."""
    config.write_text(
        """
        [connections."c"]
        provider = "acme"
        client_auth = "private_key_jwt"
        client_key = "canary"
        client_certificate = "PEM"
        headers = { X-Version = "2" }
        [providers.acme]
        token_url = "https://idp.example/token"
        refresh_url = "https://idp.example/refresh"
        client_auth = "basic-raw"
        method = "GET"
        json_body = true
        headers = { X-Api = "1" }
        grant_type = "client_credentials"
        sends = "nothing"
        token_parameter = "token"
        parameter_names = { client_id = "client_key" }
        extra = { audience = "api" }
        within = ["data.credentials"]
        access_token = "accessToken"
        refresh_token = "refreshToken"
        prolongs = { result = "0000" }
        expires_in = "expiresAt"
        scope_separator = ","
        error_names = ["errorCode"]
        error_words = { user = ["gone"], wait = ["try later"] }
        [providers.bitbucket]
        error_words = { operator = ["bad app"] }
        """,
        encoding="utf-8",
    )
    settings = load(config)
    declared = renewal_policy.declared(settings)
    acme = declared["acme"]
    assert (acme.token_url, acme.auth, acme.method) == (
        "https://idp.example/token",
        providers.ClientAuth.BASIC_RAW,
        "GET",
    )
    assert acme.refresh_url == "https://idp.example/refresh"
    assert (acme.json_body, acme.headers, acme.extra) == (True, {"X-Api": "1"}, {"audience": "api"})
    assert (acme.grant_type, acme.sends, acme.token_parameter) == ("client_credentials", "nothing", "token")
    assert (acme.parameter_names, acme.within) == ({"client_id": "client_key"}, ("data.credentials",))
    assert (acme.access_token, acme.refresh_token, acme.expires_in) == (
        "accessToken",
        "refreshToken",
        "expiresAt",
    )
    assert (acme.prolongs, acme.scope_separator, acme.error_names) == (
        {"result": "0000"},
        ",",
        ("errorCode",),
    )
    assert acme.error_words == providers.ErrorWords(user=("gone",), wait=("try later",))
    words = declared["bitbucket"].error_words
    assert (words.user, words.operator) == (providers.get("bitbucket").error_words.user, ("bad app",))
    connection = settings.connection("any", "c")
    assert connection is not None
    assert (connection.client_key, connection.headers) == (Secret("canary"), {"X-Version": Secret("2")})
    assert "canary" not in repr(connection)
