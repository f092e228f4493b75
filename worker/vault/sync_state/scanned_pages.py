"""Commits each page of a scan with its cursor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from token_vault.grant_key import GrantKey
from worker.vault.db.arrays import text_array
from worker.vault.db.sql import load
from worker.vault.grants.identities import identity_parameters
from worker.vault.kept_connection import KeptConnection
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault

_COMMIT_PAGE = load(__file__, "commit_page")


@dataclass(frozen=True, slots=True)
class ScannedPage:
    """What a page of users shows besides tokens.

    Attributes:
        whole_users: the ids of users whose identities were all read.
        identities: of all users on the page.
        marked_before: identities on the page that were marked missing before this time are unmarked.
        time_range: from (inclusive; None for the beginning) and to (exclusive): all users who were created in this range
            are on the page; None if no such range is known.
        shown_users: the ids of all users on the page.
    """

    whole_users: Sequence[str]
    identities: Sequence[GrantKey]
    marked_before: datetime
    time_range: tuple[datetime | None, datetime] | None
    shown_users: Sequence[str]


async def commit_page(
    vault: Vault, tenant: str, page: ScannedPage, feed: str, following: SyncCursor | None, *, now: datetime
) -> tuple[int, datetime]:
    """Mark what a page shows as missing; save the cursor.

    The page's grants must be ingested before, so that the cursor never passes a page that is not stored.

    Args:
        feed: the name under which the cursor is stored.
        following: where the scan continues; None at its end, which leaves the cursor unchanged.
        now: the database's time.

    Returns:
        The number of newly marked grants, and the database's time.
    """
    since, until = page.time_range or (None, None)
    values = {
        "tenant": tenant, "now": now.isoformat(), "before": page.marked_before.isoformat(),
        "read_users": text_array(page.whole_users), "observed_users": text_array(page.shown_users),
        # Without a range both are -infinity, so that the range is empty.
        "since": since.isoformat() if since else "-infinity", "until": until.isoformat() if until else "-infinity",
        "feed": feed, "following": json.dumps([] if following is None else [_as_json(following)]),
    }  # fmt: skip
    ((gone, ended_at, _),) = await KeptConnection(vault).run(
        _COMMIT_PAGE, identity_parameters(page.identities) | values
    )
    return int(gone), ended_at


def _as_json(cursor: SyncCursor) -> dict[str, object]:
    read_until = cursor.read_until.isoformat() if cursor.read_until else None
    return {"token": cursor.token, "page": cursor.page, "read_until": read_until, "run_id": cursor.run_id}
