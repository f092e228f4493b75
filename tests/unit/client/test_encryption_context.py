"""Where a ciphertext belongs, as its plaintext says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.token_target import TokenTarget

KEY = GrantKey("t", "c", "u|1", "1")
END = datetime(2026, 3, 15, 8, tzinfo=UTC)


def test_no_two_places_are_one() -> None:
    """Fields, targets, versions and ends have a context of their own each."""
    contexts = [
        EncryptionContext.of_access_token(KEY, 0, END),
        EncryptionContext.of_access_token(KEY, 1, END),
        EncryptionContext.of_access_token(KEY, 0, None),
        EncryptionContext.of_grant(KEY, "access", 0),
        EncryptionContext.of_grant(KEY, "refresh", 0),
        EncryptionContext.of_extra(KEY),
        *(
            EncryptionContext.of_resource_token(KEY, target, 0, END)
            for target in (
                TokenTarget("r"),
                TokenTarget("r", "a"),
                TokenTarget("r", "b"),
                TokenTarget("", "r"),
            )
        ),
    ]
    assert len({context.header() for context in contexts}) == len(contexts)


def test_an_end_is_the_same_in_any_time_zone() -> None:
    """A session of Postgres may show it with another offset than the one that wrote it."""
    elsewhere = END.astimezone(timezone(timedelta(hours=9)))
    assert (
        EncryptionContext.of_access_token(KEY, 1, elsewhere).header()
        == EncryptionContext.of_access_token(KEY, 1, END).header()
    )
