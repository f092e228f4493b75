"""Numbers with their nouns, for messages."""

from __future__ import annotations


def pluralize(count: float, one: str, many: str = "", *, form: str = "") -> str:
    """Write a number with its noun: ``1 grant``, ``2 grants``.

    Args:
        one: what follows 1, a verb included: ``grant is``.
        many: what follows any other number; by default ``one`` with an s.
        form: how to write the number, as ``format`` takes it.
    """
    return f"{count:{form}} {one if count == 1 else many or f'{one}s'}"
