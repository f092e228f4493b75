"""Which grants bear witness against a client, and which are tried again: those of one connection alone."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.support.readers import Rows, Sql
from worker.vault.refusals import refusals
from worker.vault.refusals.refusals import Suspicion
from worker.vault.vault import Vault

CLIENT, FORMER = b"a" * 16, b"b" * 16
OF = {"tenant": "default", "connection": "custom"}
CLAIMED = "claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now() + interval '1 h'"
DEAD = "state = 'reauthorization_required', reason = 'invalid_grant', reason_since = now(), due_at = NULL"


@pytest.fixture
async def grants(rows: Rows, sql: Sql) -> dict[str, int]:
    """Grants of one connection, of another, and of another tenant; all due in a day."""
    found = {name: await rows.add(f"oauth2|{name}", subject=name) for name in ("one", "two", "three", "four")}
    found["elsewhere"] = await rows.add("oauth2|one", "another", subject="one")
    found["other"] = await rows.add("oauth2|one", subject="one", tenant="other")
    sql("UPDATE connections SET client_fingerprint = %s", CLIENT)
    return found


async def refuse(vault: Vault, grant: int, **others: str) -> refusals.Evidence:
    evidence = await refusals.record(
        vault, **(OF | others), grant_id=grant, client=CLIENT, suspicion=Suspicion.UNCLEAR, code="x",
        begins_anew=False, now=await vault.now(),
    )  # fmt: skip
    assert evidence is not None
    return evidence


def due_before(sql: Sql, moment: datetime) -> set[int]:
    return {row["id"] for row in sql("SELECT id FROM grants WHERE due_at <= %s", moment)}


async def test_a_witness_is_one_that_can_say_something(
    vault: Vault, grants: dict[str, int], sql: Sql
) -> None:
    """Neither one that was refused itself, nor one in doubt, dead or of another connection, however soon it is due."""
    for place, name in enumerate(("elsewhere", "other", "one", "two", "three", "four"), 1):
        sql("UPDATE grants SET due_at = now() + %s * interval '1 h' WHERE id = %s", place, grants[name])
    sql("UPDATE grants SET in_doubt_since = now() WHERE id = %s", grants["two"])
    assert (await refuse(vault, grants["one"])).has_witness
    now = await vault.now()
    await refusals.call_witness(vault, **OF, now=now)
    assert due_before(sql, now) == {grants["three"]}


async def test_without_another_living_grant_there_is_no_witness(
    vault: Vault, grants: dict[str, int], sql: Sql
) -> None:
    """The grants of another connection, or tenant, have another client."""
    sql(f"UPDATE grants SET {DEAD} WHERE id = ANY(%s)", [grants["three"], grants["four"]])
    assert (await refuse(vault, grants["one"])).has_witness
    assert not (await refuse(vault, grants["two"])).has_witness


async def test_another_client_is_tried_with_what_died_under_the_former(
    vault: Vault, grants: dict[str, int], sql: Sql
) -> None:
    """Of its connection alone; one that this client has lost stays dead, and costs no call."""
    sql(f"UPDATE grants SET {DEAD}, refused_client = %s", FORMER)
    sql("UPDATE grants SET refused_client = NULL WHERE id = %s", grants["two"])
    sql("UPDATE grants SET refused_client = %s WHERE id = %s", CLIENT, grants["three"])
    now = await vault.now()
    async with vault.engine.begin() as transaction:
        await refusals.retry_dead(transaction, **OF, client=CLIENT, now=now)
    assert due_before(sql, now + timedelta(hours=6)) == {grants[name] for name in ("one", "two", "four")}


async def test_when_the_client_is_right_the_refused_are_tried_soon(
    vault: Vault, grants: dict[str, int], sql: Sql
) -> None:
    """But for one under renewal, which has its deadline there, and one in doubt while it has a token to serve."""
    for name in ("one", "two", "three", "four"):
        await refuse(vault, grants[name])
    await refuse(vault, grants["elsewhere"], connection="another")
    await refuse(vault, grants["other"], tenant="other")
    sql(f"UPDATE grants SET {CLAIMED} WHERE id = %s", grants["two"])
    sql("UPDATE grants SET state = 'in_doubt', in_doubt_since = now() WHERE id = ANY(%s)",
        [grants["three"], grants["four"]])  # fmt: skip
    now = (await vault.now()) + timedelta(hours=2)
    sql("UPDATE grants SET expires_at = %s WHERE id = %s", now + timedelta(hours=1), grants["three"])
    async with vault.engine.begin() as transaction:
        await refusals.recall(transaction, **OF, now=now)
    within = timedelta(seconds=refusals.RECALL_WITHIN_SECONDS)
    assert due_before(sql, now + within) == {grants["one"], grants["four"]}
