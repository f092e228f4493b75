"""The base of all tables of the TOML file."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from token_vault.secret import Secret
from token_vault.secret_files import read_secret_file


def _secret(value: object) -> object:
    return Secret(value) if isinstance(value, str) else value


SecretField = Annotated[Secret, BeforeValidator(_secret)]


def _secrets(value: object) -> object:
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

    Unknown names are errors, so that a typing mistake is not ignored in silence.
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
        for name in ("client_secret", "client_key", "private_key", "secret"):
            if name not in cls.model_fields:
                continue
            variable, path = resolved.pop(f"{name}_env", None), resolved.pop(f"{name}_file", None)
            if sum(source is not None for source in (variable, path, resolved.get(name))) > 1:
                raise ValueError(f"give only one of {name}, {name}_env, {name}_file")
            if variable is not None:
                # Not echoed, like the path below: the secret itself may stand there by mistake.
                if not os.environ.get(str(variable)):
                    raise ValueError(f"{name}_env names an environment variable that is not set")
                resolved[name] = os.environ[str(variable)]
            if path is not None:
                resolved[name] = read_secret_file(str(path), f"{name}_file")
        return resolved
