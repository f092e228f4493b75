"""Records each sync run, however it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import structlog

from worker import traces
from worker.auth0.errors import Auth0Error, MissingScope
from worker.sync.report import SyncReport
from worker.vault.sync_state import runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault

# A run's record is one line for an operator, not the whole report.
MAX_RECORDED_PROBLEMS = 5

log = structlog.get_logger(__name__)


@asynccontextmanager
async def record_run(
    vault: Vault, report: SyncReport, cursor: SyncCursor | None
) -> AsyncIterator[tuple[int, datetime]]:
    """Record a run; yield its id and when it began.

    Args:
        vault: stores the record.
        report: of the run; a resumed run continues the counts of its record.
        cursor: names the run to resume, if any.
    """
    began, run_id = await vault.now(), cursor and cursor.run_id
    resumed = await runs.resume_run(vault, run_id) if run_id else None
    if resumed and run_id:
        began, counts = resumed
        report.resume(counts)
    else:
        run_id = await runs.begin_run(vault, tenant=report.tenant, scope=report.scope, now=began)
    error: str | None = "interrupted"
    complete = False
    try:
        with traces.span(f"sync {report.scope}", tenant=report.tenant):
            yield run_id, began
        complete = report.finished
        error = "; ".join(report.problems[:MAX_RECORDED_PROBLEMS]) or None
    except Exception as failure:
        error = str(failure) if isinstance(failure, Auth0Error | MissingScope) else type(failure).__name__
        raise
    finally:
        await runs.update_run(
            vault,
            run_id,
            report.counts,
            finished_at=await vault.now() if report.finished else None,
            complete=complete,
            notes=report.notes,
            error=error,
        )
    log.info(
        "sync.finished" if report.finished else "sync.paused",
        tenant=report.tenant,
        scope=report.scope,
        seen=report.seen,
        failed=report.failed,
        gone=report.gone,
    )
