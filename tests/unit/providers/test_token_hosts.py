"""Tokens are sent to the provider's own hosts, or to the one that was seen first."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.providers import Client, Override, Problem, check_host, get, is_custom, resolve, token_host
from worker.providers.registry import PROVIDERS

FIXED = [each for each in PROVIDERS if each.endpoint({}) or any(h[0] != "." for h in each.hosts)]
KEYS = {"client_id": "the-id", "client_secret": "the-secret"}


def code(
    provider: str, url: str, trusted: str | None = None, *, custom: bool = False, emulated: bool = False
) -> str | None:
    found = check_host("acme", get(provider), url, trusted, custom=custom, emulated=emulated)
    return found.code if found else None


@pytest.mark.parametrize("provider", FIXED, ids=lambda each: each.name)
def test_builtin_providers_send_to_their_own_hosts(provider: object) -> None:
    """A built-in provider's tokens go to no host but its own, whatever Auth0 shows, even at first sight."""
    name = provider.name  # type: ignore[attr-defined]
    own = get(name).endpoint({}) or f"https://{get(name).hosts[0]}/token"
    assert code(name, own) is None
    assert code(name, own, "another.example") is None
    host = token_host(own)
    if not any(domain.startswith(".") for domain in get(name).hosts):
        assert code(name, f"https://stranger-{host}/token") == "token_host_changed"
    for foreign in (
        "stranger.example",
        f"{host}.stranger.example",
        f"{host}:8443",
        "127.0.0.1",
    ):
        assert code(name, f"https://{foreign}/token") == "token_host_changed", foreign


@pytest.mark.parametrize("provider", ["okta", "auth0-tenant", "salesforce-community", "oauth2", "oidc"])
def test_others_send_to_the_host_seen_first(provider: str) -> None:
    """Where each customer has a host of its own, the first one counts, also among hosts of one provider."""
    assert code(provider, "https://acme.okta.com/token") is None
    assert code(provider, "https://acme.okta.com/another", "acme.okta.com") is None
    assert code(provider, "https://stranger.okta.com/token", "acme.okta.com") == "token_host_changed"


def test_customers_hosts_below_a_providers_domain() -> None:
    """A customer's host below the provider's domain is taken at first sight, and not for another's."""
    assert code("salesforce", "https://acme.my.salesforce.com/t") is None
    assert (
        code("salesforce", "https://x.my.salesforce.com/t", "acme.my.salesforce.com") == "token_host_changed"
    )
    assert code("salesforce", "https://salesforce.com.stranger.example/t") == "token_host_changed"


def test_a_custom_connection_moves_to_no_builtin_provider() -> None:
    """A custom connection's tokens do not follow its URL to another provider that is known by its host."""
    assert is_custom("oauth2", None)
    assert not is_custom("oauth2", "gitlab")
    assert not is_custom("github", None)
    assert code("gitlab", "https://gitlab.com/oauth/token", custom=True) is None
    assert code("zoom", "https://zoom.us/oauth/token", "gitlab.com", custom=True) == "token_host_changed"


def test_an_emulated_tenants_providers_are_on_loopback() -> None:
    """A tenant on this machine has its providers there, and nowhere else."""
    assert code("google", "http://127.0.0.1:8080/token", emulated=True) is None
    assert code("google", "https://stranger.example/token", emulated=True) == "token_host_changed"
    assert (
        code("google", "http://127.0.0.1:9090/token", "127.0.0.1:8080", emulated=True) == "token_host_changed"
    )


def test_a_url_with_a_user_is_never_a_client() -> None:
    """A host that is hidden behind a user's name does not get as far as the comparison."""
    for url in ("https://acme.example@stranger.example/t", "https://acme.example:443@stranger.example/t"):
        assert isinstance(
            resolve("oauth2", KEYS | {"tokenURL": url}, Override(), allow_loopback_http=False), Problem
        )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://acme.example/t", "https://ACME.example./u"),
        ("https://acme.example/t", "https://acme.example:443/t"),
        ("https://[2001:db8::1]/t", "https://[2001:0DB8:0:0::1]:443/t"),
        ("http://127.0.0.1:80/t", "http://127.0.0.1/t"),
    ],
)
def test_spellings_of_one_host(one: str, other: str) -> None:
    """Case, a trailing dot, the scheme's own port and the form of an address make no difference."""
    assert token_host(one) == token_host(other)


LABEL = st.sampled_from(
    [
        "acme",
        "ACME",
        "acmé",
        "xn--acm-epa",
        "fass",
        "faß",
        "example",
        "ex\u0430mple",
        "\u212aiwi",
        "kiwi",
        "127",
        "0x7f",
        "1",
        "ａcme",
    ]
)
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    st.sampled_from(["127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:0:0:1]"]),
)
URLS = st.builds(
    lambda scheme, host, dot, port: f"{scheme}://{host}{dot if not host.startswith('[') else ''}{port}/token",
    st.sampled_from(["https", "http", "HTTPS"]),
    HOST,
    st.sampled_from(["", "", ".", "..", "\u3002"]),
    st.sampled_from(["", ":443", ":80", ":8443", ":0443"]),
)


@given(URLS, URLS)
@example("https://faß.example/t", "https://fass.example/t")
@example("https://\u212aiwi.example/t", "https://kiwi.example/t")
def test_equal_hosts_are_one_server(one: str, other: str) -> None:
    """Two token URLs whose hosts compare as equal are sent to the same host and port."""
    clients = [
        resolve("oauth2", KEYS | {"tokenURL": url}, None, allow_loopback_http=True) for url in (one, other)
    ]
    if not all(isinstance(client, Client) for client in clients) or token_host(one) != token_host(other):
        return
    try:
        first, second = httpx.URL(one), httpx.URL(other)
    except httpx.InvalidURL:
        return  # nothing is sent to it
    ports = [url.port or {"https": 443, "http": 80}[url.scheme] for url in (first, second)]
    assert _server(first) == _server(second)
    assert first.scheme != second.scheme or ports[0] == ports[1]


def _server(url: httpx.URL) -> object:
    from ipaddress import ip_address

    host = url.raw_host.decode().rstrip(".")
    try:
        return ip_address(host)
    except ValueError:
        return host
