"""What is wrong with Postgres is said as what it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from token_vault.database_errors import AnswerTimeout, DatabaseProblem, classify, failure, is_useless
from token_vault.errors import ConfigurationError, TemporarilyUnavailable

TEXTS = {
    'connection failed: connection to server at "10.0.0.1", port 5432 failed: Connection refused': DatabaseProblem.REFUSED,
    "failed to resolve host 'db.invalid': [Errno -2] Name or service not known": DatabaseProblem.UNKNOWN_HOST,
    'connection failed: FATAL:  password authentication failed for user "u"': DatabaseProblem.REFUSED_LOGIN,
    'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "u", database "d", no encryption': (
        DatabaseProblem.REFUSED_LOGIN
    ),
    'connection failed: FATAL:  role "u" is not permitted to log in': DatabaseProblem.REFUSED_LOGIN,
    "connection failed: fe_sendauth: no password supplied": DatabaseProblem.REFUSED_LOGIN,
    "connection failed: FATAL:  Tenant or user not found": DatabaseProblem.REFUSED_LOGIN,
    "connection failed: FATAL:  The password that was provided for the role u is wrong.": DatabaseProblem.REFUSED_LOGIN,
    'connection failed: FATAL:  permission denied for database "d"': DatabaseProblem.NO_RIGHT,
    'connection failed: FATAL:  database "d" does not exist': DatabaseProblem.NO_DATABASE,
    "connection failed: FATAL:  sorry, too many clients already": DatabaseProblem.TOO_MANY_CONNECTIONS,
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute": (
        DatabaseProblem.TOO_MANY_CONNECTIONS
    ),
    "connection failed: FATAL:  no more connections allowed (max_client_conn)": DatabaseProblem.TOO_MANY_CONNECTIONS,
    "connection failed: FATAL:  the database system is starting up": DatabaseProblem.STARTING,
    "connection failed: FATAL:  the database system is shutting down": DatabaseProblem.STOPPING,
    "connection failed: session is read-only": DatabaseProblem.READ_ONLY,
    "server does not support SSL, but SSL was required": DatabaseProblem.TLS,
    "connection failed: SSL error: certificate verify failed": DatabaseProblem.TLS,
    "consuming input failed: SSL connection has been closed unexpectedly": DatabaseProblem.LOST,
    "consuming input failed: server closed the connection unexpectedly": DatabaseProblem.LOST,
    "consuming input failed: could not receive data from server: Connection timed out": DatabaseProblem.SILENT,
    "the connection is lost": DatabaseProblem.LOST,
    "connection failed: FATAL:  pgbouncer cannot connect to server": DatabaseProblem.LOST,
    "something new": DatabaseProblem.OTHER,
}


@pytest.mark.parametrize(("text", "problem"), TEXTS.items())
def test_a_failed_connection_is_classified_by_its_text(text: str, problem: DatabaseProblem) -> None:
    """A failure to connect has no code: libpq's, the server's or a pooler's text decides."""
    assert classify(psycopg.OperationalError(text)) is problem


@pytest.mark.parametrize(
    ("error", "problem", "useless"),
    [
        (psycopg.errors.ReadOnlySqlTransaction(), DatabaseProblem.READ_ONLY, True),
        (psycopg.errors.AdminShutdown(), DatabaseProblem.STOPPING, True),
        (psycopg.errors.CrashShutdown(), DatabaseProblem.STOPPING, True),
        (psycopg.errors.CannotConnectNow(), DatabaseProblem.STARTING, True),
        (psycopg.errors.ConnectionFailure(), DatabaseProblem.LOST, True),
        (psycopg.errors.IdleSessionTimeout(), DatabaseProblem.LOST, True),
        (AnswerTimeout(), DatabaseProblem.SILENT, True),
        (psycopg.errors.ConnectionTimeout("connection timeout expired"), DatabaseProblem.SILENT, True),
        (psycopg.errors.DiskFull(), DatabaseProblem.DISK_FULL, False),
        (psycopg.errors.OutOfMemory(), DatabaseProblem.NO_MEMORY, False),
        (psycopg.OperationalError("FATAL:  out of shared memory"), DatabaseProblem.NO_MEMORY, False),
        (psycopg.errors.TooManyConnections(), DatabaseProblem.TOO_MANY_CONNECTIONS, False),
        (psycopg.errors.LockNotAvailable(), DatabaseProblem.LOCKED, False),
        (psycopg.errors.UniqueViolation(), DatabaseProblem.OTHER, False),
    ],
)
def test_a_useless_connection_is_known_by_its_code(
    error: psycopg.Error, problem: DatabaseProblem, useless: bool
) -> None:
    """A connection that is open but leads to no usable server is told from a statement that failed."""
    assert (classify(error), is_useless(error)) == (problem, useless)


def test_a_failure_names_the_server_and_no_secret() -> None:
    """Host and port are named where they are known; the password never is."""
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect("postgresql://user:canary@127.0.0.1:1/vault")
    told = failure(refused.value)
    assert isinstance(told, TemporarilyUnavailable)
    assert str(told).endswith("(host 127.0.0.1, port 1)")
    assert "canary" not in str(told)


class RefusedConnection(psycopg.OperationalError):
    """A refusal in words, of a server that asked for user, password and database."""

    class Attempt(SimpleNamespace):
        """What the driver remembers of the connection."""

    def __init__(self, said: str) -> None:
        """Give libpq's text around what was said."""
        super().__init__(
            f'connection failed: connection to server at "10.0.0.1", port 5432 failed: {said}\nFURTHER:  line'
        )
        self.attempt = self.Attempt(
            host=b"db.example", port=b"5432", user=b"app_user", password=b"vault-pa\xc3\x9fword", db=b"vault"
        )

    @property
    def pgconn(self) -> Any:
        """The attempt, as psycopg has it."""
        return self.attempt


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("FATAL:  Datenbank »vault« ist zu", "FATAL:  Datenbank »…« ist zu"),
        ("FATAL:  Passwort für »app_user« falsch", "FATAL:  Passwort für »…« falsch"),
        ("FATAL:  vault-paßword is no user", "FATAL:  … is no user"),
        ("FATAL:  endpoint\x1b[2J is disabled", "FATAL:  endpoint�[2J is disabled"),
        ("FATAL:  " + "x" * 500, "FATAL:  " + "x" * 192),
        ("server asks for a method that is not offered", "server asks for a method that is not offered"),
    ],
)
def test_a_refusal_in_unknown_words_is_quoted_without_what_was_sent(said: str, told: str) -> None:
    """Of a server in another language, or a service of its own words, the operator sees what it said."""
    message = str(failure(RefusedConnection(said)))
    assert message == (
        "Postgres refuses the connection: check user, password and database in DATABASE_URL, and the server's log "
        f'(host db.example, port 5432: "{told}")'
    )


def test_a_service_that_is_not_defined_is_a_mistake() -> None:
    """No address is asked where the service file lacks the name: the operator has to correct it."""
    with pytest.raises(psycopg.OperationalError) as undefined:
        psycopg.connect("service=undefined_here")
    told = failure(undefined.value)
    assert isinstance(told, ConfigurationError)
    assert "service" in str(told)
