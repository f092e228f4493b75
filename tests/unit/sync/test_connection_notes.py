from __future__ import annotations

import pytest

from worker.auth0 import Auth0Connection
from worker.sync.connection_notes import CONNECTED_ACCOUNTS, NO_OPTIONS, NO_SIGN_IN, connection_notes


@pytest.mark.parametrize(
    ("authentication", "connected_accounts", "notes"),
    [
        (None, None, []),
        (True, False, []),
        (True, True, [CONNECTED_ACCOUNTS]),
        (None, True, [CONNECTED_ACCOUNTS]),
        (False, True, [NO_SIGN_IN]),
        (False, None, [NO_SIGN_IN]),
    ],
)
def test_switches_make_notes(
    authentication: bool | None, connected_accounts: bool | None, notes: list[str]
) -> None:
    """What is said follows from both switches, and nothing from what Auth0 does not say."""
    shown = Auth0Connection(
        "con_1", "c", "github", {}, authentication=authentication, connected_accounts=connected_accounts
    )
    assert connection_notes(shown) == notes


def test_a_database_connection_never_brought_tokens() -> None:
    """Where no sign-in brings a provider's tokens anyway, their lack is no news."""
    assert connection_notes(Auth0Connection("con_1", "c", "auth0", {}, authentication=False)) == []


def test_hidden_options_are_named() -> None:
    """A missing scope is named with the connection."""
    assert connection_notes(Auth0Connection("con_1", "c", "github", None)) == [NO_OPTIONS]
