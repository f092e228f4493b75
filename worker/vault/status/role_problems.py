"""Problems of roles in Postgres."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from worker.vault.db.roles import ROLES
from worker.vault.db.sql import load
from worker.vault.vault import Vault

_SELECT = load(__file__, "role_problems")


class RoleProblemKind(StrEnum):
    """What may be wrong with a role."""

    MISSING = "missing"
    """One of the vault's own roles does not exist."""
    SUPERUSER = "superuser"
    """The current role is a superuser."""
    ABSENT = "absent"
    """A consumer's role does not exist."""
    EXCESS = "excess"
    """It has rights that no consumer needs."""
    OPEN_SCHEMA = "open_schema"
    """Everybody may create objects in the vault's schema."""
    UNLIMITED = "unlimited"
    """It may open any number of connections."""


class RoleProblem(NamedTuple):
    """One problem of a role.

    Attributes:
        role: its name.
        detail: the consumer that names an absent role, the excess rights, or the schema.
    """

    kind: RoleProblemKind
    role: str
    detail: str | None


async def find_role_problems(vault: Vault) -> list[RoleProblem]:
    """Find the problems of all roles."""
    rows = await vault.run(_SELECT, {"roles": list(ROLES)})
    return [RoleProblem(RoleProblemKind(kind), role, detail) for kind, role, detail in rows]
