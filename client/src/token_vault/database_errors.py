"""Turns Postgres' failures into the vault's errors.

Readers, workers and commands all classify them here. No message repeats what was sent to Postgres.
"""

from __future__ import annotations

import re
import socket
from enum import StrEnum

import psycopg

from token_vault.errors import AccessDenied, ConfigurationError, TemporarilyUnavailable, VaultError

# Seconds after which to ask a database again that did not answer.
RETRY_AFTER = 5.0


class DatabaseProblem(StrEnum):
    """What is wrong between this process and Postgres."""

    BAD_ADDRESS = "bad_address"
    DISK_FULL = "disk_full"
    LOCKED = "locked"
    LOST = "connection_lost"
    NO_DATABASE = "no_database"
    NO_RIGHT = "no_right"
    NO_SERVICE = "no_service"
    NOT_MIGRATED = "not_migrated"
    NO_MEMORY = "no_memory"
    OTHER = "other"
    READ_ONLY = "read_only"
    REFUSED = "refused"
    REFUSED_LOGIN = "refused_login"
    SILENT = "silent"
    STARTING = "starting"
    STOPPING = "stopping"
    TLS = "tls"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNKNOWN_HOST = "unknown_host"


class AnswerTimeout(psycopg.OperationalError):
    """Postgres took a statement and has not answered in time."""


# After one of these a connection is not used again, even if it is alive: after a failover it leads to a server that
# takes no writes, and so do the other connections of its pool.
_USELESS = frozenset(
    {
        DatabaseProblem.LOST, DatabaseProblem.READ_ONLY, DatabaseProblem.SILENT,
        DatabaseProblem.STARTING, DatabaseProblem.STOPPING,
    }
)  # fmt: skip

# Source: PostgreSQL documentation, appendix A. Class 08 is the connection's.
_BY_CODE = {
    "25006": DatabaseProblem.READ_ONLY,
    "25P03": DatabaseProblem.LOST,
    "28000": DatabaseProblem.REFUSED_LOGIN,
    "28P01": DatabaseProblem.REFUSED_LOGIN,
    "3D000": DatabaseProblem.NO_DATABASE,
    "3F000": DatabaseProblem.NOT_MIGRATED,
    "42501": DatabaseProblem.NO_RIGHT,
    "42703": DatabaseProblem.NOT_MIGRATED,
    "42883": DatabaseProblem.NOT_MIGRATED,
    "42P01": DatabaseProblem.NOT_MIGRATED,
    "53100": DatabaseProblem.DISK_FULL,
    "53200": DatabaseProblem.NO_MEMORY,
    "53300": DatabaseProblem.TOO_MANY_CONNECTIONS,
    "53400": DatabaseProblem.TOO_MANY_REQUESTS,
    "55P03": DatabaseProblem.LOCKED,
    "57P01": DatabaseProblem.STOPPING,
    "57P02": DatabaseProblem.STOPPING,
    "57P03": DatabaseProblem.STARTING,
    "57P05": DatabaseProblem.LOST,
}

# A failure to connect has no code, only text of libpq, the server or a pooler. The first pattern that matches wins.
_BY_TEXT = (
    (
        DatabaseProblem.REFUSED_LOGIN,
        "authentication failed|no pg_hba.conf entry|role .* does not exist|not permitted to log in|no password supplied"
        "|no such user|user not found|password that was provided",
    ),
    (DatabaseProblem.NO_RIGHT, "permission denied for database"),
    (DatabaseProblem.NO_SERVICE, "definition of service .* not found|service file .* not found"),
    (DatabaseProblem.NO_DATABASE, "database .* does not exist|no such database"),
    (
        DatabaseProblem.TOO_MANY_CONNECTIONS,
        "too many (clients|connections)|connection slots are reserved|no more connections",
    ),
    (DatabaseProblem.READ_ONLY, "session is read-only|is (not )?in hot standby mode"),
    (DatabaseProblem.DISK_FULL, "No space left on device"),
    (DatabaseProblem.NO_MEMORY, "out of (shared )?memory"),
    (DatabaseProblem.STARTING, "is starting up|in recovery mode|not (yet )?accepting connections"),
    (DatabaseProblem.STOPPING, "is shutting down|due to administrator command"),
    (DatabaseProblem.UNKNOWN_HOST, "failed to resolve host|could not translate host name"),
    (
        DatabaseProblem.LOST,
        "closed (the connection )?unexpectedly|connection is (lost|closed)|EOF detected|unexpected eof"
        "|reset by peer|pgbouncer cannot connect|server_login_retry|server login has been failing",
    ),
    (DatabaseProblem.TLS, r"\bSSL\b|certificate"),
    (DatabaseProblem.REFUSED, "Connection refused|No such file or directory"),
    (DatabaseProblem.SILENT, "timeout|timed out|No route to host|unreachable"),
)

# The words of the server, a pooler or libpq in psycopg's message of a failed connection.
_REFUSAL = re.compile(r"connection to server .*? failed: (.+)")
_MAX_QUOTED_CHARACTERS = 200

NOT_MIGRATED = "the database is not migrated to this version: run `token-vault migrate`"
_REFUSED = (
    "Postgres refuses the connection: check user, password and database in DATABASE_URL, and the server's log"
)

_PASSING = {
    DatabaseProblem.DISK_FULL: "Postgres' disk is full: make room there",
    DatabaseProblem.LOCKED: (
        "Postgres waited in vain for a lock that another connection holds (pg_stat_activity names it): try again when "
        "that one is done"
    ),
    DatabaseProblem.LOST: (
        "Postgres does not answer: the connection was lost. If that lasts, see to Postgres and to what stands before it"
    ),
    DatabaseProblem.NO_MEMORY: (
        "Postgres has no memory left, or no place for one more lock: end the connection that holds most in pg_locks"
    ),
    DatabaseProblem.READ_ONLY: (
        "this Postgres is read-only, as a replica is, and stores nothing: point DATABASE_URL to the primary"
    ),
    DatabaseProblem.REFUSED: (
        "Postgres does not answer: the connection was refused. Check that it runs, and host and port in DATABASE_URL"
    ),
    DatabaseProblem.SILENT: (
        "Postgres does not answer in time: check host and port in DATABASE_URL, firewalls, and whether a pooler is paused"
    ),
    DatabaseProblem.STARTING: "Postgres does not answer: it is starting or recovering, and will",
    DatabaseProblem.STOPPING: "Postgres does not answer: it has ended the connection, as for a restart or a failover",
    DatabaseProblem.TLS: (
        "Postgres does not answer over TLS: check sslmode and sslrootcert in DATABASE_URL, and the server's certificate"
    ),
    DatabaseProblem.TOO_MANY_CONNECTIONS: (
        "Postgres has no connection left: raise max_connections, or run fewer processes"
    ),
    DatabaseProblem.TOO_MANY_REQUESTS: (
        "as many refresh requests of this Postgres role wait already as may: is a worker on queue `interactive` alive?"
    ),
    DatabaseProblem.UNKNOWN_HOST: (
        "Postgres does not answer: the host in DATABASE_URL has no address. Correct the name, or see to DNS"
    ),
}

_MISTAKES = {
    DatabaseProblem.NO_DATABASE: "the database named in DATABASE_URL does not exist: create it",
    DatabaseProblem.NO_SERVICE: (
        "DATABASE_URL or PGSERVICE names a service that the service file does not define: correct the name, or the file "
        "(~/.pg_service.conf, or PGSERVICEFILE)"
    ),
    DatabaseProblem.NOT_MIGRATED: NOT_MIGRATED,
    DatabaseProblem.REFUSED_LOGIN: "Postgres refuses the user or password in DATABASE_URL",
}


def classify(error: BaseException | None) -> DatabaseProblem:
    """Say what an error of psycopg or a socket means."""
    code = getattr(error, "sqlstate", None)
    if code is not None:
        return DatabaseProblem.LOST if code.startswith("08") else _BY_CODE.get(code, DatabaseProblem.OTHER)
    if isinstance(error, AnswerTimeout | psycopg.errors.ConnectionTimeout | TimeoutError):
        return DatabaseProblem.SILENT
    if isinstance(error, socket.gaierror):
        return DatabaseProblem.UNKNOWN_HOST
    if isinstance(error, psycopg.ProgrammingError):
        return DatabaseProblem.BAD_ADDRESS  # libpq could not even read it
    text = str(error).partition("\nMultiple connection attempts")[0]
    return next((problem for problem, pattern in _BY_TEXT if re.search(pattern, text)), DatabaseProblem.OTHER)


def is_useless(error: BaseException | None) -> bool:
    """Whether a connection must not be used after this error."""
    return classify(error) in _USELESS


def failure(error: BaseException | None) -> VaultError:
    """Turn psycopg's error into one of the vault's.

    Args:
        error: its text is quoted only where it is an unknown refusal of the connection.
    """
    found = _failure(error)
    found.server = _server(error)
    return found


def _failure(error: BaseException | None) -> VaultError:
    problem = classify(error)
    if problem is DatabaseProblem.BAD_ADDRESS:
        return not_a_url()
    if problem is DatabaseProblem.NO_RIGHT:
        return AccessDenied(
            "the Postgres role in DATABASE_URL may not do this: grant it what docs/operating.md lists"
        )
    if problem in _MISTAKES:
        return ConfigurationError(_MISTAKES[problem])
    code = getattr(error, "sqlstate", None)
    unknown = (
        f"Postgres does not answer ({code or type(error).__name__})"
        if code or not _refusal(error)
        else _REFUSED
    )
    return TemporarilyUnavailable(_PASSING.get(problem, unknown), RETRY_AFTER)


def _server(error: BaseException | None) -> str | None:
    """Return where a connection was attempted, if known.

    The server's words are quoted where ``classify`` does not know them.
    """
    if (attempt := getattr(error, "pgconn", None)) is not None and attempt.host:
        host, port = attempt.host.decode(), attempt.port.decode()
        where = f"socket {host}" if host.startswith("/") else f"host {host}, port {port}"
        return (
            f'{where}: "{refusal}"'
            if classify(error) is DatabaseProblem.OTHER and (refusal := _refusal(error))
            else where
        )
    named = re.match(r"failed to resolve host '([^']*)'", str(error))
    return f"host {named[1]}" if named else None


def _refusal(error: BaseException | None) -> str | None:
    """Return the server's words about a refused connection.

    They may be in any language; user, password and database are left out.
    """
    attempt, refusal = getattr(error, "pgconn", None), _REFUSAL.search(str(error))
    if attempt is None or refusal is None:
        return None
    quoted = refusal[1]
    for sent in sorted(filter(None, (attempt.user, attempt.password, attempt.db)), key=len, reverse=True):
        quoted = quoted.replace(sent.decode(errors="replace"), "…")
    return "".join(each if each.isprintable() else "�" for each in quoted[:_MAX_QUOTED_CHARACTERS])


def not_a_url() -> ConfigurationError:
    """Return the error for an address that cannot be parsed.

    It shows nothing of the address, which holds a password.
    """
    return ConfigurationError("DATABASE_URL is not a database URL: postgresql://user:password@host/name")
