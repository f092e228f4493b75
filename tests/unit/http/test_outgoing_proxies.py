"""Which proxy stands before which URL."""

from __future__ import annotations

import pytest

from token_vault.errors import ConfigurationError
from worker.http.outgoing_proxies import OutgoingProxies, OutgoingProxy

NAMES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without any proxy in the environment."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def of(url: str) -> str | None:
    found = OutgoingProxies.read().of(url)
    return str(found) if found else None


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "https://a.example/", None),
        ({"HTTPS_PROXY": "http://p.example:1"}, "https://a.example/", "p.example:1"),
        ({"HTTPS_PROXY": "http://p.example:1"}, "http://a.example/", None),
        ({"HTTP_PROXY": "http://p.example:1"}, "http://a.example/", "p.example:1"),
        ({"HTTP_PROXY": "http://p.example:1"}, "https://a.example/", None),
        ({"ALL_PROXY": "p.example:1"}, "https://a.example/", "p.example:1"),
        ({"all_proxy": "p.example:1"}, "http://a.example/", "p.example:1"),
        ({"HTTPS_PROXY": "p.example:1", "ALL_PROXY": "q.example:2"}, "https://a.example/", "p.example:1"),
        ({"HTTPS_PROXY": "p.example:1", "https_proxy": "q.example:2"}, "https://a.example/", "q.example:2"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "q.example:2"}, "https://a.example/", "q.example:2"),
    ],
)
def test_the_proxy_is_the_one_of_the_scheme(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: str | None
) -> None:
    """The scheme's own variable has precedence over ALL_PROXY, and lower case over upper case."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert of(url) == proxy


@pytest.mark.parametrize(
    "host", ["localhost", "api.localhost", "127.0.0.1:8443", "127.8.9.10", "[::1]:80", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_called_directly(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """No proxy gets to see what stays on this machine."""
    monkeypatch.setenv("ALL_PROXY", "http://p.example:1")
    assert of(f"https://{host}/") is of(f"http://{host}/") is None


@pytest.mark.parametrize(
    ("exceptions", "host", "is_direct"),
    [
        ("*", "a.example", True),
        ("a.example", "a.example", True),
        ("A.Example", "a.example", True),
        ("a.example", "A.EXAMPLE.", True),
        ("a.example", "b.a.example", True),
        (".a.example", "b.a.example", True),
        ("*.a.example", "b.a.example", True),
        ("a.example", "ba.example", False),
        ("x.example, a.example", "a.example", True),
        ("x.example a.example", "a.example", True),
        ("a.example:443", "a.example", True),
        ("a.example:8443", "a.example", False),
        ("a.example:8443", "a.example:8443", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.9.9.9/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("2.3", "10.1.2.3", False),
        ("fd00::/8", "[fd00::5]", True),
        ("[fd00::5]:443", "[fd00::5]", True),
        ("fd00::/8", "10.1.2.3", False),
        (",", "a.example", False),
        (".", "a.example", False),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, exceptions: str, host: str, is_direct: bool) -> None:
    """Domains with all below them, addresses and networks are called directly, each perhaps at one port."""
    monkeypatch.setenv("HTTPS_PROXY", "http://p.example:1")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", exceptions)  # lower case has precedence
    assert (of(f"https://{host}/") is None) == is_direct


@pytest.mark.parametrize(
    "value",
    [
        "http://canary-user:canary@p.example",
        "socks5://canary-user:canary@p.example:1080",
        "https://canary-user:canary@p.example",
        "ftp://canary-user:canary@p.example:21",
        "http://canary-user:canary@p.example:port",
        "http://canary-user:canary@[p.example:1",
        "http://canary-user:canary@:3128",
        "http://canary-user:canary@p.example:3128/path",
    ],
)
def test_what_is_no_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The message names the variable, and shows nothing of a value that may hold a password."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
        OutgoingProxies.read()
    assert "canary" not in str(caught.value)


def test_a_proxy_may_be_spoken_to_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheme says how, and is no part of what messages show."""
    monkeypatch.setenv("HTTPS_PROXY", "https://p.example:3129")
    proxy = OutgoingProxies.read().of("https://a.example/")
    assert isinstance(proxy, OutgoingProxy)
    assert (proxy.url, str(proxy)) == ("https://p.example:3129", "p.example:3129")


def test_credentials_are_apart_from_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password goes into one header, decoded, and into no text."""
    monkeypatch.setenv("HTTPS_PROXY", "http://vault:p%40ss@p.example:3128")
    proxy = OutgoingProxies.read().of("https://a.example/")
    assert isinstance(proxy, OutgoingProxy)
    assert proxy.headers == {"Proxy-Authorization": "Basic dmF1bHQ6cEBzcw=="}
    assert (proxy.url, str(proxy)) == ("http://p.example:3128", "p.example:3128")
    assert "p@ss" not in repr(proxy)
    assert "dmF1" not in repr(proxy)
