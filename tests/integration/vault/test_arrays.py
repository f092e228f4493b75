"""Arrays as text: Postgres reads what was written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from token_vault.secret import Secret
from worker.vault.db.arrays import hex_array, text_array, time_array

# Postgres holds no NUL, and UTF-8 no half of a surrogate pair.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
# With what array literals have a meaning for.
HARD = st.sampled_from(
    ["", "NULL", "null", "{}", "a,b", 'x"y', '","', "\\", '\\"', "{", " a ", "\n", "\\x00"]
)
TIMES = st.datetimes(timezones=st.just(UTC))


def test_arrays_are_read_as_they_were_written(database_url: Secret) -> None:
    """Whatever is in an element, none is lost, moved, split or taken for another."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:

        def read(literal: str, kind: str) -> Any:
            ((value,),) = connection.execute(f"SELECT CAST(%s AS {kind}[])", (literal,)).fetchall()
            return value

        @settings(max_examples=150)
        @given(
            st.lists(st.none() | HARD | TEXTS, max_size=6),
            st.lists(st.none() | TIMES, max_size=3),
            st.lists(st.none() | st.binary(max_size=6), max_size=3),
        )
        def check(texts: list[str | None], times: list[datetime | None], values: list[bytes | None]) -> None:
            assert read(text_array(texts), "text") == texts
            assert read(time_array(times), "timestamptz") == times
            assert read(hex_array(values), "bytea") == values

        check()
