"""What is wrong with Postgres is said as what it is."""

from __future__ import annotations

import psycopg
import pytest

from token_vault.database_errors import AnswerTimeout, DatabaseProblem, classify, failure, is_useless
from token_vault.errors import TemporarilyUnavailable

TEXTS = {
    'connection failed: connection to server at "10.0.0.1", port 5432 failed: Connection refused': DatabaseProblem.REFUSED,
    "failed to resolve host 'db.invalid': [Errno -2] Name or service not known": DatabaseProblem.UNKNOWN_HOST,
    'connection failed: FATAL:  password authentication failed for user "u"': DatabaseProblem.REFUSED_LOGIN,
    'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "u", database "d", no encryption': (
        DatabaseProblem.REFUSED_LOGIN
    ),
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
