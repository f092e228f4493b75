"""What an app asks for, checked before Postgres is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from token_vault.token_target import DEFAULT_TARGET, TokenTarget


class TokenQuery(NamedTuple):
    """What an app asks for.

    Attributes:
        user_id: Auth0's user id; empty for the connection's admin token.
        connection: the connection's name.
        account: the user's id at the provider; None for the primary identity, or the only one.
        min_ttl: seconds of life that the token must have left; None for the life that timely renewal always leaves.
        wait: seconds to wait for a refresh.
        needs: scopes that the app cannot do without.
        target: the resource and scopes that the token is for.
        request_id, reason: written into the audit's record of the read.
    """

    user_id: str
    connection: str
    account: str | None
    min_ttl: float | None
    wait: float
    needs: tuple[str, ...] = ()
    target: TokenTarget = DEFAULT_TARGET
    request_id: str | None = None
    reason: str | None = None


def user_query(
    user_id: str,
    connection: str,
    account: str | None,
    min_ttl: float | None,
    wait: float,
    needs: Sequence[str] = (),
    target: TokenTarget = DEFAULT_TARGET,
    request_id: str | None = None,
    reason: str | None = None,
) -> TokenQuery:
    """Check a query for a user's token.

    Raises:
        TypeError, ValueError: the caller's mistake, which would otherwise look like an error of Postgres.
    """
    _check_names(user_id=user_id, connection=connection)
    if account is not None:
        _check_names(account=account)
    _check_texts(request_id, reason)
    return TokenQuery(
        user_id, connection, account, min_ttl, wait, _checked_scopes(needs), target, request_id, reason
    )


def admin_query(
    connection: str,
    min_ttl: float | None,
    wait: float,
    needs: Sequence[str] = (),
    target: TokenTarget = DEFAULT_TARGET,
    request_id: str | None = None,
    reason: str | None = None,
) -> TokenQuery:
    """Check a query for an admin token; raises as ``user_query``."""
    _check_names(connection=connection)
    _check_texts(request_id, reason)
    return TokenQuery("", connection, None, min_ttl, wait, _checked_scopes(needs), target, request_id, reason)


def _checked_scopes(needs: Sequence[str]) -> tuple[str, ...]:
    if isinstance(needs, str):
        raise TypeError("needs is a sequence of scopes: (scope,)")
    return tuple(needs)


def _check_texts(*texts: object) -> None:
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError("request_id and reason are strings")


def _check_names(**names: object) -> None:
    for argument, value in names.items():
        if not isinstance(value, str):
            raise TypeError(f"user_id, connection and account are strings, and {argument} is not")
        if not value:  # an empty user id means the admin grant in the tables, which no mistake may read
            raise ValueError(f"{argument} is empty")
