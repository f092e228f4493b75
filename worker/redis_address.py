"""Parses the address of Redis, for all its users.

redis-py, kombu and Celery parse URLs differently. So none of them is given the operator's URL, only its parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret, SecretDict
from token_vault.url_parts import ENCODE, find_wrong_encoding, is_port, query

EXAMPLE = "redis://:password@host:6379/0"
NO_CLUSTER = (
    "Redis Cluster cannot carry Celery's queues, which need keys of several slots in one transaction: name a Redis "
    "without cluster mode, or Sentinels (sentinel://host:26379?master_name=…)"
)

_DEFAULT_PORTS = {"sentinel": 26379}
_SCHEMES = {
    "redis": ("tcp", False),
    "valkey": ("tcp", False),
    "rediss": ("tcp", True),
    "valkeys": ("tcp", True),
    "unix": ("unix", False),
    "redis+socket": ("unix", False),
    "redis+unix": ("unix", False),
    "sentinel": ("sentinel", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password")
_MASTER = ("master_name", "service_name", "master")
_DATABASE = ("db", "virtual_host")
# Accepted and ignored: each part of the program has values of its own for these.
_IGNORED = (
    "socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval", "retry_on_timeout",
    "max_connections", "client_name", "protocol", "decode_responses", "visibility_timeout",
)  # fmt: skip
_KNOWN = {
    *_TLS_FILES, *_MASTER, *_DATABASE, *_IGNORED, "ssl_cert_reqs", "ssl_check_hostname", "username", "password",
    "sentinel_username", "sentinel_password",
}  # fmt: skip
_CERT_REQS = ("none", "optional", "required")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is, and how to log in.

    Attributes:
        servers: host and port of Redis, or of each Sentinel; empty for a Unix socket.
        path: of the Unix socket.
        database: its number.
        login: username and password, if given.
        tls: redis-py's arguments for TLS, or empty; certificates are verified unless the URL says otherwise.
        master: the name by which Sentinels know the primary.
        sentinel_login: username and password for the Sentinels themselves.
    """

    servers: tuple[tuple[str, int], ...]
    path: str = ""
    database: int = 0
    login: SecretDict = field(default_factory=SecretDict)
    tls: SecretDict = field(default_factory=SecretDict)
    master: str = ""
    sentinel_login: SecretDict = field(default_factory=SecretDict)

    @classmethod
    def parse(cls, text: str | Secret) -> RedisAddress:
        """Parse an address.

        Raises:
            ConfigurationError: it says what is wrong and the fix, and quotes nothing that may be a password.
        """
        address = Secret(text.strip()) if isinstance(text, str) else Secret(text.reveal().strip())
        del text  # so that no traceback shows it
        found = _parse(address)
        if isinstance(found, str):
            raise ConfigurationError(f"REDIS_URL is not an address of Redis: it {found}")
        return found


def _parse(address: Secret) -> RedisAddress | str:
    """Parse an address, or say what is wrong with it."""
    text = address.reveal()
    if text[:1] in "\"'" and text[:1] == text[-1:]:
        return f"is empty or in quotes, which are a part of it here: {EXAMPLE}"
    scheme = text.partition("://")[0].lower()
    if "cluster" in scheme and re.fullmatch(r"[a-z+-]+", scheme):
        return f"names a cluster. {NO_CLUSTER}"
    if "://" not in text or scheme not in _SCHEMES:
        return f"begins with none of {', '.join(f'{each}://' for each in _SCHEMES)}; such as {EXAMPLE}"
    kind, is_tls = _SCHEMES[scheme]
    # Celery names several Sentinels by a whole URL each, with semicolons between. Any other one is part of a password.
    whole = re.split(rf";{re.escape(scheme)}://", f";{text}", flags=re.IGNORECASE)[1:]
    first, *others = (Secret(each) for each in whole)
    fault = next((found for each in (first, *others) if (found := _find_fault(each, kind))), None)
    return fault or _assemble(first, others, kind, is_tls=is_tls)


def _split(rest: Secret) -> tuple[str, str, str, str]:
    """Split what follows ``://`` into user, servers, path and parameters."""
    before, _, parameters = rest.reveal().partition("?")
    authority, _, path = before.partition("/")
    user, _, servers = authority.rpartition("@")
    return user, servers, path, parameters


def _find_fault(rest: Secret, kind: str) -> str | None:
    user, servers, path, parameters = _split(rest)
    names = {name for name, _ in query(parameters)}
    strays = "@" in user or ("@" in path and kind != "unix") or ("@" in parameters and not names <= _KNOWN)
    if strays:
        return f"has an @, / or ? that nobody can tell from the one that ends the password: {ENCODE}"
    if kind == "unix" and (servers or not path):
        return "names no socket: unix:///run/redis/redis.sock?db=0"
    return find_wrong_encoding(rest) or _find_unknown(names) or _find_wrong_server(servers, kind)


def _find_unknown(names: set[str]) -> str | None:
    for name in sorted(names - _KNOWN):
        return f"has an unknown parameter{f' {name}: remove it' if re.fullmatch('[a-z_]{1,40}', name) else ' after its ?'}"
    return None


def _find_wrong_server(servers: str, kind: str) -> str | None:
    if kind == "tcp" and "," in servers:
        return f"names several hosts. {NO_CLUSTER}"
    for server in servers.split(","):
        read = re.fullmatch(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", server)
        if read is None or not (read[1] in (None, "") or is_port(read[1])):
            return "has a port that is no number from 1 to 65535, or an IPv6 address without brackets: redis://[::1]:6379/0"
    return None


def _assemble(first: Secret, others: list[Secret], kind: str, *, is_tls: bool) -> RedisAddress | str:
    """Return the address of all URLs, or a fault."""
    user, servers, path, parameters = _split(first)
    given = SecretDict(query(parameters))
    for other in others:
        given.update(query(_split(other)[3]))
    name, separator, password = user.partition(":")
    login = SecretDict(
        username=unquote(name) or given.get("username"),
        password=(unquote(password) if separator else None) or given.get("password"),
    )
    tls = _tls(given) if is_tls else SecretDict()
    if isinstance(tls, str):
        return tls
    if not is_tls and any(each.startswith("ssl_") for each in given):
        return "has ssl_… and no TLS: write rediss:// (or rediss+sentinel://)"
    named = _master_and_database(path, given, kind)
    if isinstance(named, str):
        return named
    hosts = [host for each in (servers, *(_split(other)[1] for other in others)) for host in each.split(",")]
    port = _DEFAULT_PORTS.get(kind, 6379)
    return RedisAddress(
        servers=() if kind == "unix" else tuple(_server(host, port) for host in hosts),
        path=f"/{unquote(path)}" if kind == "unix" else "",
        database=named[1],
        login=_without_empty(login),
        tls=tls,
        master=named[0],
        sentinel_login=_without_empty(
            SecretDict(username=given.get("sentinel_username"), password=given.get("sentinel_password"))
        ),
    )


def _master_and_database(path: str, given: SecretDict, kind: str) -> tuple[str, int] | str:
    """Return the Sentinels' master and the database, or a fault.

    Both may be in the path, ``/master/number``, or among the parameters.
    """
    segments = [] if kind == "unix" else [unquote(each) for each in path.split("/") if each]
    master = ""
    if kind == "sentinel":
        master = next((str(given[each]) for each in _MASTER if given.get(each)), "")
        if segments and not segments[0].isdigit():
            master = segments.pop(0)
        if not master:
            return "names Sentinels and not what they watch: add ?master_name=…"
    number = next((str(given[each]) for each in _DATABASE if given.get(each)), "")
    if segments:
        number = segments.pop(0)
    if segments or not (not number or (number.isascii() and number.isdigit())):
        return "has a database that is no number: redis://host:6379/0"
    return master, int(number or 0)


def _server(text: str, default: int) -> tuple[str, int]:
    host, _, port = (
        text.rpartition(":") if re.search(r":\d*$", text) and not text.endswith("]") else (text, "", "")
    )
    return unquote(host).strip("[]") or "localhost", int(port or default)


def _without_empty(values: SecretDict) -> SecretDict:
    return SecretDict({name: value for name, value in values.items() if value})


def _tls(given: SecretDict) -> SecretDict | str:
    """Return redis-py's arguments for TLS, or a fault.

    Certificates are verified by default: kombu alone accepts any, and would send the password to any server that
    answers. ``ssl_cert_reqs=none`` in the URL is the operator's decision.
    """
    required = str(given.get("ssl_cert_reqs", "required")).lower().removeprefix("cert_")
    if required not in _CERT_REQS:
        return f"has an unknown value of ssl_cert_reqs: it is one of {', '.join(_CERT_REQS)}"
    check = str(given.get("ssl_check_hostname", "true")).lower()
    if check not in _BOOLEANS:
        return "has an unknown value of ssl_check_hostname: it is true or false"
    return SecretDict(
        ssl_cert_reqs=required,
        ssl_check_hostname=_BOOLEANS[check] and required != "none",
        **{name: given[name] for name in _TLS_FILES if given.get(name)},
    )
