"""The columns that contain ciphertexts, read in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import RingName
from token_vault.token_target import TokenTarget
from worker.vault.connections.connection import options_context
from worker.vault.crypto.vault_secrets import ACCESS_RING_CHECK, FINGERPRINT_KEY
from worker.vault.management_token import encryption_context

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CiphertextColumn:
    """A column of ciphertexts, or its rows under one ring.

    Attributes:
        content: what the ciphertexts are, for messages.
        key: the columns of the table's primary key, with their types.
        context_columns: the other columns from which the context is made.
        context: returns the encryption context of a row's ciphertext.
        condition: selects the rows, in SQL.
        joined: another table from which the context is made, as a JOIN in SQL.
        is_check: whether it is one of the vault's own secrets, by which a ring is checked.
    """

    content: str
    ring: RingName
    table: str
    name: str
    key: Mapping[str, str]
    context_columns: Sequence[str]
    context: Callable[[Row], EncryptionContext]
    condition: str = "true"
    joined: str = ""
    is_check: bool = False


def _grant_key(row: Row) -> GrantKey:
    return GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])


def _of_refresh_token(row: Row) -> EncryptionContext:
    return EncryptionContext.of_grant(_grant_key(row), "refresh", row["refresh_version"])


def _of_access_token(row: Row) -> EncryptionContext:
    return EncryptionContext.of_access_token(_grant_key(row), row["access_version"], row["token_end"])


def _of_resource_token(row: Row) -> EncryptionContext:
    target = TokenTarget(row["resource"], row["scope"])
    return EncryptionContext.of_resource_token(_grant_key(row), target, row["version"], row["token_end"])


def _tokens(
    ring: RingName, table: str = "grants", content: str = "tokens", end: str = "expires_at"
) -> CiphertextColumn:
    context_columns = ("tenant", "connection", "user_id", "provider_user_id", f"{ring}_version")
    is_access = ring == "access"
    return CiphertextColumn(
        f"{ring} {content}",
        ring,
        table,
        f"{ring}_ciphertext",
        {"id": "bigint"},
        (*context_columns, f"{end} AS token_end") if is_access else context_columns,
        _of_access_token if is_access else _of_refresh_token,
    )


def _own(content: str, ring: RingName, context: EncryptionContext) -> CiphertextColumn:
    (name,) = context.row
    return CiphertextColumn(
        content,
        ring,
        "vault_secrets",
        "ciphertext",
        {"name": "text"},
        (),
        lambda _: context,
        f"name = '{name}'",
        is_check=True,
    )


CIPHERTEXT_COLUMNS = (
    _own("check of the ring", "access", ACCESS_RING_CHECK),
    _tokens("access"),
    CiphertextColumn(
        "values beside access tokens", "access", "grants", "extra_ciphertext", {"id": "bigint"},
        ("tenant", "connection", "user_id", "provider_user_id"), lambda row: EncryptionContext.of_extra(_grant_key(row)),
    ),
    _tokens("access", "revocations", "tokens to revoke", "access_expires_at"),
    CiphertextColumn(
        "access tokens for other resources", "access", "resource_tokens", "ciphertext",
        {"grant_id": "bigint", "resource": "text", "scope": "text"},
        ("tenant", "connection", "user_id", "provider_user_id", "version", "resource_tokens.expires_at AS token_end"),
        _of_resource_token,
        joined="JOIN grants ON grants.id = grant_id",
    ),
    _own("fingerprint key", "refresh", FINGERPRINT_KEY),
    CiphertextColumn(
        "connections' options", "refresh", "connections", "options_ciphertext", {"tenant": "text", "name": "text"},
        ("options_version",), lambda row: options_context(row["tenant"], row["name"], row["options_version"]),
    ),
    CiphertextColumn(
        "management tokens", "refresh", "management_tokens", "ciphertext", {"tenant": "text"}, (),
        lambda row: encryption_context(row["tenant"]),
    ),
    _tokens("refresh"),
    _tokens("refresh", "revocations", "tokens to revoke"),
)  # fmt: skip
"""All ciphertexts in Postgres. A column that is missing here would be lost with the old key."""


@dataclass(frozen=True, slots=True)
class StoredCiphertext:
    """One ciphertext.

    Attributes:
        key: the row's primary key, in the order of ``CiphertextColumn.key``.
    """

    key: tuple[Any, ...]
    context: EncryptionContext
    ciphertext: bytes


def read_pages(
    connection: Connection[Any], column: CiphertextColumn, size: int
) -> Iterator[list[StoredCiphertext]]:
    """Yield a column's ciphertexts in pages, by key.

    Each page is a separate statement, so that no snapshot is open for hours, and no lock is held between pages.
    """
    after: tuple[Any, ...] | None = None
    while page := _read(connection, column, *_beyond(column, after), size):
        yield page
        after = page[-1].key


def reread(
    connection: Connection[Any], column: CiphertextColumn, keys: Sequence[tuple[Any, ...]]
) -> list[StoredCiphertext]:
    """Read the current ciphertexts of these rows."""
    names = ", ".join(column.key)
    condition = f"({names}) IN (SELECT * FROM unnest({_arrays(column)}))"  # noqa: S608  # our own names
    return _read(connection, column, condition, _by_column(column, keys), len(keys))


def count_ciphertexts(connection: Connection[Any], column: CiphertextColumn) -> int:
    """Count the ciphertexts of a column."""
    statement = f"SELECT count({column.name}) FROM {column.table} WHERE {column.condition}"  # noqa: S608  # our own names
    ((count,),) = connection.execute(statement)
    return int(count)


def compare_and_swap(
    connection: Connection[Any],
    column: CiphertextColumn,
    found: Sequence[StoredCiphertext],
    fresh: Sequence[bytes],
) -> set[tuple[Any, ...]]:
    """Replace ciphertexts that are unchanged since they were read.

    A ciphertext that was written meanwhile is newer, and stays. A row that another transaction has locked is skipped: a
    statement that never waits while it holds locks cannot be part of a deadlock.

    Returns:
        The keys of the rows that were replaced.
    """
    names = ", ".join(column.key)
    target = ", ".join(f"target.{name}" for name in column.key)
    # The subquery locks the newest version of each row and compares that; the outer comparison only repeats it.
    statement = f"""
UPDATE {column.table} target SET {column.name} = unlocked.fresh
FROM (
    SELECT {names}, was, fresh
    FROM {column.table} JOIN unnest({_arrays(column)}, CAST(%(was)b AS bytea[]), CAST(%(fresh)b AS bytea[]))
        AS given({names}, was, fresh) USING ({names})
    WHERE {column.table}.{column.name} = was
    FOR UPDATE OF {column.table} SKIP LOCKED
) unlocked
WHERE ({target}) = ({", ".join(f"unlocked.{name}" for name in column.key)}) AND target.{column.name} = unlocked.was
RETURNING {target}
"""  # noqa: S608  # our own names
    values = _by_column(column, [each.key for each in found])
    values |= {"was": [each.ciphertext for each in found], "fresh": list(fresh)}
    return {tuple(row) for row in connection.execute(statement, values)}


def _read(
    connection: Connection[Any],
    column: CiphertextColumn,
    condition: str,
    values: Mapping[str, Any],
    limit: int,
) -> list[StoredCiphertext]:
    names = ", ".join((*column.key, *column.context_columns))
    statement = f"""
SELECT {names}, {column.name} AS stored_ciphertext FROM {column.table} {column.joined}
WHERE {column.name} IS NOT NULL AND {column.condition} AND {condition}
ORDER BY {", ".join(column.key)} LIMIT %(limit)s
"""  # noqa: S608  # our own names
    with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        rows = cursor.execute(statement, {**values, "limit": limit}).fetchall()
    return [
        StoredCiphertext(
            tuple(row[name] for name in column.key), column.context(row), row["stored_ciphertext"]
        )
        for row in rows
    ]


def _beyond(column: CiphertextColumn, after: tuple[Any, ...] | None) -> tuple[str, dict[str, Any]]:
    if after is None:
        return "true", {}
    parameters = ", ".join(f"CAST(%(after_{name})s AS {kind})" for name, kind in column.key.items())
    values = {f"after_{name}": value for name, value in zip(column.key, after, strict=True)}
    return f"({', '.join(column.key)}) > ({parameters})", values


def _arrays(column: CiphertextColumn) -> str:
    # In binary, because for text psycopg escapes each element with a regular expression.
    return ", ".join(f"CAST(%(key_{name})b AS {kind}[])" for name, kind in column.key.items())


def _by_column(column: CiphertextColumn, keys: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    return {f"key_{name}": [key[index] for key in keys] for index, name in enumerate(column.key)}
