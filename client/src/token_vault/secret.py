"""Strings and objects that cannot be printed by accident."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn


class Secret:
    """A string that is not shown by accident.

    Printing and formatting hide it, pickling and serialising fail; only ``reveal()`` returns the value. Two secrets
    are compared in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the plain value.

        Call it where the value is used, never where it is passed on.
        """
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a secret is never a key of a dictionary

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


class SecretDict(dict[str, Any]):
    """A dictionary whose representation shows nothing of its contents.

    For dictionaries with secrets in them, as tracebacks may print local variables.
    """

    def __repr__(self) -> str:
        return "{…}"

    __str__ = __repr__


def hide(value: Any) -> Any:
    """Turn all dictionaries within a value into ``SecretDict``."""
    if isinstance(value, dict):
        return SecretDict({name: hide(each) for name, each in value.items()})
    return [hide(each) for each in value] if isinstance(value, list) else value
