"""Which hosts a connection's tokens may be sent to.

Anybody who may edit a connection at Auth0 may set any token URL. So the tokens of a built-in provider are sent only to
its own hosts, and other tokens only to the first host, until the operator trusts another.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from worker.http.loopback import is_loopback
from worker.providers import registry
from worker.providers.base import Provider
from worker.providers.declared import OAUTH2, OIDC
from worker.providers.model import Problem

_DEFAULT_PORTS = {"https": 443, "http": 80}


def token_host(url: str) -> str:
    """Return a token URL's host in canonical form.

    With its port, unless that is the scheme's default. Requests for two URLs with the same result go to the same server.
    A name with non-ASCII characters only equals itself, as programs encode such names differently.
    """
    parts = urlsplit(url)
    name = (parts.hostname or "").removesuffix(".")
    with suppress(ValueError):
        address = ip_address(name)
        name = f"[{address}]" if address.version == 6 else str(address)
    default = _DEFAULT_PORTS.get(parts.scheme)
    return name if parts.port in (None, default) else f"{name}:{parts.port}"


def is_custom(strategy: str, provider: str | None) -> bool:
    """Whether only the token URL determines the provider.

    Args:
        provider: the one that the operator has set for the connection, if any.
    """
    return provider is None and registry.for_strategy(strategy) in (None, OAUTH2, OIDC)


def check_host(
    name: str, provider: Provider, url: str, trusted: str | None, *, custom: bool, emulated: bool
) -> Problem | None:
    """Return why a token URL may not be called.

    Args:
        name: the connection's.
        trusted: the connection's first host, or the one that the operator trusts; None for a new connection.
        custom: as ``is_custom`` returns it.
        emulated: whether the tenant is an emulated one on loopback, where its providers are too.
    """
    host = token_host(url)
    own = _own_hosts(provider)
    if host == trusted or (host in own and not custom):
        return None
    if trusted is None:
        is_local = emulated and is_loopback(urlsplit(url).hostname)
        if custom or is_local or not own or _is_below(provider, host):
            return None
    expected = trusted or " or ".join(sorted(own))
    return Problem(
        "token_host_changed",
        f"Auth0 shows a token URL at {host}, and this connection's tokens go to {expected}: nothing is sent. Find out "
        f"who changed it; if it is right, run `token-vault connections trust {name}`, or set token_url for the connection",
    )


def _own_hosts(provider: Provider) -> frozenset[str]:
    default = provider.endpoint({})
    exact = (host for host in provider.hosts if not host.startswith("."))
    return frozenset((*exact, *([token_host(default)] if default else [])))


def _is_below(provider: Provider, host: str) -> bool:
    """Whether a host is below one of the provider's domains."""
    return any(domain.startswith(".") and host.endswith(domain) for domain in provider.hosts)
