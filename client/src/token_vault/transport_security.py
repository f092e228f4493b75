"""Requires TLS towards a Postgres on another host."""

from __future__ import annotations

import os
from ipaddress import ip_address

from token_vault.errors import ConfigurationError
from token_vault.postgres_address import PostgresAddress


def require_tls(address: PostgresAddress) -> None:
    """Refuse another host for which no ``sslmode`` is set.

    libpq's default sends the password to any server that answers. Any ``sslmode`` in the URL or in ``PGSSLMODE`` is
    the operator's decision, and is accepted.

    Raises:
        ConfigurationError: the host is not this machine, and no ``sslmode`` is set.
    """
    if _is_unprotected(address):
        raise ConfigurationError(
            f"{address.variable} names another host and no sslmode: add ?sslmode=verify-full (with sslrootcert=system, or the "
            "path of the authority's certificate); where the network is yours alone, say sslmode=disable"
        )


def _is_unprotected(address: PostgresAddress) -> bool:
    given = address.parameters
    if any(given.get(name) or os.environ.get(f"PG{name.upper()}") for name in ("sslmode", "service")):
        return False
    return not all(map(_is_here, address.host_names))


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    if not host or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
