"""The base of all tables of the TOML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from token_vault.secret import Secret
from token_vault.secret_files import read_secret_file
from worker.settings.annotations import INDIRECT


def _secret(value: object) -> object:
    if isinstance(
        value, ValueError
    ):  # from _read_indirect; raised here, it is reported with the table's other mistakes
        raise value
    return Secret(value) if isinstance(value, str) else value


SecretField = Annotated[Secret, BeforeValidator(_secret)]


def _secrets(value: object) -> object:
    if isinstance(value, ValueError):
        raise value
    parts = value.split() if isinstance(value, str) else value
    if isinstance(parts, tuple) and all(isinstance(part, Secret) for part in parts):
        return parts
    if value == []:
        raise ValueError("secret is empty")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError("give one secret, or several: a list, or with spaces in between")
    return tuple(map(Secret, parts))


SecretsField = Annotated[tuple[Secret, ...], BeforeValidator(_secrets)]
"""One secret, or several while one is being replaced."""


class Section(BaseModel):
    """A table of the TOML file.

    Unknown names are errors, so that a misspelt name is not ignored.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _indirect_secrets(cls, values: Any) -> Any:
        """Replace ``x_env`` and ``x_file`` by the secret ``x``."""
        if not isinstance(values, dict):
            return values
        resolved = dict(values)
        for name in INDIRECT:
            if name not in cls.model_fields:
                continue
            variable, path = resolved.pop(f"{name}_env", None), resolved.pop(f"{name}_file", None)
            if variable is not None or path is not None:
                resolved[name] = _read_indirect(name, variable, path, resolved)
        return resolved


def _read_indirect(name: str, variable: object, path: object, table: Mapping[str, Any]) -> str | ValueError:
    if sum(source is not None for source in (variable, path, table.get(name))) > 1:
        return ValueError(f"give only one of {name}, {name}_env, {name}_file")
    # The messages show neither value, as the secret itself may be there by mistake.
    if variable is not None:
        found = os.environ.get(str(variable))
        return found or ValueError(f"{name}_env names an environment variable that is not set: set it")
    try:
        return read_secret_file(str(path), f"{name}_file")
    except ValueError as error:
        return error
