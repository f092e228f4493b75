"""An order to renew every grant: which are meant, and when they are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.support.renewals import Sql
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import order
from worker.vault.ingest import ingest
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.vault import Vault

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAMES = ("active", "early", "in-doubt", "dead", "claimed", "ordered")


@pytest.fixture
async def grants(vault: Vault, sql: Sql) -> None:
    """One grant of each kind, of two connections of one tenant and of another tenant."""
    for tenant, connection in (("default", "a"), ("default", "b"), ("other", "a")):
        shown = [
            IncomingGrant(
                GrantKey(tenant, connection, f"c|{name}", name),
                "oauth2",
                TokenPair(Secret("access"), Secret("refresh"), NOW + HOUR),
                updated_at=NOW,
                issued_at=NOW,
            )
            for name in NAMES
        ]
        await ingest.ingest(vault, shown, now=NOW)
    sql("UPDATE grants SET due_at = %s", NOW + HOUR)
    sql("UPDATE grants SET due_at = %s WHERE provider_user_id = 'early'", NOW - HOUR)
    for name, fate in {
        "in-doubt": "state = 'in_doubt', in_doubt_since = obtained_at, reason = 'no_answer', reason_since = obtained_at",
        "dead": "state = 'reauthorization_required', reason = 'x', reason_since = obtained_at, due_at = NULL",
        "claimed": f"claim_owner = '{uuid4()}', claimed_at = obtained_at, claim_until = due_at",
        "ordered": "renewal_ordered_at = obtained_at",
    }.items():
        sql(f"UPDATE grants SET {fate} WHERE provider_user_id = %s", name)


@pytest.mark.usefixtures("grants")
@pytest.mark.parametrize(("connection", "connections"), [(None, ["a", "b"]), ("b", ["b"])])
async def test_an_order_is_for_all_that_can_be_renewed(
    vault: Vault, sql: Sql, monkeypatch: pytest.MonkeyPatch, connection: str | None, connections: list[str]
) -> None:
    """Living grants of the tenant are due at once, but for one under renewal, and none is ordered twice."""
    monkeypatch.setattr(order, "BATCH_SIZE", 2)
    assert await claims.count_ordered(vault, ["default"], connection) == len(connections)
    ordered = await claims.order_renewals(vault, ["default"], connection, now=NOW + timedelta(minutes=1))
    assert ordered == 4 * len(connections)
    assert await claims.count_ordered(vault, ["default"], connection) == 5 * len(connections)
    assert await claims.count_ordered(vault, ["other"]) == 1
    rows = sql(
        "SELECT provider_user_id AS name, tenant, connection, due_at, renewal_ordered_at AS at FROM grants"
    )
    due = {
        (row["tenant"], row["connection"], row["name"]): row["due_at"]
        for row in rows
        if row["at"] == NOW + timedelta(minutes=1)
    }
    assert due == {
        ("default", name, kind): at
        for name in connections
        for kind, at in {
            "active": NOW + timedelta(minutes=1), "early": NOW - HOUR, "in-doubt": NOW + timedelta(minutes=1),
            "claimed": NOW + HOUR,
        }.items()
    }  # fmt: skip
    assert await claims.order_renewals(vault, ["default"], connection, now=NOW + HOUR) == 0
    sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'x', due_at = NULL WHERE provider_user_id = 'active'"
    )
    assert await claims.count_ordered(vault, ["default"], connection) == 4 * len(connections)
