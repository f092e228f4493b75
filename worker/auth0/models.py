"""What Auth0 shows of users and connections, read tolerantly: an odd field never costs the rest of a page.

No message made here holds a value of the answer: it may be a token.
Source: Auth0 Management API v2, "Get a User", "List or Search Users", "Get all connections".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from token_vault.secret import Secret

# A century; more is no life of a token, and would not fit into a date.
MAX_LIFETIME_SECONDS = 100 * 365 * 86_400.0

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")

T = TypeVar("T")


def parse_text(value: object) -> str | None:
    """Return a text that can be sent and stored; None for anything else."""
    try:
        return _text(value)
    except PydanticCustomError:
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("not_text", "is not a string")
    if not value:
        raise PydanticCustomError("empty", "is empty")
    if "\0" in value or not _encodes(value):
        raise PydanticCustomError("not_storable", "holds NUL or half of a surrogate pair")
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_or_number(value: object) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _secret(value: object) -> Secret | None:
    return None if value is None or value == "" else Secret(_text(value))


def parse_seconds(value: object) -> float | None:
    """Read a length of time in seconds, given as a number or as digits; None for anything else."""
    if isinstance(value, str):
        value = value.strip()
        number = float(value) if _NUMBER.fullmatch(value) else -1.0
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = (
            float(value) if abs(value) <= MAX_LIFETIME_SECONDS else -1.0
        )  # a longer int need not fit a float
    else:
        return None
    return number if 0 <= number <= MAX_LIFETIME_SECONDS else None  # NaN compares false


def parse_time(value: object) -> datetime | None:
    """Read a time (UTC), with or without milliseconds; None for anything else."""
    # Auth0's own description allows an object in place of last_login.
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _entries(value: object) -> Sequence[object]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise PydanticCustomError("not_list", "is not a list")
    return value


class Options(dict[str, Any]):
    """A connection's options, client secret and admin tokens among them: printing shows nothing."""

    def __repr__(self) -> str:
        return "Options(…)"

    __str__ = __repr__


def _options(value: object) -> Options | None:
    if value is not None and not isinstance(value, dict):
        raise PydanticCustomError("not_object", "is not an object")
    return None if value is None else Options(value)


Text = Annotated[str, PlainValidator(_text)]
Token = Annotated[Secret | None, PlainValidator(_secret)]
Moment = Annotated[datetime | None, PlainValidator(parse_time)]

_CONFIG = ConfigDict(hide_input_in_errors=True)


@dataclass(frozen=True)
class Auth0Identity:
    """One of a user's identities, with the provider's tokens as of the last login through it.

    Attributes:
        provider: the strategy, e.g. ``google-oauth2``.
        user_id: the user's id at the provider; numbers are made strings.
        connection: the connection's name.
        access_token: None where absent, null or empty.
        refresh_token: None where absent, null or empty; absent never means that it was revoked.
        expires_in: life of the access token in seconds **from an unknown moment**; None where unknown.
        is_oauth1: an OAuth 1 token comes with a secret of its own; such tokens are not renewed.
    """

    __pydantic_config__ = _CONFIG

    provider: Text
    user_id: Annotated[str, PlainValidator(_text_or_number)]
    connection: Text
    access_token: Token = None
    refresh_token: Token = None
    expires_in: Annotated[float | None, PlainValidator(parse_seconds)] = None
    is_oauth1: Annotated[bool, Field(alias="access_token_secret"), PlainValidator(bool)] = False


@dataclass(frozen=True)
class Auth0User:
    """A user with all identities.

    Attributes:
        user_id: Auth0's id, e.g. ``google-oauth2|1111``.
        updated_at: last change of the profile (UTC); None where absent or unreadable.
        last_login: last login through any of the identities (UTC); None where absent or unreadable.
        created_at: when the user came to be (UTC); never changes; None where absent or unreadable.
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
            that none of these stops a walk; None where no entry has one.
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
    """

    __pydantic_config__ = _CONFIG

    id: Text
    name: Text
    strategy: Text
    options: Annotated[Mapping[str, Any] | None, PlainValidator(_options)] = field(default=None, repr=False)


@dataclass(frozen=True)
class _Entry:
    """A user before its identities are read one by one."""

    __pydantic_config__ = _CONFIG

    user_id: Text
    updated_at: Moment = None
    last_login: Moment = None
    created_at: Moment = None
    identities: Annotated[Sequence[Any], BeforeValidator(_entries)] = ()


_ENTRY = TypeAdapter(_Entry)
_IDENTITY = TypeAdapter(Auth0Identity)
_CONNECTION = TypeAdapter(Auth0Connection)


class Unreadable(ValueError):
    """An entry which cannot be read; the message says which and why, without its values."""


def read_user(raw: object, position: int = 0) -> Auth0User:
    """Read one user.

    Raises:
        Unreadable: there is no usable ``user_id``, or ``identities`` is no list.
    """
    name = _name_of(raw, position)
    entry = _read(_ENTRY, raw, name)
    identities, malformed = [], []
    for index, identity in enumerate(entry.identities):
        try:
            identities.append(_read(_IDENTITY, identity, f"{name}, identity {index}"))
        except Unreadable as error:
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
    """Read a page; what cannot be read is named in it, the rest is kept."""
    users, malformed = [], []
    for position, raw in enumerate(raw_users):
        try:
            user = read_user(raw, position)
        except Unreadable as error:
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
        _last_moment(raw_users, "created_at"),
        _last_moment(raw_users, "updated_at"),
    )


def _last_moment(raw_users: Sequence[object], field: str) -> datetime | None:
    moments = (parse_time(raw.get(field)) for raw in reversed(raw_users) if isinstance(raw, dict))
    return next((found for found in moments if found), None)


def read_connection(raw: object, position: int) -> Auth0Connection:
    """Read one connection.

    Raises:
        Unreadable: it has no id, name or strategy, or its options are no object.
    """
    return _read(_CONNECTION, raw, f"connection {position}")


def _name_of(raw: object, position: int) -> str:
    given = raw.get("user_id") if isinstance(raw, dict) else None
    return f"user {given!r}" if isinstance(given, str) and given else f"user at position {position}"


def _read(adapter: TypeAdapter[T], raw: object, name: str) -> T:
    if not isinstance(raw, dict):
        raise Unreadable(f"{name}: is not an object")
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, item['loc']))} {item['msg']}".strip()
            for item in error.errors(include_input=False, include_url=False, include_context=False)
        ]
    raise Unreadable(f"{name}: {'; '.join(wrong)}")  # outside the except: the input is not chained
