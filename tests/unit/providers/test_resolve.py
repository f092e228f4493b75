"""From a connection's options and the operator's settings to a client, or to a problem that can be fixed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_vault.secret import Secret
from worker.providers import (
    TOKENLESS_STRATEGIES,
    Client,
    ClientAuth,
    Override,
    Problem,
    admin_tokens,
    get,
    names,
    notes,
    public_options,
    resolve,
)
from worker.providers.registry import PROVIDERS
from worker.token_pair import TokenPair

NOW = datetime(2026, 3, 15, 7, 14, 32, tzinfo=UTC)
KEYS = {"client_id": "the-id", "client_secret": "the-secret"}
OWN = Override(client_id="own-id", client_secret=Secret("own-secret"))
CANARY = "canary-secret"


def client(strategy: str, options: dict[str, Any] | None, override: Override | None = None) -> Client:
    found = resolve(strategy, options, override, allow_loopback_http=False)
    assert isinstance(found, Client), found
    return found


def problem(
    strategy: str,
    options: dict[str, Any] | None,
    override: Override | None = None,
    *,
    allow_loopback_http: bool = False,
) -> str:
    found = resolve(strategy, options, override, allow_loopback_http=allow_loopback_http)
    assert isinstance(found, Problem), found
    assert CANARY not in found.message
    return found.code


def test_override_counts_more() -> None:
    """Each value that the operator sets counts more than Auth0's; the others stay."""
    override = Override(
        token_url="https://ghe.corp.example/login/oauth/access_token",
        client_secret=Secret("own-secret"),
        client_auth=ClientAuth.BASIC,
        scope="a b",
        redirect_uri="https://t.example/cb",
        extra={"audience": "x"},
    )
    assert client("github", KEYS, override) == Client(
        provider="github",
        token_url="https://ghe.corp.example/login/oauth/access_token",
        client_id="the-id",
        client_secret=Secret("own-secret"),
        auth=ClientAuth.BASIC,
        extra={"audience": "x", "scope": "a b", "redirect_uri": "https://t.example/cb"},
    )
    resource = {"identity_api": "azure-active-directory-v1.0", "resource": "https://graph.microsoft.com"}
    shown = KEYS | {"tenantId": "t"} | resource
    assert client("waad", shown, Override(extra={"resource": "own"})).extra == {"resource": "own"}
    for client_id in ("", "the-id"):
        own = client("github", KEYS | {"client_id": client_id}, OWN)
        assert (own.client_id, own.client_secret) == ("own-id", Secret("own-secret"))


def test_nothing_shown() -> None:
    """Where Auth0 shows no options, the operator's settings suffice or the missing scope is named."""
    assert client("google-oauth2", None, OWN).token_url == "https://oauth2.googleapis.com/token"
    assert problem("google-oauth2", None) == "missing_options"
    assert problem("waad", None, OWN) == "missing_options"
    assert problem("oauth2", None, OWN) == "missing_options"
    with_url = Override(
        token_url="https://idp.example/t", client_id="own-id", client_secret=Secret("own-secret")
    )
    assert client("oauth2", None, with_url).provider == "oauth2"


@pytest.mark.parametrize(
    ("strategy", "options", "code"),
    [
        ("google-oauth2", {"client_id": "", "client_secret": ""}, "development_keys"),
        ("google-oauth2", {}, "development_keys"),
        ("google-oauth2", {"client_id": None, "client_secret": 7}, "development_keys"),
        ("google-oauth2", {"client_id": "the-id", "client_secret": " "}, "no_client_secret"),
        ("google-oauth2", {"client_id": "the-id"}, "no_client_secret"),
        ("oauth2", KEYS, "no_token_url"),
        ("waad", KEYS, "no_token_url"),
        ("waad", KEYS | {"tenantId": "../x"}, "bad_option"),
        ("okta", KEYS | {"domain": "corp.okta.com@evil.example"}, "bad_option"),
        ("okta", KEYS, "no_token_url"),
        (
            "oidc",
            KEYS | {"token_endpoint": "https://i.example/t", "token_endpoint_auth_method": "tls"},
            "bad_option",
        ),
        (
            "oidc",
            KEYS | {"token_endpoint": "https://i.example/t", "token_endpoint_auth_method": "private_key_jwt"},
            "bad_option",
        ),
        ("oauth2", KEYS | {"tokenURL": "http://idp.example/t"}, "insecure_token_url"),
        ("oauth2", KEYS | {"tokenURL": "http://127.0.0.1:8080/t"}, "insecure_token_url"),
        ("oauth2", KEYS | {"tokenURL": "https://127.0.0.1:8443/t"}, "internal_token_url"),
        ("oauth2", KEYS | {"tokenURL": "https://localhost/t"}, "internal_token_url"),
        ("oauth2", KEYS | {"tokenURL": "https://10.0.0.1/t"}, "internal_token_url"),
        ("oauth2", KEYS | {"tokenURL": "ftp://idp.example/t"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": "/oauth/token"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": "https://[::"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": "https://idp.example:99999/t"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": "https://login..example/t"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": "https://.example/t"}, "bad_option"),
        ("okta", KEYS | {"domain": "corp..okta.com"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": "https://idp.example/t t"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": f"https://u:{CANARY}@idp.example/t"}, "bad_option"),
        ("oauth2", KEYS | {"tokenURL": "https://gitlab.com/oauth/token"}, "bad_option"),
        ("yahoo", KEYS, "unsupported_strategy"),
        *((strategy, KEYS, "unsupported_strategy") for strategy in sorted(TOKENLESS_STRATEGIES)),
    ],
)
def test_problems(strategy: str, options: dict[str, Any], code: str) -> None:
    """What keeps a connection from renewal is named, without a secret in the message."""
    assert problem(strategy, options) == code


def test_unknown_provider() -> None:
    """A provider that the operator names and that does not exist is told with those that do."""
    found = resolve("oauth2", KEYS, Override(provider="nobody"), allow_loopback_http=False)
    assert isinstance(found, Problem)
    assert found.code == "unknown_provider"
    assert all(name in found.message for name in names())


@pytest.mark.parametrize("host", ["127.0.0.1:80", "127.9.9.9", "localhost:8080", "idp.localhost", "[::1]:80"])
def test_loopback_http(host: str) -> None:
    """Plain HTTP is taken towards loopback: from the operator always, from Auth0 only beside an emulated tenant."""
    url = f"http://{host}/token"
    assert problem("oauth2", KEYS | {"tokenURL": url}) == "insecure_token_url"
    allowed = resolve("oauth2", KEYS | {"tokenURL": url}, None, allow_loopback_http=True)
    assert isinstance(allowed, Client)
    assert client("bitbucket", KEYS, Override(token_url=url)).token_url == url


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "idp.example", "127.0.0.1.example", "0.0.0.0", "localhost.example"]
)
def test_http_elsewhere(host: str) -> None:
    """Plain HTTP to anywhere else is refused, whoever says it."""
    url = f"http://{host}/token"
    override = Override(token_url=url)
    assert problem("oauth2", KEYS | {"tokenURL": url}, allow_loopback_http=True) == "insecure_token_url"
    assert problem("github", KEYS, override, allow_loopback_http=True) == "insecure_token_url"


def test_a_declaration_of_the_operator_replaces_a_built_in_one() -> None:
    """It counts however the provider is found: by its strategy, or by its host."""
    declared = {name: replace(get(name), auth=ClientAuth.NONE) for name in ("google", "bitbucket")}
    at_host = KEYS | {"tokenURL": "https://bitbucket.org/site/oauth2/access_token"}
    for strategy, options in (("google-oauth2", KEYS), ("oauth2", at_host)):
        found = resolve(strategy, options, None, allow_loopback_http=False, declared=declared)
        assert isinstance(found, Client)
        assert found.auth is ClientAuth.NONE


def test_custom_connection_at_a_known_host() -> None:
    """A custom connection is read as the provider at its host, unless the operator says otherwise."""
    options = KEYS | {"tokenURL": "https://bitbucket.org/site/oauth2/access_token"}
    assert client("oauth2", options).provider == "bitbucket"
    assert client("oauth2", options).auth is ClientAuth.BASIC
    assert client("oauth2", options, Override(provider="oauth2")).provider == "oauth2"
    elsewhere = KEYS | {"tokenURL": "https://git.corp.example/oauth/token"}
    gitlab = client("oauth2", elsewhere, Override(provider="gitlab", redirect_uri="https://t.example/cb"))
    assert (gitlab.provider, gitlab.token_url) == ("gitlab", "https://git.corp.example/oauth/token")
    assert client("yahoo", KEYS, Override(token_url="https://y.example/t")).provider == "oauth2"


def test_client_auth_spellings() -> None:
    """OpenID Connect's names of client authentication are understood."""
    assert ClientAuth("client_secret_post") is ClientAuth.POST
    assert ClientAuth("client_secret_basic") is ClientAuth.BASIC
    assert ClientAuth("none") is ClientAuth.NONE
    assert ClientAuth("private_key_jwt") is ClientAuth.PRIVATE_KEY_JWT
    with pytest.raises(ValueError, match="is not a valid"):
        ClientAuth("mtls")


def test_public_client_needs_no_secret() -> None:
    """A connection whose method is none has no need of a secret."""
    options = {
        "client_id": "the-id",
        "token_endpoint": "https://i.example/t",
        "token_endpoint_auth_method": "none",
    }
    assert client("oidc", options).client_secret is None


def test_secrets_are_not_printed() -> None:
    """Neither a client nor an override prints its secret or its extra parameters."""
    override = Override(client_secret=Secret(CANARY), extra={"key": CANARY})
    assert CANARY not in f"{override!r} {client('github', KEYS, override)!r}"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["https://h.example/t", "the-id"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
option_names = st.sampled_from(
    [
        *(
            "client_id",
            "client_secret",
            "tokenURL",
            "token_endpoint",
            "oidc_metadata",
            "customHeaders",
            "domain",
        ),
        *("issuer", "tenantId", "tenant_domain", "useCommonEndpoint", "identity_api", "resource", "scope"),
        *("token_endpoint_auth_method", "community_base_url", "redirect_uri", "admin_access_token"),
        *(
            "admin_refresh_token",
            "admin_access_token_expiresin",
            "access_token",
            "refresh_token",
            "expires_at",
        ),
        *("federated_connections_access_tokens", "connected_accounts"),
    ]
)
wild_options = st.dictionaries(option_names | st.text(max_size=5), json_values, max_size=8)
all_strategies = sorted({strategy for provider in PROVIDERS for strategy in provider.strategies})


@given(st.sampled_from([*all_strategies, "yahoo"]), st.none() | wild_options, st.booleans())
def test_any_options(strategy: str, options: dict[str, Any] | None, loopback: bool) -> None:
    """Any options give a client or a problem, never an exception; a client can always be sent with."""
    found = resolve(strategy, options, None, allow_loopback_http=loopback)
    if isinstance(found, Client):
        provider = next(provider for provider in PROVIDERS if provider.name == found.provider)
        provider.request(found, access=Secret("a"), refresh=Secret("r"))
        assert found.token_url.startswith(("https://", "http://"))
    notes(options)
    public_options(options)
    pair = admin_tokens(strategy, options, now=NOW)
    assert pair is None or pair.access or pair.refresh


def test_admin_tokens_of_google() -> None:
    """A Workspace connection's admin tokens are read; their expiry is a timestamp despite its name."""
    options = {
        "admin_access_token": "ya29.a",
        "admin_refresh_token": "1//r",
        "admin_access_token_expiresin": "2026-03-15T08:14:32.000Z",
    }
    pair = TokenPair(Secret("ya29.a"), Secret("1//r"), datetime(2026, 3, 15, 8, 14, 32, tzinfo=UTC))
    assert admin_tokens("google-apps", options, now=NOW) == pair


@pytest.mark.parametrize("expiry", [3599, "3599", "", "soon", None, True, {}, [], -1, 10**30, "9999-12-31"])
def test_admin_expiry_that_tells_no_time(expiry: object) -> None:
    """An expiry without a point in time is unknown, never later than the truth, and costs no token."""
    options = {"admin_access_token": "at", "admin_access_token_expiresin": expiry}
    assert admin_tokens("google-apps", options, now=NOW) == TokenPair(Secret("at"))


@pytest.mark.parametrize("expiry", [1773562472, "1773562472", 1773562472000, "2026-03-15T08:14:32"])
def test_admin_expiry_as_a_moment(expiry: object) -> None:
    """A Unix time, in seconds or milliseconds, is told from a number of seconds."""
    options = {"admin_refresh_token": "rt", "admin_access_token_expiresin": expiry}
    pair = TokenPair(None, Secret("rt"), datetime(2026, 3, 15, 8, 14, 32, tzinfo=UTC))
    assert admin_tokens("google-apps", options, now=NOW) == pair


def test_admin_tokens_of_azure() -> None:
    """Azure's admin tokens are taken under both names; other connections' bare tokens are not."""
    bare = {"access_token": "at", "refresh_token": "rt", "expires_at": 1773562472}
    pair = TokenPair(Secret("at"), Secret("rt"), datetime(2026, 3, 15, 8, 14, 32, tzinfo=UTC))
    assert admin_tokens("waad", bare, now=NOW) == pair
    assert admin_tokens("waad", {"admin_access_token": "x", **bare}, now=NOW) == TokenPair(Secret("x"))
    assert admin_tokens("oauth2", bare, now=NOW) is None


@pytest.mark.parametrize("options", [None, {}, {"admin_access_token": ""}, {"admin_access_token": {"a": 1}}])
def test_no_admin_tokens(options: dict[str, Any] | None) -> None:
    """Where there is no usable token, there is none."""
    assert admin_tokens("waad", options, now=NOW) is None


def test_public_options_hold_no_token() -> None:
    """Options come back without tokens at any depth, and otherwise as they were."""
    options = {
        **KEYS,
        "admin_access_token": CANARY,
        "admin_refresh_token": CANARY,
        "access_token": CANARY,
        "nested": {"refresh_token": CANARY, "kept": 1},
    }
    assert public_options(options) == {**KEYS, "nested": {"kept": 1}}
    assert public_options(None) == {}


def test_notes() -> None:
    """Auth0's own Token Vault is told to the operator; headers are sent, and no trouble."""
    assert notes(None) == notes({}) == notes({"customHeaders": {"Authorization": "Basic x"}}) == ()
    flags = {
        "federated_connections_access_tokens": {"active": True},
        "customHeaders": {"User-Agent": "x"},
    }
    assert len(notes(flags)) == 1
    assert notes({"federated_connections_access_tokens": True}) == ()
