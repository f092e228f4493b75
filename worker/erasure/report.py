"""What an erasure did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ErasureReport:
    """What a sweep or a forgetting erased.

    Attributes:
        tenant: the tenant's name.
        erased: how many grants.
        found: how many missing grants Auth0 has after all.
        waiting: how many are left for the next sweep: in use just now, or Auth0's answer could not be read.
        not_revoked: how many were erased here, but not revoked at their provider as configured.
        problems: what the operator has to know, each a whole sentence.
        skipped: another process is sweeping, and nothing was done.
    """

    tenant: str
    erased: int = 0
    found: int = 0
    waiting: int = 0
    not_revoked: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: bool = False
