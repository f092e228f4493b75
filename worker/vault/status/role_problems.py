"""What is wrong with roles of Postgres."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from worker.vault.db.roles import ROLES
from worker.vault.db.sql import load
from worker.vault.vault import Vault

_SELECT = load(__file__, "role_problems")


class RoleProblemKind(StrEnum):
    """What may be wrong with a role.

    ``MISSING`` is one of the vault's own roles, ``ABSENT`` a consumer's; ``SUPERUSER`` is the one that is logged in;
    ``EXCESS`` has rights that no consumer needs, ``OPEN_SCHEMA`` lets everybody create in the
    vault's schema, and ``UNLIMITED`` opens as many connections as it likes.
    """

    MISSING = "missing"
    SUPERUSER = "superuser"
    ABSENT = "absent"
    EXCESS = "excess"
    OPEN_SCHEMA = "open_schema"
    UNLIMITED = "unlimited"


class RoleProblem(NamedTuple):
    """One of them.

    Attributes:
        role: whose.
        detail: the consumer that names an absent role, the rights that are too many, or the schema.
    """

    kind: RoleProblemKind
    role: str
    detail: str | None


async def find_role_problems(vault: Vault) -> list[RoleProblem]:
    """Find what is wrong with roles."""
    rows = await vault.run(_SELECT, {"roles": list(ROLES)})
    return [RoleProblem(RoleProblemKind(kind), role, detail) for kind, role, detail in rows]
