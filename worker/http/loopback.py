"""Which hosts are this machine, where plain HTTP may go."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import SplitResult

_NAME = "localhost"


def is_loopback(host: str | None) -> bool:
    """Whether a host's name or address is this machine's.

    Nothing is resolved. Loopback are 127.0.0.0/8, ``::1``, these IPv4 addresses mapped into IPv6, ``localhost``
    and every name below it: by RFC 6761, section 6.3, resolvers answer these names with loopback addresses, and name
    servers do not answer them. Other spellings of an address (``127.1``, ``0x7f000001``) are not recognised.

    Args:
        host: of a URL, an IPv6 address without brackets; None for a URL without a host.
    """
    if not host:
        return False
    try:
        address = ip_address(host)
    except ValueError:
        name = host.lower()
        return name == _NAME or name.endswith(f".{_NAME}")
    # Before 3.13, Python's is_loopback is False for a mapped address.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def is_https(parts: SplitResult) -> bool:
    """Whether a URL has https, or http to loopback."""
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
