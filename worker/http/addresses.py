"""Which addresses are internal: only the operator may name them."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from worker.http.loopback import is_loopback

# IPv6 addresses that contain an IPv4 address: NAT64 (RFC 6052).
_NAT64 = ip_network("64:ff9b::/96")
# All public IPv6 addresses (RFC 4291, section 2.4, by IANA's allocation). Python takes others for public too, some of
# which lead to internal IPv4 addresses: NAT64 of one network (64:ff9b:1::/48, RFC 8215), ::/96, ::ffff:0:0:0/96.
_GLOBAL_UNICAST = ip_network("2000::/3")


def is_internal(address: str) -> bool:
    """Whether an address is not on the public Internet.

    Internal are loopback, private, shared (RFC 6598), link-local with the clouds' metadata services, multicast and
    reserved addresses, in IPv4, IPv6, and IPv4 inside IPv6; of IPv6 all but global unicast.

    Raises:
        ValueError: it is not an address.
    """
    found = _inner(ip_address(address.partition("%")[0]))
    is_public = found.is_global and not found.is_multicast
    return not is_public or (isinstance(found, IPv6Address) and found not in _GLOBAL_UNICAST)


def is_internal_literal(host: str | None) -> bool:
    """Whether a URL's host is an internal address or ``localhost``.

    Nothing is resolved.
    """
    try:
        return is_internal(host or "")
    except ValueError:
        return is_loopback(host)


def may_connect(host: str, address: str, named: Collection[str]) -> bool:
    """Whether a request for a host may use this address.

    Args:
        host: the name in the URL.
        address: what it resolved to.
        named: the hosts that the operator names in the settings. They may be private, but not link-local: no name is
            meant to lead to a cloud's metadata service.
    """
    if not is_internal(address):
        return True
    name = host.lower().removesuffix(".")
    found = _inner(ip_address(address.partition("%")[0]))
    if is_loopback(name):  # the URL's own check has allowed it
        return found.is_loopback
    return name in named and not found.is_link_local and not found.is_multicast and not found.is_unspecified


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address inside an IPv6 one, or itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
