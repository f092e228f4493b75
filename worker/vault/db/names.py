"""Which texts can be ids and names."""

from __future__ import annotations

# No real id or name of Auth0 or a provider is longer. Without a bound, any text would be stored, logged and sent on.
MAX_NAME_CHARACTERS = 1024


def is_name(value: object) -> bool:
    """Whether a text can be an id or a name.

    JSON can hold half a surrogate pair and NUL; Postgres cannot.
    """
    return (
        isinstance(value, str)
        and len(value) <= MAX_NAME_CHARACTERS
        and not any(each == "\0" or "\ud800" <= each <= "\udfff" for each in value)
    )
