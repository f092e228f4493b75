"""Looks up the types of settings in the tables' annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypeGuard, get_args, get_origin

from pydantic import BaseModel

from token_vault.secret import Secret

INDIRECT = ("client_secret", "client_key", "private_key", "secret")
"""Secrets that ``NAME_env`` and ``NAME_file`` of the same table may point to."""


def annotation_at(model: object, place: Sequence[int | str]) -> object:
    """Return the type of the setting at a place.

    For an unknown place ``Secret``, as a secret may be there by mistake.
    """
    annotation: object = model
    for part in place:
        found: object = None
        for each in types(annotation):
            if is_section(each) and part in each.model_fields:
                field = each.model_fields[str(part)]
                found = field.annotation if field.repr else Secret
            elif is_table(each) or (get_origin(each) is tuple and isinstance(part, int)):
                found = get_args(each)[-1] if is_table(each) else get_args(each)[0]
        if found is None:
            return Secret
        annotation = found
    return annotation


def types(annotation: object) -> Iterator[object]:
    """Yield an annotation's alternatives, without their validators."""
    if get_origin(annotation) is Annotated:
        yield from types(get_args(annotation)[0])
    elif is_table(annotation) or get_origin(annotation) in (tuple, Literal):
        yield annotation
        if get_origin(annotation) is tuple:
            yield from (each for each in get_args(annotation) if each is Secret)
    elif get_args(annotation):
        for each in get_args(annotation):
            yield from types(each)
    else:
        yield annotation


def is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    """Whether it is a table with fixed keys."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def is_table(annotation: object) -> bool:
    """Whether it is a table whose keys the operator chooses."""
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def choices(annotation: object) -> list[object]:
    """Return the allowed values of an enumeration, else none."""
    return [choice for each in types(annotation) if get_origin(each) is Literal for choice in get_args(each)]


def names_of(annotation: object) -> list[str]:
    """Return the keys that a table may have."""
    names: list[str] = []
    for each in types(annotation):
        if is_section(each):
            for name in each.model_fields:
                names += [name, f"{name}_env", f"{name}_file"] if name in INDIRECT else [name]
    return names
