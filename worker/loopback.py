"""Which hosts are this machine, where plain HTTP may go."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

_NAME = "localhost"


def is_loopback(host: str | None) -> bool:
    """Whether a host's name or address is this machine's.

    Nothing is resolved. Loopback are 127.0.0.0/8, ``::1``, these IPv4 addresses mapped into IPv6, ``localhost``
    and every name below it: RFC 6761, section 6.3, has resolvers answer these with loopback and name servers with
    nothing. What a resolver may read as an address besides (``127.1``, ``0x7f000001``) is not taken for one.

    Args:
        host: as a URL holds it, an IPv6 address without brackets; None for a URL without a host.
    """
    if not host:
        return False
    try:
        address = ip_address(host)
    except ValueError:
        name = host.lower()
        return name == _NAME or name.endswith(f".{_NAME}")
    # Python before 3.13 does not look into a mapped address.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
