"""Reads users by id, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from worker.auth0 import Auth0User, ManagementClient
from worker.auth0.errors import CALL_INDEPENDENT_ERRORS, Auth0Error, Auth0NotFound
from worker.sync.report import SyncReport

MAX_CONCURRENT_CALLS = 4

log = structlog.get_logger(__name__)


async def fetch_users(
    auth0: ManagementClient, user_ids: Sequence[str], report: SyncReport
) -> dict[str, Auth0User | None]:
    """Read users by id; None for users Auth0 lacks.

    A user whom Auth0 refuses to return, for example because the id is malformed, is reported and left out.

    Raises:
        Auth0Error: a failure that would affect any call.
    """
    limit = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
    found: dict[str, Auth0User | None] = {}

    async def fetch(user_id: str) -> None:
        async with limit:
            try:
                found[user_id] = await auth0.user(user_id)
            except Auth0NotFound:
                found[user_id] = None
            except CALL_INDEPENDENT_ERRORS:
                raise
            except Auth0Error as error:
                report.failed += 1
                report.problems.append(str(error))
                log.warning("sync.user_skipped", tenant=report.tenant, user_id=user_id, error=str(error))

    calls = [asyncio.ensure_future(fetch(user_id)) for user_id in user_ids]
    try:
        await asyncio.gather(*calls)
    finally:  # after a failure the other calls are useless
        for call in calls:
            call.cancel()
    return found
