"""Finds tokens in a successful answer, under any name.

When a rotating provider answers with success, the old refresh token is spent: the new one must not be lost because its
field has an unknown name or place.

No function here raises on any input.
"""

from __future__ import annotations

import functools
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from token_vault.secret import Secret
from worker.providers import answer

Fields = Mapping[str, Any]

# Objects of an answer that are searched; a token endpoint's answer has a few.
MAX_OBJECTS = 200

# RFC 6749 section 5.1, and OpenID Connect Core 1.0 section 3.1.3.3.
_STANDARD_FIELDS = frozenset(
    {"access_token", "token_type", "expires_in", "refresh_token", "scope", "id_token"}
)

# Characters. Longer field names are not cached, as a provider may send anything as a name.
MAX_CACHED_NAME = 64

# Names as `_bare` returns them, the most certain first.
_REFRESH_NAMES = ("refreshtoken", "newrefreshtoken", "refresh", "refreshjwt")
_ACCESS_NAMES = ("accesstoken", "newaccesstoken", "access", "accessjwt")
# Beside a refresh token, a field with one of these plain names is the access token.
_PLAIN_NAMES = ("token", "bearertoken", "bearer", "authtoken", "oauthtoken", "authenticationtoken")
# Other names that end in "refreshtoken" are taken for the refresh token; names that only begin so describe it.
_REFRESH_NAME = re.compile(
    r"(?!old|prev|last|used|spent|revoked|hashed|has|no|is).*refreshtoken(value|string|text|new)?"
)
# For objects that describe themselves: {"type": "refresh_token", "value": "…"}.
_KIND_NAMES, _VALUE_NAMES = ("type", "tokentype", "name", "kind", "key"), ("value", "token", "tokenvalue")
# A complete field of a truncated JSON object, of an object in another language's notation, or of XML's attributes.
_FIELD = re.compile(r"""["']?\b([A-Za-z0-9_.-]{1,64})["']?\s*[:=]\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_PAGE = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)
# A complete element of XML.
_ELEMENT = re.compile(
    r"<((?:[A-Za-z][\w.-]{0,63}:)?([A-Za-z][\w.-]{0,63}))>(?:<!\[CDATA\[)?([^<>&\s]+?)(?:\]\]>)?</\1>"
)


@dataclass(frozen=True, slots=True)
class FoundTokens:
    """The tokens of an answer.

    Attributes:
        access: None if no field can be taken for it.
        refresh: None if there is none.
        beside: the fields that describe them, of the object that contains them and the outermost object.
    """

    access: Secret | None
    refresh: Secret | None
    beside: Fields


def find(
    fields: Fields,
    preferred: tuple[Fields, ...],
    *,
    spent: Secret | None = None,
    access_token: str = "access_token",  # noqa: S107  # a field's name, as the next
    refresh_token: str = "refresh_token",  # noqa: S107
) -> FoundTokens | None:
    """Find the tokens in an answer's fields.

    Args:
        preferred: the objects that a provider's declaration names; they are searched first.
        spent: the refresh token that was sent; a refusal may repeat it.
        access_token, refresh_token: the tokens' names in the declaration.

    A pair further inside takes precedence over an access token without a refresh token, unless that is in a preferred
    object.

    Returns:
        None if there is neither an access token in its declared place, nor a new refresh token anywhere.
    """
    for holder in (*preferred, fields):
        if access := answer.secret(holder.get(access_token)):
            declared = answer.refresh_secret(holder.get(refresh_token))
            if holder is fields and _holds_nothing_else(fields, has_refresh=declared is not None):
                return FoundTokens(access, declared, fields)
            refresh = declared or _refresh_of(holder) or _orphan(fields, holder, spent)
            inner = None if refresh or holder in preferred else _search(fields, spent, refresh_token)
            return inner or FoundTokens(access, refresh, _beside(fields, holder))
    return _search(fields, spent, refresh_token)


def _holds_nothing_else(fields: Fields, *, has_refresh: bool) -> bool:
    """Return whether a search would find no more.

    The fields are standard and plain, as in most answers. A search takes as long as all else that is done with one.
    """
    return (
        fields.keys() <= _STANDARD_FIELDS
        and (has_refresh or "refresh_token" not in fields)
        and not any(isinstance(value, Mapping | list) or _may_embed(value) for value in fields.values())
    )


def find_access_alone(fields: Fields) -> FoundTokens | None:
    """Find an access token in an undeclared place or name.

    For an answer without an error in which ``find`` finds nothing, of a provider that keeps the refresh token.

    Returns:
        None if there is none, or several different ones.
    """
    found = [(token, holder) for holder in _objects(fields) if (token := _named_access(holder))]
    if not found or any(token != found[0][0] for token, _ in found):
        return None
    access, holder = found[0]
    return FoundTokens(access, None, _beside(fields, holder))


def _named_access(holder: Fields) -> Secret | None:
    """Return an access token, or one with a type."""
    has_type = any(_by_name(holder, ("tokentype",)))
    names = ("accesstoken", "token") if has_type else ("accesstoken",)
    return next((token for _, value in _by_name(holder, names) if (token := answer.secret(value))), None)


def _beside(fields: Fields, holder: Fields) -> Fields:
    """Return the fields that describe an object's tokens.

    The outermost object's fields are included, unless they describe its own access token.
    """
    return holder if _access_of(fields) else {**fields, **holder}


def has_refresh_token(fields: Fields) -> bool:
    """Return whether there is a refresh token anywhere."""
    return any(_refresh_of(holder) for holder in _objects(fields))


def salvage(text: str) -> dict[str, Any]:
    """Return the complete fields of broken JSON, or of XML.

    The JSON may be truncated, or inside other text: a warning of PHP, a guard against inclusion, a call (JSONP).

    Empty unless there is a refresh token among them: otherwise the answer counts as unreadable. An HTML page is never
    read, whatever its scripts contain.
    """
    if _PAGE.search(text):
        return {}
    start = text.find("{")
    if start >= 0:
        try:
            whole, _ = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            whole = {}
        if has_refresh_token(whole):
            return cast(dict[str, Any], whole)
    is_xml = text.startswith("<")
    if start >= 0 or is_xml:
        found = {name: read for name, value in _FIELD.findall(text) if (read := _unquote(value)) is not None}
        if _refresh_of(found):
            return found
    elements = {name: value for _, name, value in _ELEMENT.findall(text)} if is_xml else {}
    return elements if _refresh_of(elements) else {}


def _unquote(value: str) -> str | None:
    """Return the value of a quoted text, if valid."""
    if value.startswith("'"):
        value = '"' + value[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    try:
        return str(json.loads(value, strict=False))
    except ValueError:
        return None


def _search(fields: Fields, spent: Secret | None, declared: str) -> FoundTokens | None:
    """Look for a refresh token, then its access token."""
    alone: FoundTokens | None = None
    for holder in _objects(fields):
        refresh = answer.refresh_secret(holder.get(declared)) or _refresh_of(holder)
        if refresh is None or refresh == spent:
            continue
        if (access := _access_of(holder)) and access != refresh:  # {"kind": "refresh", "token": "…"} has one
            return FoundTokens(access, refresh, _beside(fields, holder))
        alone = alone or FoundTokens(None, refresh, _beside(fields, holder))
    if alone is None:
        return None
    for holder in _objects(fields):
        if access := _access_of(holder, plain=False):
            return FoundTokens(access, alone.refresh, _beside(fields, holder))
    return alone


def _orphan(fields: Fields, taken: Fields, spent: Secret | None) -> Secret | None:
    """Return a refresh token of an object without access token.

    Slack sends a bot's pair beside the user's: the bot's refresh token must not be taken for the user's.
    """
    for holder in _objects(fields):
        refresh = None if holder is taken else _refresh_of(holder)
        if refresh and refresh != spent and not _access_of(holder):
            return refresh
    return None


def _refresh_of(holder: Fields) -> Secret | None:
    """Return the refresh token among an object's own fields."""
    others = ((name, value) for name, value in holder.items() if _REFRESH_NAME.fullmatch(_bare_name(name)))
    for _, value in (*_by_name(holder, _REFRESH_NAMES), *others):
        if token := answer.refresh_secret(_unwrapped(value)):
            return token
    return answer.refresh_secret(_value_of_kind(holder, _REFRESH_NAMES))


def _access_of(holder: Fields, *, plain: bool = True) -> Secret | None:
    """Return the access token among an object's own fields."""
    for _, value in _by_name(holder, (*_ACCESS_NAMES, *(_PLAIN_NAMES if plain else ()))):
        if token := answer.secret(_unwrapped(value)):
            return token
    return answer.secret(_value_of_kind(holder, _ACCESS_NAMES))


def _by_name(holder: Fields, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the fields with these names, in the names' order."""
    spelled = {_bare_name(name): value for name, value in holder.items()}
    return ((name, spelled[name]) for name in names if name in spelled)


def _unwrapped(value: object) -> object:
    """Return the text inside an object or one-item list.

    For answers with ``{"refresh_token": {"token": "…"}}`` or ``{"refresh_token": ["…"]}``.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        return value
    return next((inner for _, inner in _by_name(value, _VALUE_NAMES)), None)


def _value_of_kind(holder: Fields, kinds: tuple[str, ...]) -> object:
    """Return the value of a self-describing object."""
    if any(isinstance(kind, str) and _bare(kind) in kinds for _, kind in _by_name(holder, _KIND_NAMES)):
        return next((value for _, value in _by_name(holder, _VALUE_NAMES)), None)
    return None


def _bare_name(name: object) -> str:
    """Return a bare name; cached, as names recur often."""
    text = str(name)
    return _cached_bare(text) if len(text) <= MAX_CACHED_NAME else _bare(text)


@functools.lru_cache(maxsize=1024)
def _cached_bare(name: str) -> str:
    return _bare(name)


def _bare(name: object) -> str:
    """Return the lower-case letters and digits of a name.

    They are the same for ``refreshToken`` and ``Refresh-Token``.
    """
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _objects(fields: Fields) -> Iterator[Fields]:
    """Yield an answer's objects, outer ones before inner ones.

    JSON inside strings is searched as well.
    """
    waiting: deque[object] = deque([fields])
    for _ in range(MAX_OBJECTS):
        if not waiting:
            return
        value = waiting.popleft()
        if isinstance(value, str):
            value = _embedded(value)
        if isinstance(value, Mapping):
            yield value
            waiting.extend(
                part for part in value.values() if isinstance(part, Mapping | list) or _may_embed(part)
            )
        elif isinstance(value, list):
            waiting.extend(part for part in value if isinstance(part, Mapping | list) or _may_embed(part))


def _may_embed(value: object) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] in ("{", "[")


def _embedded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
