"""What a sync did, and the problems that it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from worker.auth0 import UserPage
from worker.vault.ingest.ingest import IngestStats
from worker.vault.sync_state.runs import SyncRunCounts

Progress = Callable[[int, int | None], None]
"""Called with the number of users read so far, and of all users, None if unknown."""


@dataclass(slots=True)
class SyncReport:
    """What a sync did.

    Attributes:
        tenant: the tenant's name.
        scope: ``all``, ``changes``, ``connections``, ``user`` or ``connection``.
        connections: how many were read.
        seen: how many users were read.
        failed: how many entries could not be read; ``problems`` names them.
        gone: how many grants were marked missing.
        absent: the ids of users who were named by a hook, and whom Auth0 does not have.
        stats: how the grants of these users were ingested.
        problems: sentences for the operator: each says why something that was asked for is not in the vault.
        notes: sentences for the operator that concern nothing missing.
        skipped: another process runs this sync, so nothing was done.
        finished: False if the time was up; the next sync resumes there.
    """

    tenant: str
    scope: str
    connections: int = 0
    seen: int = 0
    failed: int = 0
    gone: int = 0
    absent: list[str] = field(default_factory=list)
    stats: IngestStats = field(default_factory=IngestStats)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: bool = False
    finished: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is in the vault."""
        return self.finished and not self.problems and not self.failed and not self.skipped

    @property
    def counts(self) -> SyncRunCounts:
        """The counts that are stored with the sync run."""
        return SyncRunCounts(self.seen, self.failed, self.gone, self.stats)

    def resume(self, counts: SyncRunCounts) -> None:
        """Continue the counts of a run that was stopped."""
        self.seen, self.failed, self.gone = counts.seen, counts.failed, counts.gone
        self.stats.add(counts.stats)

    def add_page(self, page: UserPage) -> None:
        """Count a page whose grants are stored."""
        self.seen += len(page.users)
        self.failed += len(page.malformed)
        self.problems += page.malformed

    def note(self, sentence: str) -> None:
        """Add a note, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)
