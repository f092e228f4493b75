"""One rule says which hosts are this machine."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.auth0 import Credentials
from worker.http.loopback import is_https, is_loopback
from worker.providers import Client, Override, resolve
from worker.settings.webhooks import WebhookSettings

NETWORK = IPv4Network("127.0.0.0/8")
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
LOOPBACK_ADDRESS = st.integers(int(NETWORK[0]), int(NETWORK[-1])).map(IPv4Address)
IPV4 = st.integers(0, 2**32 - 1).map(IPv4Address)


def mapped(address: IPv4Address) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}")


@given(LOOPBACK_ADDRESS)
def test_all_of_127_is_loopback(address: IPv4Address) -> None:
    """Each address of 127.0.0.0/8 is loopback, mapped into IPv6 as well."""
    assert is_loopback(str(address))
    assert is_loopback(str(mapped(address)))


@given(IPV4)
def test_no_other_ipv4_address_is_loopback(address: IPv4Address) -> None:
    """An address outside 127.0.0.0/8 is not loopback, mapped or not."""
    assume(address not in NETWORK)
    assert not is_loopback(str(address))
    assert not is_loopback(str(mapped(address)))


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_of_ipv6_one_address_is_loopback(address: IPv6Address) -> None:
    """Of the addresses that are not mapped, ``::1`` alone is loopback."""
    assume(address.ipv4_mapped is None)
    assert is_loopback(str(address)) == (address == IPv6Address("::1"))


@given(st.lists(LABEL, max_size=3))
def test_localhost_and_names_below_are_loopback(labels: list[str]) -> None:
    """``localhost`` and ``*.localhost`` are loopback, in any case."""
    name = ".".join([*labels, "localhost"])
    assert is_loopback(name)
    assert is_loopback(name.upper())


@pytest.mark.parametrize("scheme", ["ftp", "ws", "redis", ""])
def test_plain_http_alone_goes_to_loopback(scheme: str) -> None:
    """No other scheme counts as https, wherever it leads."""
    assert is_https(urlsplit("http://localhost/"))
    assert not is_https(urlsplit(f"{scheme}://localhost/"))


@given(LOOPBACK_ADDRESS.map(str) | st.sampled_from(["localhost", "a.localhost", "::1"]), LABEL)
def test_names_that_only_begin_like_loopback_are_not(host: str, label: str) -> None:
    """Whoever owns ``example`` may name a host ``127.0.0.1.evil.example``."""
    for suffix in (f".{label}.example", ".com", f"-{label}.example", "@evil.example"):
        assert not is_loopback(host + suffix)


@pytest.mark.parametrize(
    "host",
    [None, "", "localhost.", "mylocalhost", "localhost.evil.example", "127.0.0.1.evil.example", "127.1", "0.0.0.0",
     "0x7f000001", "2130706433", "0177.0.0.1", "::", "10.0.0.1", "127.0.0.1 ", "[::1]"],
)  # fmt: skip
def test_what_only_looks_like_loopback_is_not(host: str | None) -> None:
    """Neither odd spellings of an address nor names that hold one are loopback."""
    assert not is_loopback(host)


@given(
    LOOPBACK_ADDRESS.map(str)
    | IPV4.map(str)
    | st.sampled_from(["[::1]", "[::2]", "[::ffff:127.9.9.9]", "a.localhost", "evil.example"])
)
def test_every_check_goes_by_the_rule(host: str) -> None:
    """Plain HTTP to a host is allowed by all checks or by none."""
    assume(host not in ("0.0.0.0", "255.255.255.255"))
    expected = is_loopback(urlsplit(f"http://{host}/").hostname)
    assert _is_tenant(host) is expected
    assert _is_webhook(host) is expected
    url = f"http://{host}:9/token"
    assert (
        isinstance(
            resolve(
                "github",
                {"client_id": "i", "client_secret": "s"},
                Override(token_url=url),
                allow_loopback_http=True,
            ),
            Client,
        )
        is expected
    )


def _is_tenant(host: str) -> bool:
    try:
        Credentials(f"http://{host}", "id", Secret("secret"))
    except ConfigurationError:
        return False
    return True


def _is_webhook(host: str) -> bool:
    try:
        WebhookSettings(url=f"http://{host}:9/hook", secret="whsec_" + "A" * 43 + "=")
    except ValueError:
        return False
    return True
