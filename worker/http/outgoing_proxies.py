"""Outgoing proxies, from ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from urllib.parse import SplitResult, unquote, urlsplit

from token_vault.environment import read_secret
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.http.loopback import is_loopback

EXAMPLE = "http://proxy.example:3128"

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class OutgoingProxy:
    """An HTTP proxy that accepts CONNECT.

    Attributes:
        variable: the environment variable that names it.
        is_tls: whether the connection to the proxy itself is TLS.
        authorization: a header's value (RFC 9110 §11.7.2); None if the proxy needs none.
    """

    host: str
    port: int
    variable: str
    is_tls: bool = False
    authorization: Secret | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        scheme = "https" if self.is_tls else "http"
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of CONNECT, with the credentials."""
        return {"Proxy-Authorization": self.authorization.reveal()} if self.authorization else {}

    def is_beyond(self, error: BaseException) -> bool:
        """Whether a connection failed behind the proxy.

        For example by the destination's certificate, which is not the proxy's failure.
        """
        import aiohttp  # here, as beat reads the proxies too, and calls nobody

        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return False
        return isinstance(error, aiohttp.ClientConnectorError) and (error.host, error.port) != (
            self.host,
            self.port,
        )

    def explain(self, error: BaseException) -> str:
        """Say how it failed, and the fix."""
        import aiohttp

        where = f"the outgoing proxy {self} ({self.variable})"
        match error:
            case aiohttp.ClientHttpProxyError(status=401 | 407):
                return (
                    f"{where} refuses its user or password ({error.status}): correct them in {self.variable}"
                )
            case aiohttp.ClientHttpProxyError():
                return f"{where} opens no tunnel ({error.status}): see its rules and its log, or set NO_PROXY"
            case aiohttp.ClientSSLError():
                return (
                    f"{where} has a certificate that is not trusted, or speaks no TLS: name its authority in "
                    f"SSL_CERT_FILE, or write http:// in {self.variable}"
                )
            case aiohttp.ClientProxyConnectionError() | aiohttp.ClientConnectorDNSError():
                cause = error.os_error.strerror or type(error.os_error).__name__
                return f"{where} does not answer ({cause}): see to it, or correct {self.variable}"
            case TimeoutError():
                return f"{where} opens no tunnel in time: see to it, or correct {self.variable}"
            case _:
                return f"{where} breaks off: see its log, or correct {self.variable}"


@dataclass(frozen=True, slots=True)
class OutgoingProxies:
    """Which proxy a URL is called through.

    Attributes:
        by_scheme: the proxies, by the scheme of the URLs they are for.
        exceptions: hosts, domains and networks that are called directly.
    """

    by_scheme: Mapping[str, OutgoingProxy] = field(default_factory=lambda: MappingProxyType({}))
    exceptions: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> OutgoingProxies:
        """Read the environment.

        A name in lower case takes precedence, as with curl.

        Raises:
            ConfigurationError: it names the variable, never its value.
        """
        by_scheme = {}
        for scheme in _DEFAULT_PORTS:
            found = next(_named(f"{scheme}_proxy", "all_proxy"), None)
            if found is not None:
                by_scheme[scheme] = found
        exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        return cls(by_scheme, tuple(exceptions.lower().replace(",", " ").split()))

    def of(self, url: str) -> OutgoingProxy | None:
        """Return the proxy for a URL, if any.

        Loopback is always called directly.
        """
        parts = urlsplit(url)
        host, proxy = (parts.hostname or "").removesuffix("."), self.by_scheme.get(parts.scheme)
        if proxy is None or is_loopback(host):
            return None
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        return None if any(_matches(each, host, port) for each in self.exceptions) else proxy


def _named(*variables: str) -> Iterator[OutgoingProxy]:
    for variable in variables:
        if given := os.environ.get(variable):
            yield _parse(variable, Secret(given))
        elif secret := read_secret(variable.upper()):
            yield _parse(variable.upper(), secret)


def _parse(variable: str, value: Secret) -> OutgoingProxy:
    text = value.reveal().strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path not in ("", "/"):
        raise ConfigurationError(f"{variable} is not the address of a proxy with its port, such as {EXAMPLE}")
    if parts.scheme not in _DEFAULT_PORTS:
        raise ConfigurationError(
            f"{variable} names a proxy of another kind than {EXAMPLE}: SOCKS is not spoken; name an HTTP proxy, "
            "by http:// or https://"
        )
    return OutgoingProxy(host, port, variable, parts.scheme == "https", _authorization(parts))


def _authorization(parts: SplitResult) -> Secret | None:
    if parts.username is None:
        return None
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Secret(f"Basic {base64.b64encode(credentials.encode()).decode()}")


def _matches(exception: str, host: str, port: int) -> bool:
    """Whether an entry of ``NO_PROXY`` matches this host.

    An entry is ``*``, a domain including its subdomains, an address or a network; each may have a port.
    """
    if exception == "*":
        return True
    name, _, digits = exception.rpartition(":")
    if digits.isdigit() and (":" not in name or name.endswith("]")):
        if int(digits) != port:
            return False
        exception = name
    try:
        address = ip_address(host)
    except ValueError:
        domain = exception.removeprefix("*").removeprefix(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        return address in ip_network(exception.strip("[]"), strict=False)
    except ValueError:
        return False
