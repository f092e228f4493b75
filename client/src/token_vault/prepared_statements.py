"""Prepared statements that run without a psycopg cursor.

A cursor inspects parameter types, its cache and the connection's state for each statement, which takes longer than
Postgres takes for the read itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from psycopg import BaseConnection
from psycopg.abc import PQGen, Transformer
from psycopg.adapt import PyFormat
from psycopg.adapt import Transformer as DriverTransformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

Rows = list[tuple[Any, ...]]

_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


@dataclass(slots=True)
class _Prepared:
    """A statement that the server knows by name.

    Attributes:
        transformer: decodes its columns; they do not change while the statement is prepared.
        has_loaders: whether the transformer has chosen its decoders, after the first result.
    """

    name: bytes
    transformer: Transformer
    has_loaders: bool = field(default=False)


class PreparedStatements:
    """The prepared statements of one connection.

    Args:
        connection: a direct one: a pooler may run the next statement in a session that has not prepared it.
    """

    def __init__(self, connection: BaseConnection[Any]) -> None:
        self._connection = connection
        self._prepared: dict[str, _Prepared] = {}
        self._numbers = count()

    @staticmethod
    def accepts(values: Sequence[object]) -> bool:
        """Whether all parameters are text.

        Other values may have a different type at the next call, and for the server that is a different statement.
        """
        return {*map(type, values)} == {str}

    def run(self, statement: str, values: Sequence[object]) -> PQGen[Rows]:
        """Run a statement; its rows come in binary.

        Pass this generator to the connection's ``wait``.

        Raises:
            psycopg.Error, UnicodeEncodeError: as a cursor raises them; the next call prepares the statement again.
        """
        prepared = self._prepared.get(statement) or (yield from self._prepare(statement))
        transformer, pgconn = prepared.transformer, self._connection.pgconn
        given = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        pgconn.send_query_prepared(prepared.name, given, transformer.formats, Format.BINARY)
        result = yield from self._result(statement)
        transformer.set_pgresult(result, set_loaders=not prepared.has_loaders, format=Format.BINARY)
        prepared.has_loaders = True
        return transformer.load_rows(0, result.ntuples, tuple)

    def _prepare(self, statement: str) -> PQGen[_Prepared]:
        name = b"token_vault_%d" % next(self._numbers)
        numbers = count(1)
        numbered = re.sub("%s", lambda _: f"${next(numbers)}", statement)
        self._connection.pgconn.send_prepare(name, numbered.encode())
        yield from self._result(statement)
        prepared = _Prepared(name, DriverTransformer.from_context(self._connection))
        self._prepared[statement] = prepared
        return prepared

    def _result(self, statement: str) -> PQGen[PGresult]:
        results: list[PGresult] = yield from execute(self._connection.pgconn)
        for result in results:
            if result.status not in _GOOD:
                # A migration may have changed the columns, or a DISCARD ALL may have dropped the statement.
                self._prepared.pop(statement, None)
                raise error_from_result(result, encoding="utf-8")
        return results[-1]
