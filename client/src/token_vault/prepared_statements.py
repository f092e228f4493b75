"""Prepared statements that are run without a cursor.

A cursor is made for any statement: it looks at the parameters' types, at its cache and at the connection's state, and
that takes longer than a read does in Postgres.
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
        transformer: keeps how its columns are read; they stay the same for as long as it is prepared.
    """

    name: bytes
    transformer: Transformer
    has_loaders: bool = field(default=False)


class PreparedStatements:
    """The prepared statements of one connection.

    Args:
        connection: to a server of its own: a pooler may hand the next statement to a session without them.
    """

    def __init__(self, connection: BaseConnection[Any]) -> None:
        self._connection = connection
        self._prepared: dict[str, _Prepared] = {}
        self._numbers = count()

    @staticmethod
    def takes(values: Sequence[object]) -> bool:
        """Whether these parameters are all text.

        The type of other values may differ from one time to the next, which is another statement to the server.
        """
        return {*map(type, values)} == {str}

    def run(self, statement: str, values: Sequence[object]) -> PQGen[Rows]:
        """Run a statement; its rows come in binary.

        The connection's ``wait`` takes this generator.

        Raises:
            psycopg.Error, UnicodeEncodeError: as a cursor raises them; the statement is then prepared anew.
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
                # A migration may have changed the columns, or somebody's DISCARD ALL have taken the name away.
                self._prepared.pop(statement, None)
                raise error_from_result(result, encoding="utf-8")
        return results[-1]
