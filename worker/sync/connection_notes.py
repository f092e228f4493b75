"""Warnings about a connection, for the operator."""

from __future__ import annotations

from worker import providers
from worker.auth0 import Auth0Connection

NO_OPTIONS = (
    "Auth0 shows no options of this connection: grant the scope read:connections_options to the "
    "machine-to-machine application"
)
NO_SIGN_IN = (
    "no sign-in brings tokens: authentication is switched off for this connection, so Auth0 puts none into the "
    "users' identities, and tokens of Connected Accounts stay with Auth0. To sync its users' tokens, switch "
    "authentication on for it at Auth0"
)
CONNECTED_ACCOUNTS = (
    "Connected Accounts is switched on for this connection: tokens of accounts connected that way "
    "stay with Auth0; those of sign-ins are pulled as before"
)


def connection_notes(connection: Auth0Connection) -> list[str]:
    """Return warnings about a connection, each with its remedy."""
    notes = list(providers.notes(connection.options))
    if connection.options is None:
        notes.append(NO_OPTIONS)
    if lacks_sign_ins(connection):
        notes.append(NO_SIGN_IN)
    elif connection.connected_accounts:
        notes.append(CONNECTED_ACCOUNTS)
    return notes


def lacks_sign_ins(connection: Auth0Connection) -> bool:
    """Whether a sign-in would bring tokens, but none is possible."""
    return connection.authentication is False and connection.strategy not in providers.TOKENLESS_STRATEGIES
