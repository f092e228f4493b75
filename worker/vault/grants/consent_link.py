"""The link by which a user consents again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from worker.reconnect import ReconnectApplication, reconnect_link
from worker.vault.grants import queries
from worker.vault.vault import Database


async def consent_link(
    database: Database,
    application: ReconnectApplication,
    *,
    tenant: str,
    connection: str,
    user_id: str,
    needs: Iterable[str] = (),
    now: datetime,
) -> str:
    """Return the link; it asks for what was granted.

    A user who never connected gets one too.

    Args:
        needs: scopes beyond those that were granted.
    """
    rows = await queries.list_grants(database, [tenant], queries.GrantFilter(user_id, connection))
    return reconnect_link(
        application,
        tenant=tenant,
        connection=connection,
        user_id=user_id,
        scopes=[*(scope for row in rows for scope in row["scopes"] or ()), *needs],
        login_hint=login_hint(rows),
        now=now,
    )


def login_hint(grants: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what names the account at its provider.

    The vault keeps no address of a user. Google takes the account's id as well (its "sub"), and some providers' ids
    are addresses; None for any other, and where there are several accounts.
    """
    accounts = {row["provider_user_id"] for row in grants}
    if len(accounts) != 1:
        return None
    (account,) = accounts
    is_known = bool(account) and ("@" in account or grants[0]["provider"] == "google")
    return account if is_known else None
