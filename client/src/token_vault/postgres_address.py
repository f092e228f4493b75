"""Parses the address of Postgres as several programs write it.

libpq parses its own URIs and keyword strings. What SQLAlchemy, asyncpg or JDBC add to them is removed first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret, SecretDict
from token_vault.url_parts import ENCODE, find_wrong_encoding, is_port, query

EXAMPLE = "postgresql://user:password@host/name"

_SCHEME = re.compile(r"((?:jdbc:)?[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# `postgres` is Heroku's scheme; after the plus sign SQLAlchemy names its driver.
_POSTGRES = re.compile(r"postgres(ql)?(\+\w+)?", re.IGNORECASE)
_NAME = re.compile(r"[a-z][a-z_0-9]{0,40}", re.IGNORECASE)

_ALLOWED = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
}
"""Values that libpq checks only when it connects.

Source: PostgreSQL documentation, 32.1.2 Parameter Key Words.
"""


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where Postgres is, and how to log in.

    Attributes:
        parameters: of libpq, as the address gives them.
        variable: the setting that holds the address, for messages.
    """

    parameters: SecretDict
    variable: str = "DATABASE_URL"

    @classmethod
    def parse(cls, text: str | Secret, variable: str = "DATABASE_URL") -> PostgresAddress:
        """Read an address.

        Raises:
            ConfigurationError: it names the variable, what is wrong and the fix, and quotes nothing of the address
                that may be a password.
        """
        address = Secret(text.strip()) if isinstance(text, str) else Secret(text.reveal().strip())
        del text  # so that no traceback shows it
        fault = _find_fault(address)
        parameters = SecretDict() if fault else _read(address)
        if not fault:
            fault = _find_unknown_value(parameters) if parameters is not None else _unreadable(address)
        if fault or parameters is None:
            raise ConfigurationError(f"{variable} {fault}")
        return cls(parameters, variable)

    @property
    def servers(self) -> tuple[str, ...]:
        """Return each server as ``host:port``."""
        return tuple(f"{host}:{port}" for host, port in self._hosts())

    @property
    def database(self) -> str:
        """Return the database's name, or an empty string."""
        return str(self.parameters.get("dbname") or os.environ.get("PGDATABASE") or "")

    @property
    def host_names(self) -> tuple[str, ...]:
        """Return hosts, addresses or socket folders, in order."""
        return tuple(host for host, _ in self._hosts())

    def _hosts(self) -> Iterator[tuple[str, str]]:
        # As in libpq, an address takes precedence over a name, whether given by a parameter or the environment.
        address = _first(self.parameters, "hostaddr") or os.environ.get("PGHOSTADDR")
        hosts = address or _first(self.parameters, "host") or os.environ.get("PGHOST") or ""
        given = _first(self.parameters, "port") or os.environ.get("PGPORT") or "5432"
        ports = given.split(",")
        for number, host in enumerate(hosts.split(",")):
            yield host, (ports[number] if number < len(ports) else ports[0]) or "5432"


def _first(parameters: SecretDict, *names: str) -> str:
    return next((str(value) for name in names if (value := parameters.get(name))), "")


def _find_fault(address: Secret) -> str | None:
    """Say what is wrong with an address' syntax."""
    text = address.reveal()
    if not text:
        return f"is empty: {EXAMPLE}"
    if text[0] in "\"'" and text[-1:] == text[0]:
        return "is in quotes, which are a part of it here: remove them"
    scheme = _SCHEME.match(text)
    if scheme is None:
        return None
    if not _POSTGRES.fullmatch(scheme[1]):
        return f"names {scheme[1]}: the vault needs postgresql://…"
    rest = Secret(text[scheme.end() :])
    return (
        _find_raw_character(rest)
        or _find_wrong_port(rest)
        or _find_unknown_parameter(query(rest.reveal().partition("?")[2]))
    )


def _find_raw_character(rest: Secret) -> str | None:
    """Find a character of a password that ends a part."""
    before, _, parameters = rest.reveal().partition("?")
    authority, _, path = before.partition("/")
    strays = authority.count("@") > 1 or "@" in path
    if "@" in parameters:
        names = {name for name, _ in query(parameters)}
        # An abstract socket's name begins with @, and user and password may be given as parameters.
        strays = strays or not names <= _keywords() or not ("@" in authority or names & {"host", "user"})
    if strays:
        return f"has an @, / or ? that nobody can tell from the one that ends the password: {ENCODE}"
    return find_wrong_encoding(rest)


def _find_wrong_port(rest: Secret) -> str | None:
    authority = re.split(r"[/?]", rest.reveal(), maxsplit=1)[0]
    for server in authority.rpartition("@")[2].split(","):
        host, _, after = server.rpartition("]") if server.startswith("[") else ("", "", server)
        if not host and after.count(":") > 1:
            return "has an IPv6 address without brackets: postgresql://user@[::1]:5432/name"
        port = after.partition(":")[2]
        if port and not is_port(port):
            return "has a port that is no number from 1 to 65535 (a / in the password is written %2F)"
    return None


def _find_unknown_parameter(parameters: list[tuple[str, str]]) -> str | None:
    known = {*_keywords(), "ssl"}
    for name, _ in parameters:
        if name not in known:
            return f"has a parameter that libpq does not know{_hint(name, known)}"
    return None


def _hint(name: str, known: set[str]) -> str:
    if alike := get_close_matches(name.lower(), known, n=1):
        return f": is `{alike[0]}` meant?"
    return f", `{name}`: remove it" if _NAME.fullmatch(name) else " after its ?"


def _keywords() -> set[str]:
    return {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}


def _read(address: Secret) -> SecretDict | None:
    """Have libpq parse it; None if it cannot."""
    try:
        return SecretDict(conninfo_to_dict(_to_libpq(address).reveal()))
    except (psycopg.Error, UnicodeError, ValueError):
        return None  # the error's message would quote parts of the password


def _to_libpq(address: Secret) -> Secret:
    """Remove what SQLAlchemy and asyncpg add to libpq's URI."""
    text = address.reveal()
    scheme = _SCHEME.match(text)
    if scheme is None:
        return address
    # SQLAlchemy leaves spaces unencoded, which libpq does not accept in a URI.
    before, _, after = text[scheme.end() :].replace(" ", "%20").partition("?")
    given = query(after)
    parameters = dict(given)
    if mode := parameters.pop("ssl", None):  # asyncpg's
        parameters["sslmode"] = {"true": "require", "false": "disable"}.get(mode.lower(), mode)
    servers = [value for name, value in given if name == "host"]
    if len(servers) > 1:  # SQLAlchemy's `?host=a:1&host=b:2`
        split = [server.partition(":") for server in servers]
        parameters["host"] = ",".join(host for host, _, _ in split)
        if any(port for _, _, port in split):
            parameters["port"] = ",".join(port or "5432" for _, _, port in split)
    encoded = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in parameters.items())
    return Secret(f"postgresql://{before}?{encoded}" if encoded else f"postgresql://{before}")


def _find_unknown_value(parameters: SecretDict) -> str | None:
    for name, allowed in _ALLOWED.items():
        if parameters.get(name) not in (None, *allowed):
            return f"has an unknown value of {name}: it is one of {', '.join(allowed)}"
    ports = str(parameters.get("port") or "")
    if not all(not port or is_port(port) for port in ports.split(",")):
        return "has a port that is no number from 1 to 65535"
    return None


def _unreadable(address: Secret) -> str:
    """Say what libpq could not parse."""
    text = address.reveal()
    if _SCHEME.match(text) is None and "=" in text:
        known = _keywords()
        for name in re.findall(r"(?:^|\s)(\w+)\s*=", text):
            if name not in known and (alike := get_close_matches(name, known, n=1)):
                return f"has a keyword that libpq does not know: is `{alike[0]}` meant?"
        return (
            "cannot be read: it is a URL or keywords such as host=… dbname=…; a value with a space is written in "
            "quotes, '…', and a quote or backslash in it with a backslash before it"
        )
    return f"is not a database URL: {EXAMPLE}"
