"""The report of an erasure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ErasureReport:
    """The result of ``sweep`` or ``forget``.

    Attributes:
        tenant: the tenant's name.
        erased: number of grants erased.
        found: number of missing grants that Auth0 has after all.
        waiting: number of grants left for the next sweep: in use, or Auth0's answer could not be read.
        not_revoked: number of grants erased in the vault, but not revoked at their provider as configured.
        problems: sentences for the operator.
        skipped: whether nothing was done, as another process is sweeping.
    """

    tenant: str
    erased: int = 0
    found: int = 0
    waiting: int = 0
    not_revoked: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: bool = False
