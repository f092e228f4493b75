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
    """Return a login hint: the account's name at its provider.

    The vault stores no e-mail addresses. Google also accepts the account's id (its "sub"), and at some providers the id
    is an address. For others, and for several accounts, it is None.
    """
    accounts = {row["provider_user_id"] for row in grants}
    if len(accounts) != 1:
        return None
    (account,) = accounts
    is_known = bool(account) and ("@" in account or grants[0]["provider"] == "google")
    return account if is_known else None
