"""Which grants bear witness against a client, and which are tried again: those of one connection alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.readers import Rows, Sql
from worker.vault.refusals import refusals
from worker.vault.refusals.refusals import Suspicion
from worker.vault.vault import Vault

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
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


UNCLEAR, OUTAGE, THROTTLED, OF_CLIENT = (
    Suspicion.UNCLEAR,
    Suspicion.OUTAGE,
    Suspicion.THROTTLED,
    Suspicion.CLIENT,
)


# What was recorded, each with its minute; and what is kept: the suspicion, the tries, the first and the last minute.
SERIES: list[tuple[list[tuple[Suspicion, int]], tuple[object, ...]]] = [
    ([(UNCLEAR, 0), (UNCLEAR, 10)], (UNCLEAR, 2, 0, 10)),
    ([(UNCLEAR, 10), (UNCLEAR, 0)], (UNCLEAR, 2, 0, 10)),
    ([(OUTAGE, 0), (OUTAGE, 119)], (OUTAGE, 2, 0, 119)),
    ([(OUTAGE, 0), (OUTAGE, 121)], (OUTAGE, 2, 121, 121)),
    ([(THROTTLED, 0), (OUTAGE, 10)], (OUTAGE, 2, 10, 10)),
    ([(OUTAGE, 0), (THROTTLED, 10)], (THROTTLED, 2, 0, 10)),
    ([(OUTAGE, 0), (UNCLEAR, 10)], (UNCLEAR, 1, 0, 10)),
    ([(OUTAGE, 0), (OF_CLIENT, 10)], (OF_CLIENT, 1, 10, 10)),
    ([(THROTTLED, 0), (OF_CLIENT, 10)], (OF_CLIENT, 1, 10, 10)),
    ([(UNCLEAR, 0), (OF_CLIENT, 10)], (OF_CLIENT, 2, 0, 10)),
    ([(UNCLEAR, 0), (THROTTLED, 10)], (UNCLEAR, 1, 0, 0)),
]


async def test_refusals_in_a_row(vault: Vault, grants: dict[str, int], sql: Sql) -> None:
    """Answers are counted apart from server errors, and each series has its own beginning."""
    for seen, kept in SERIES:
        sql("DELETE FROM refusals")
        for suspicion, minute in seen:
            evidence = await record(vault, grants["one"], suspicion, minute)
        assert told(evidence) == kept, seen


async def test_a_row_that_begins_anew(vault: Vault, grants: dict[str, int], sql: Sql) -> None:
    """What was refused before a renewal, or under the former client, does not count."""
    for suspicion in (UNCLEAR, OUTAGE, THROTTLED):
        for is_renewed in (True, False):
            sql("DELETE FROM refusals")
            former = CLIENT if is_renewed else FORMER
            sql("UPDATE connections SET client_fingerprint = %s", former)
            await record(vault, grants["one"], UNCLEAR, 0, client=former)
            sql("UPDATE connections SET client_fingerprint = %s", CLIENT)
            evidence = await record(vault, grants["one"], suspicion, 10, begins_anew=is_renewed)
            assert told(evidence) == (suspicion, 1, 10, 10), (suspicion, is_renewed)


async def test_a_refusal_of_a_replaced_client_is_no_evidence(
    vault: Vault, grants: dict[str, int], sql: Sql
) -> None:
    """Neither when it comes late, nor when it was recorded before; the newest refusals are weighed."""
    sql("UPDATE connections SET client_fingerprint = %s", FORMER)
    await record(vault, grants["two"], UNCLEAR, 0, client=FORMER)
    sql("UPDATE connections SET client_fingerprint = %s", CLIENT)
    assert await record(vault, grants["three"], UNCLEAR, 1, client=FORMER) is None
    assert len(sql("SELECT 1 FROM refusals")) == 1
    evidence = await record(vault, grants["one"], UNCLEAR, 2)
    assert evidence is not None
    assert [each.grant_id for each in evidence.refusals] == [grants["one"]]
    evidence = await record(vault, grants["four"], UNCLEAR, 3)
    assert evidence is not None
    assert [each.grant_id for each in evidence.refusals] == [grants["four"], grants["one"]]
    # Of the second nobody knows whether this client renews it: it is a witness.
    sql("UPDATE grants SET due_at = NULL WHERE id = %s", grants["three"])
    evidence = await record(vault, grants["four"], UNCLEAR, 4)
    assert evidence is not None
    assert evidence.has_witness


async def test_a_refusal_from_before_the_last_renewal_leaves_a_witness(
    vault: Vault, grants: dict[str, int], sql: Sql
) -> None:
    """The client was right after it; a grant that is not due bears no witness."""
    sql("UPDATE grants SET due_at = NULL WHERE id = ANY(%s)", [grants["three"], grants["four"]])
    await record(vault, grants["two"], UNCLEAR, 0)
    for minute, has_witness in ((5, True), (-5, False)):
        sql("UPDATE connections SET renewed_at = %s", NOON + timedelta(minutes=minute))
        evidence = await record(vault, grants["one"], UNCLEAR, 10)
        assert evidence is not None
        assert evidence.has_witness is has_witness


async def test_a_renewal_is_the_clients_who_made_it(vault: Vault, grants: dict[str, int], sql: Sql) -> None:
    """One from before the client changed acquits the former one alone."""
    sql("UPDATE grants SET last_renewed_at = %s WHERE id = %s", NOON, grants["one"])
    assert await refusals.last_renewal(vault, **OF) == NOON
    sql("UPDATE connections SET client_changed_at = %s", NOON)
    assert await refusals.last_renewal(vault, **OF) is None


async def record(
    vault: Vault,
    grant: int,
    suspicion: Suspicion,
    minute: int,
    *,
    client: bytes = CLIENT,
    begins_anew: bool = False,
) -> refusals.Evidence | None:
    return await refusals.record(
        vault, **OF, grant_id=grant, client=client, suspicion=suspicion, code="x", begins_anew=begins_anew,
        now=NOON + timedelta(minutes=minute),
    )  # fmt: skip


def told(evidence: refusals.Evidence | None) -> tuple[object, ...]:
    assert evidence is not None
    [found] = evidence.refusals
    minutes = [(moment - NOON) // timedelta(minutes=1) for moment in (found.first_at, found.last_at)]
    return (found.suspicion, found.tries, *minutes)


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
    sql(f"UPDATE grants SET due_at = now() + interval '1 h', {CLAIMED} WHERE id = %s", grants["three"])
    await refusals.call_witness(vault, **OF, now=now)
    assert due_before(sql, now) == set()  # whose renewal is under way bears witness soon


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
    sql(f"UPDATE grants SET {CLAIMED} WHERE id = %s", grants["four"])  # an app insists on it just now
    now = await vault.now()
    async with vault.engine.begin() as transaction:
        await refusals.retry_dead(transaction, **OF, client=CLIENT, now=now)
    assert due_before(sql, now + timedelta(hours=6)) == {grants[name] for name in ("one", "two")}


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
    sql("UPDATE grants SET due_at = %s WHERE id = %s", now, grants["four"])
    async with vault.engine.begin() as transaction:
        await refusals.recall(transaction, **OF, now=now)
    within = timedelta(seconds=refusals.RECALL_WITHIN_SECONDS)
    assert due_before(sql, now + within) == {grants["one"], grants["four"]}
    assert due_before(sql, now) == {grants["four"]}  # due as before
