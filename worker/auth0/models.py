"""Parses Auth0's users and connections, tolerantly.

A malformed field does not affect the rest of a page. Messages contain no values of the answer, as these may be tokens.
Source: Auth0 Management API v2, "Get a User", "List or Search Users", "Get all connections".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from token_vault.secret import Secret
from worker.auth0.field_types import (
    UnreadableField,
    parse_seconds,
    parse_switch,
    parse_time,
    parse_token,
    require_entries,
    require_text,
    require_text_or_number,
)


class Options(dict[str, Any]):
    """A connection's options; printing shows nothing, as they hold secrets."""

    def __repr__(self) -> str:
        return "Options(…)"

    __str__ = __repr__


def _options(value: object) -> Options | None:
    if value is not None and not isinstance(value, dict):
        raise UnreadableField("is not an object")
    return None if value is None else Options(value)


def _profile(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


# This and the next are not frozen: a frozen one takes twice as long to make, and a page has hundreds of them.
@dataclass(slots=True)
class Auth0Identity:
    """One of a user's identities, with Auth0's tokens for it.

    Attributes:
        provider: the strategy, e.g. ``google-oauth2``.
        user_id: the user's id at the provider; numbers are converted to strings.
        connection: the connection's name.
        access_token: of the last login with this identity; None if absent, null or empty.
        refresh_token: None if absent, null or empty; absence never means that it was revoked.
        expires_in: life of the access token in seconds **from an unknown moment**; None if unknown.
        profile: the provider's profile of a linked account; empty if Auth0 shows none.
        is_oauth1: whether the token is an OAuth 1 token, with a secret; such tokens are not renewed.
    """

    provider: str
    user_id: str
    connection: str
    access_token: Secret | None = None
    refresh_token: Secret | None = None
    expires_in: float | None = None
    profile: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    is_oauth1: bool = False


@dataclass(slots=True)
class Auth0User:
    """A user with all identities.

    Attributes:
        user_id: Auth0's id, e.g. ``google-oauth2|1111``.
        updated_at: last change of the profile (UTC); None if absent or unreadable.
        last_login: last login with any of the identities (UTC); None if absent or unreadable.
        identities: the readable ones; several if accounts are linked.
        malformed: which identities cannot be read, and why.
        created_at: when the user was created (UTC), which never changes; None if absent or unreadable.
    """

    user_id: str
    updated_at: datetime | None
    last_login: datetime | None
    identities: tuple[Auth0Identity, ...]
    malformed: tuple[str, ...] = ()
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class UserPage:
    """One page of users.

    Attributes:
        users: the readable ones.
        total: the number of the query's users; None if Auth0 does not say.
        malformed: users and identities that cannot be read, each by id or position, and why.
        size: the number of entries, including unreadable ones; a full page has 100.
        last_created_at: ``created_at`` (UTC) of the last entry that has one. Unreadable entries are included, so that
            they do not stop a scan. None if no entry has one.
        last_updated_at: the same for ``updated_at``.
    """

    users: tuple[Auth0User, ...]
    total: int | None
    malformed: tuple[str, ...] = ()
    size: int = 0
    last_created_at: datetime | None = None
    last_updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Auth0Connection:
    """A connection of the tenant.

    Attributes:
        id: Auth0's id, e.g. ``con_…``.
        name: the name that identities refer to.
        strategy: the provider's kind, e.g. ``waad``.
        options: an open object, with client secret and admin tokens; None if Auth0 shows none, because the scope
            ``read:connections_options`` is missing.
        authentication: whether users can sign in with it; None if Auth0 does not say.
        connected_accounts: whether Connected Accounts is on for it; None if Auth0 does not say.
    """

    id: str
    name: str
    strategy: str
    options: Mapping[str, Any] | None = field(default=None, repr=False)
    authentication: bool | None = None
    connected_accounts: bool | None = None


Readers = Mapping[str, Callable[[Any], Any]]
"""How to parse each field of an entry, by its name; an absent field is parsed as null."""

# In the order of the models' attributes.
_USER: Readers = {
    "user_id": require_text,
    "updated_at": parse_time,
    "last_login": parse_time,
    "created_at": parse_time,
    "identities": require_entries,
}
_IDENTITY: Readers = {
    "provider": require_text,
    "user_id": require_text_or_number,
    "connection": require_text,
    "access_token": parse_token,
    "refresh_token": parse_token,
    "expires_in": parse_seconds,
    "profileData": _profile,
    "access_token_secret": bool,
}
_CONNECTION: Readers = {
    "id": require_text,
    "name": require_text,
    "strategy": require_text,
    "options": _options,
    "authentication": parse_switch,
    "connected_accounts": parse_switch,
}


class UnreadableEntry(ValueError):
    """An entry cannot be read.

    The message names it without its values.
    """


def read_user(raw: object, position: int = 0) -> Auth0User:
    """Read one user.

    Raises:
        UnreadableEntry: there is no usable ``user_id``, or ``identities`` is not a list.
    """
    values, wrong = _read(_USER, raw)
    if wrong:
        raise UnreadableEntry(f"{_name_of(raw, position)}: {wrong}")
    user_id, updated_at, last_login, created_at, entries = values
    identities, malformed = [], []
    for index, entry in enumerate(entries):
        values, wrong = _read(_IDENTITY, entry)
        if wrong:
            malformed.append(f"{_name_of(raw, position)}, identity {index}: {wrong}")
        else:
            identities.append(Auth0Identity(*values))
    return Auth0User(user_id, updated_at, last_login, tuple(identities), tuple(malformed), created_at)


def read_page(raw_users: Sequence[object], total: object) -> UserPage:
    """Read a page; unreadable entries are named in it."""
    users, malformed = [], []
    for position, raw in enumerate(raw_users):
        try:
            user = read_user(raw, position)
        except UnreadableEntry as error:
            malformed.append(str(error))
        else:
            users.append(user)
            malformed.extend(user.malformed)
    if not isinstance(total, int) or isinstance(total, bool) or total < 0:
        total = None
    return UserPage(
        tuple(users),
        total,
        tuple(malformed),
        len(raw_users),
        _last_time(raw_users, "created_at"),
        _last_time(raw_users, "updated_at"),
    )


def _last_time(raw_users: Sequence[object], field: str) -> datetime | None:
    times = (parse_time(raw.get(field)) for raw in reversed(raw_users) if isinstance(raw, dict))
    return next((time for time in times if time), None)


def read_connection(raw: object, position: int) -> Auth0Connection:
    """Read one connection.

    Raises:
        UnreadableEntry: it has no id, name or strategy, or its options are not an object.
    """
    values, wrong = _read(_CONNECTION, raw)
    if wrong:
        raise UnreadableEntry(f"connection {position}: {wrong}")
    return Auth0Connection(*values)


def _name_of(raw: object, position: int) -> str:
    given = raw.get("user_id") if isinstance(raw, dict) else None
    return f"user {given!r}" if isinstance(given, str) and given else f"user at position {position}"


def _read(readers: Readers, raw: object) -> tuple[list[Any], str]:
    """Read the fields of an entry.

    Returns:
        Their values, and which cannot be read, and why; an empty string if all can.
    """
    if not isinstance(raw, dict):
        return [], "is not an object"
    try:
        return [read(raw.get(name)) for name, read in readers.items()], ""
    except UnreadableField:
        return [], "; ".join(_wrong_fields(readers, raw))


def _wrong_fields(readers: Readers, raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield which fields cannot be read, and why."""
    for name, read in readers.items():
        try:
            read(raw.get(name))
        except UnreadableField as error:
            yield f"{name} {error}"
