"""Connects readers and workers to Postgres, with the vault's settings.

``ALTER DATABASE … SET`` and ``ALTER ROLE … SET`` were made for other programs, so each connection overrides them with
the vault's own settings. They are sent as libpq's ``options``, which costs no statement. Where a pooler refuses
``options``, the connection is made without them. Then the formats that Postgres reports are compared, and set by a
statement where they differ: these few settings a pooler keeps separately for each client.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psycopg

from token_vault.bounded_connection import AsyncBoundedConnection, BoundedConnection
from token_vault.postgres_address import PostgresAddress
from token_vault.secret import SecretDict

CONNECT_ARGS: Mapping[str, Any] = {
    "connect_timeout": 10,
    # Detect a host that lost power within ten seconds; the kernel's defaults are 15 minutes and two hours.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Defaults for what the address leaves out: seconds, ``tcp_user_timeout`` milliseconds; unused on Unix sockets.

Source: PostgreSQL documentation, 32.1.2 Parameter Key Words.
"""

DEFAULTS: Mapping[str, str] = {
    # Postgres' own default. The vault may live in another schema if the address says so: `?options=-csearch_path%3D…`.
    "search_path": '"$user",public,pg_temp',
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",  # pools and listeners may be idle; keepalives detect a lost server
}
"""Settings that ``options`` in the address may override."""

REPORTED: Mapping[str, str] = {
    # psycopg parses only these formats of dates and intervals.
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
}
"""Settings whose current value Postgres and poolers report to the client."""

FIXED: Mapping[str, str] = {
    **REPORTED,
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    # Claims and compare-and-swap depend on it.
    "default_transaction_isolation": "read committed",
}
"""Settings that the vault's statements depend on; the address cannot override them."""

# Servers that refused `options`, as poolers do.
_without_options: set[tuple[str, ...]] = set()

_PID = "SELECT pg_backend_pid()"
_SET = f"SELECT {', '.join(['set_config(%s, %s, false)'] * len(REPORTED))}"
_SET_VALUES = [part for pair in REPORTED.items() for part in pair]


def connect(
    address: PostgresAddress,
    application_name: str,
    *,
    settings: Mapping[str, str] | None = None,
    answer_seconds: float | None = None,
    **driver: Any,
) -> BoundedConnection:
    """Connect, with the vault's settings.

    Args:
        application_name: what ``pg_stat_activity`` shows, unless the address says otherwise.
        settings: further ones, which the address may change.
        answer_seconds: how long to wait for each answer; None without an end.
        driver: arguments of psycopg.

    Raises:
        psycopg.Error: as the driver raises it.
    """
    parameters = _parameters(address, application_name, settings or {})
    try:
        connection = BoundedConnection.connect(**parameters, **driver)
    except psycopg.OperationalError as error:
        if not _refuses_options(error, address):
            raise
        connection = BoundedConnection.connect(**_without(parameters, address), **driver)
    connection.answer_seconds = answer_seconds
    try:
        _note_pooler(connection, connection.execute(_PID, prepare=False).fetchone())
        if _differs(connection):
            connection.execute(_SET, _SET_VALUES, prepare=False)
        if not connection.autocommit:
            connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


async def connect_async(
    address: PostgresAddress,
    application_name: str,
    *,
    settings: Mapping[str, str] | None = None,
    answer_seconds: float | None = None,
    **driver: Any,
) -> AsyncBoundedConnection:
    """Connect for asyncio; arguments and errors as ``connect``."""
    parameters = _parameters(address, application_name, settings or {})
    try:
        connection = await AsyncBoundedConnection.connect(**parameters, **driver)
    except psycopg.OperationalError as error:
        if not _refuses_options(error, address):
            raise
        connection = await AsyncBoundedConnection.connect(**_without(parameters, address), **driver)
    connection.answer_seconds = answer_seconds
    try:
        _note_pooler(connection, await (await connection.execute(_PID, prepare=False)).fetchone())
        if _differs(connection):
            await connection.execute(_SET, _SET_VALUES, prepare=False)
        if not connection.autocommit:
            await connection.commit()
    except BaseException:
        await connection.close()
        raise
    return connection


def _parameters(address: PostgresAddress, application_name: str, settings: Mapping[str, str]) -> SecretDict:
    given = address.parameters
    options = _options(str(given.get("options") or os.environ.get("PGOPTIONS") or ""), settings)
    parameters = SecretDict(
        {
            **CONNECT_ARGS,
            "application_name": application_name,
            **given,
            "client_encoding": "UTF8",
            "options": options,
        }
    )
    return _without(parameters, address) if address.servers in _without_options else parameters


def _without(parameters: SecretDict, address: PostgresAddress) -> SecretDict:
    """Keep only the options that the address gives."""
    return SecretDict({**parameters, "options": address.parameters.get("options") or ""})


def _options(given: str, settings: Mapping[str, str]) -> str:
    """Write ``options``; the last value of a setting wins."""
    return " ".join([*_switches({**DEFAULTS, **settings}), *([given] if given else []), *_switches(FIXED)])


def _switches(settings: Mapping[str, str]) -> list[str]:
    return [f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items()]


def _refuses_options(error: psycopg.OperationalError, address: PostgresAddress) -> bool:
    """Whether a pooler refused ``options``; remember that it did."""
    refuses = "unsupported startup parameter" in str(error)
    if refuses:
        _without_options.add(address.servers)
    return refuses


def _note_pooler(
    connection: BoundedConnection | AsyncBoundedConnection, pid: tuple[object, ...] | None
) -> None:
    """Detect a pooler, and keep no prepared statements behind one.

    A pooler gives clients process ids of its own, so they differ from the server's. The next transaction may run in
    another session, where the prepared statement is missing.
    """
    if pid != (connection.info.backend_pid,):
        connection.is_pooled = True
        connection.prepare_threshold = None


def _differs(connection: BoundedConnection | AsyncBoundedConnection) -> bool:
    """Whether a pooler, PGTZ or PGDATESTYLE changed a format."""
    reported = {name: connection.info.parameter_status(name) or "" for name in REPORTED}
    # What follows a comma orders day and month in input, and the vault sends no ambiguous dates.
    return any(
        reported[name].partition(",")[0] != value.partition(",")[0] for name, value in REPORTED.items()
    )
