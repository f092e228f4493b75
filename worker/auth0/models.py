"""What Auth0 shows of users and connections, read tolerantly.

An odd field never costs the rest of a page. No message made here holds a value of the answer: it may be a token.
Source: Auth0 Management API v2, "Get a User", "List or Search Users", "Get all connections".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from worker.auth0.field_types import (
    OptionalSeconds,
    OptionalSecret,
    OptionalSwitch,
    OptionalTime,
    Text,
    TextOrNumber,
    parse_time,
    require_entries,
)

T = TypeVar("T")

_CONFIG = ConfigDict(hide_input_in_errors=True)


class Options(dict[str, Any]):
    """A connection's options; printing shows nothing, as they hold secrets."""

    def __repr__(self) -> str:
        return "Options(…)"

    __str__ = __repr__


def _options(value: object) -> Options | None:
    if value is not None and not isinstance(value, dict):
        raise PydanticCustomError("not_object", "is not an object")
    return None if value is None else Options(value)


def _profile(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Auth0Identity:
    """One of a user's identities, with Auth0's copy of tokens.

    Attributes:
        provider: the strategy, e.g. ``google-oauth2``.
        user_id: the user's id at the provider; numbers are made strings.
        connection: the connection's name.
        access_token: as of the last login through this identity; None where absent, null or empty.
        refresh_token: None where absent, null or empty; absent never means that it was revoked.
        expires_in: life of the access token in seconds **from an unknown moment**; None where unknown.
        profile: what the provider said of a linked account, beside its tokens; empty where Auth0 shows none.
        is_oauth1: an OAuth 1 token comes with a secret of its own; such tokens are not renewed.
    """

    __pydantic_config__ = _CONFIG

    provider: Text
    user_id: TextOrNumber
    connection: Text
    access_token: OptionalSecret = None
    refresh_token: OptionalSecret = None
    expires_in: OptionalSeconds = None
    profile: Annotated[Mapping[str, Any], Field(alias="profileData"), PlainValidator(_profile)] = field(
        default_factory=dict, repr=False, compare=False
    )
    is_oauth1: Annotated[bool, Field(alias="access_token_secret"), PlainValidator(bool)] = False


@dataclass(frozen=True)
class Auth0User:
    """A user with all identities.

    Attributes:
        user_id: Auth0's id, e.g. ``google-oauth2|1111``.
        updated_at: last change of the profile (UTC); None where absent or unreadable.
        last_login: last login through any of the identities (UTC); None where absent or unreadable.
        created_at: when the user was created (UTC); never changes; None where absent or unreadable.
        identities: those that can be read; linked accounts have several.
        malformed: which identities cannot be read, and why.
    """

    user_id: str
    updated_at: datetime | None
    last_login: datetime | None
    identities: tuple[Auth0Identity, ...]
    malformed: tuple[str, ...] = ()
    created_at: datetime | None = None


@dataclass(frozen=True)
class UserPage:
    """One page of users.

    Attributes:
        users: those that can be read.
        total: how many the query has in all, where Auth0 says so.
        malformed: users and identities that cannot be read, each by id or position, and why.
        size: how many entries Auth0 gave, unreadable ones included; a full page has 100.
        last_created_at: ``created_at`` (UTC) of the last entry that has one, unreadable entries included, so
            that none of these stops a scan; None where no entry has one.
        last_updated_at: the same of ``updated_at``.
    """

    users: tuple[Auth0User, ...]
    total: int | None
    malformed: tuple[str, ...] = ()
    size: int = 0
    last_created_at: datetime | None = None
    last_updated_at: datetime | None = None


@dataclass(frozen=True)
class Auth0Connection:
    """A connection of the tenant.

    Attributes:
        id: Auth0's id, e.g. ``con_…``.
        name: the name that identities refer to.
        strategy: the provider's kind, e.g. ``waad``.
        options: an open object, with client secret and admin tokens; None where Auth0 shows none, which
            means that ``read:connections_options`` is missing.
        authentication: whether users sign in through it; None where Auth0 does not say.
        connected_accounts: whether Connected Accounts is on for it; None where Auth0 does not say.
    """

    __pydantic_config__ = _CONFIG

    id: Text
    name: Text
    strategy: Text
    options: Annotated[Mapping[str, Any] | None, PlainValidator(_options)] = field(default=None, repr=False)
    authentication: OptionalSwitch = None
    connected_accounts: OptionalSwitch = None


@dataclass(frozen=True)
class _UserEntry:
    """A user before its identities are read one by one."""

    __pydantic_config__ = _CONFIG

    user_id: Text
    updated_at: OptionalTime = None
    last_login: OptionalTime = None
    created_at: OptionalTime = None
    identities: Annotated[Sequence[Any], BeforeValidator(require_entries)] = ()


_USER_ENTRY = TypeAdapter(_UserEntry)
_IDENTITY = TypeAdapter(Auth0Identity)
_CONNECTION = TypeAdapter(Auth0Connection)


class UnreadableEntry(ValueError):
    """An entry cannot be read.

    The message names it without its values.
    """


def read_user(raw: object, position: int = 0) -> Auth0User:
    """Read one user.

    Raises:
        UnreadableEntry: there is no usable ``user_id``, or ``identities`` is no list.
    """
    name = _name_of(raw, position)
    entry = _read(_USER_ENTRY, raw, name)
    identities, malformed = [], []
    for index, identity in enumerate(entry.identities):
        try:
            identities.append(_read(_IDENTITY, identity, f"{name}, identity {index}"))
        except UnreadableEntry as error:
            malformed.append(str(error))
    return Auth0User(
        entry.user_id,
        entry.updated_at,
        entry.last_login,
        tuple(identities),
        tuple(malformed),
        entry.created_at,
    )


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
        UnreadableEntry: it has no id, name or strategy, or its options are no object.
    """
    return _read(_CONNECTION, raw, f"connection {position}")


def _name_of(raw: object, position: int) -> str:
    given = raw.get("user_id") if isinstance(raw, dict) else None
    return f"user {given!r}" if isinstance(given, str) and given else f"user at position {position}"


def _read(adapter: TypeAdapter[T], raw: object, name: str) -> T:
    if not isinstance(raw, dict):
        raise UnreadableEntry(f"{name}: is not an object")
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, item['loc']))} {item['msg']}".strip()
            for item in error.errors(include_input=False, include_url=False, include_context=False)
        ]
    # Outside the except: pydantic's error holds the input and must not be chained.
    raise UnreadableEntry(f"{name}: {'; '.join(wrong)}")
