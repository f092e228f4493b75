"""Which grants a tick claims, and which one an open circuit's probe takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.support.renewals import Sql
from token_vault.secret import Secret
from worker.vault import claims
from worker.vault.vault import Vault

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
UNTIL = NOW + timedelta(minutes=2)
SECOND = timedelta(seconds=1)
LATER = NOW + timedelta(hours=1)
Add = Callable[..., int]
# Those of a predicate are among what an index depends on, and those of a constraint's index among its keys.
INDEXED_COLUMNS = """
SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid
WHERE indrelid = 'grants'::regclass AND (attnum = ANY (indkey) OR EXISTS (
    SELECT FROM pg_depend WHERE objid = indexrelid AND refobjid = attrelid AND refobjsubid = attnum))
"""


@pytest.fixture
def add(vault: Vault, sql: Sql) -> Add:
    """Add grants of connections that are there; each gets the next number as its account."""
    for name in ("c", "d"):
        sql("INSERT INTO connections (tenant, name, strategy) VALUES ('default', %s, 'oauth2')", name)

    def insert(
        *, connection: str = "c", state: str = "active", due_at: datetime | None = NOW, **columns: Any
    ) -> int:
        values = {
            "tenant": "default", "connection": connection, "state": state, "due_at": due_at, "obtained_from": "auth0",
            "reason": "invalid_grant" if state == "reauthorization_required" else None,
            "in_doubt_since": NOW if state == "in_doubt" else None,
        } | columns  # fmt: skip
        subject = "(SELECT 'u' || count(*) FROM grants), (SELECT count(*) + 1 FROM grants)"
        [row] = sql(
            f"INSERT INTO grants ({', '.join(values)}, user_id, provider_user_id)"
            f" VALUES ({', '.join(['%s'] * len(values))}, {subject}) RETURNING id",
            *values.values(),
        )
        return int(row["id"])

    return insert


@pytest.fixture
def refuse(sql: Sql) -> Callable[[int], None]:
    """Record a refusal of a grant."""

    def insert(grant_id: int) -> None:
        sql(
            "INSERT INTO refusals (grant_id, tenant, connection, client, suspicion, code, tries, first_at, last_at)"
            " SELECT id, tenant, connection, 'client', 'unclear', 'x', 1, %s, %s FROM grants WHERE id = %s",
            NOW, NOW, grant_id,
        )  # fmt: skip

    return insert


def revoke(sql: Sql, grant_id: int, *, taken: bool = False) -> None:
    """Request that a grant's tokens be revoked; they are taken once no call has them."""
    sql(
        "INSERT INTO revocations (grant_id, tenant, connection, user_id, provider_user_id, requested_at, taken_at,"
        " in_doubt, access_version, refresh_version, next_at)"
        " SELECT id, tenant, connection, user_id, provider_user_id, %s, %s, false, 0, 0, %s FROM grants WHERE id = %s",
        NOW, NOW if taken else None, NOW, grant_id,
    )  # fmt: skip


def open_circuit(sql: Sql, blame: str = "operator", until: datetime = NOW) -> None:
    sql(
        "UPDATE connections SET circuit_opened_at = %s, circuit_until = %s, circuit_code = 'x', circuit_blame = %s"
        " WHERE name = 'c'",
        NOW, until, blame,
    )  # fmt: skip


def pause(sql: Sql, tenant: str, connection: str) -> None:
    sql(
        "INSERT INTO pauses (tenant, connection, since, reason, paused_by) VALUES (%s, %s, %s, 'x', 'me')",
        tenant, connection, NOW,
    )  # fmt: skip


async def claimed(
    vault: Vault,
    *,
    names: tuple[str, ...] = ("c",),
    quota: int = 10,
    limit: int = 10,
    due_by: datetime | None = None,
) -> list[int]:
    quotas = {("default", name): quota for name in names}
    found = await claims.claim_due(
        vault, quotas, owner=uuid4(), now=NOW, until=UNTIL, limit=limit, due_by=due_by
    )
    return sorted(claim.id for claim in found)


@asynccontextmanager
async def locked(url: Secret, grant_id: int) -> AsyncIterator[None]:
    async with await psycopg.AsyncConnection.connect(url.reveal()) as connection:
        await connection.execute("SELECT FROM grants WHERE id = %s FOR UPDATE", (grant_id,))
        yield
        await connection.rollback()


PAUSES = [
    ("", "", True), ("default", "", True), ("default", "c", True), ("other", "", False), ("default", "d", False),
    ("other", "c", False),
]  # fmt: skip


# Due grants


async def test_what_is_due_is_claimed(vault: Vault, add: Add) -> None:
    """A grant is due at its time and not before, whatever its state; one without a time never is."""
    due = [add(), add(due_at=NOW - SECOND), add(state="in_doubt"), add(state="reauthorization_required")]
    add(due_at=NOW + SECOND)
    add(due_at=None)
    add(connection="d")
    assert await claimed(vault) == due


async def test_what_was_due_at_another_time_can_be_asked_for(vault: Vault, add: Add) -> None:
    """A caller may look a little ahead; without a word it is now that counts."""
    soon = add(due_at=NOW + SECOND)
    assert await claimed(vault) == []
    assert await claimed(vault, due_by=NOW + SECOND) == [soon]


async def test_a_claim_is_nobody_elses_and_takes_no_place(vault: Vault, add: Add) -> None:
    """What is claimed stays due, and neither a quota nor a limit counts it; at its end it is claimed at once."""
    ids = [add(due_at=NOW - number * SECOND) for number in (2, 1)]
    assert await claimed(vault, quota=1) == ids[:1]
    assert await claimed(vault, limit=1) == ids[1:]
    assert await claimed(vault) == []
    again = await claims.claim_due(
        vault, {("default", "c"): 1}, owner=uuid4(), now=UNTIL, until=LATER, limit=1
    )
    assert [claim.id for claim in again] == ids[:1]


@pytest.mark.parametrize("state", ["active", "reauthorization_required"])
async def test_a_probe_takes_nobodys_claim(vault: Vault, sql: Sql, add: Add, state: str) -> None:
    """A grant under way is due all the while, and its answer is still to come."""
    add(state=state, claim_owner=UUID(int=1), claimed_at=NOW, claim_until=NOW + SECOND)
    ended = add(
        state=state, due_at=NOW - SECOND, claim_owner=UUID(int=1), claimed_at=NOW - SECOND, claim_until=NOW
    )
    if state == "active":
        add(state="reauthorization_required", due_at=NOW - 2 * SECOND)
    open_circuit(sql)
    assert await claimed(vault) == [ended]


@pytest.mark.parametrize("singly", [False, True])
async def test_a_claim_writes_no_index(vault: Vault, sql: Sql, add: Add, singly: bool) -> None:
    """A claim of what is due changes no indexed column, so that it costs the same in a table of any size."""
    grant = add(in_doubt_since=NOW, forced_at=NOW, attempts=1)
    [before] = sql("SELECT * FROM grants")
    if singly:
        assert await claims.claim_one(vault, grant, owner=uuid4(), now=NOW, until=UNTIL)
    else:
        assert await claimed(vault) == [grant]
    [after] = sql("SELECT * FROM grants")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"claim_owner", "claimed_at", "claim_until"}
    assert not changed & {row["attname"] for row in sql(INDEXED_COLUMNS)}


async def test_the_oldest_come_first_within_a_quota(vault: Vault, add: Add) -> None:
    """Of each connection the longest due are claimed, and of all of them together no more than the limit."""
    ids = [add(due_at=NOW - number * SECOND) for number in (1, 3, 2)]
    others = [add(connection="d"), add(connection="d")]
    found = await claimed(vault, names=("c", "d"), quota=2, limit=3)
    assert {ids[1], ids[2]} <= {*found}
    assert len({*found} & {*others}) == 1
    assert await claimed(vault, names=("c", "d")) == sorted({*ids, *others} - {*found})


@pytest.mark.parametrize(("tenant", "connection", "stops"), PAUSES)
@pytest.mark.parametrize("is_open", [False, True])
async def test_what_is_paused_is_left_alone(
    vault: Vault, sql: Sql, add: Add, tenant: str, connection: str, stops: bool, is_open: bool
) -> None:
    """Neither a due grant nor a probe is taken of what the operator has paused, and nothing else is stopped."""
    grant = add()
    if is_open:
        open_circuit(sql)
    pause(sql, tenant, connection)
    assert await claimed(vault) == ([] if stops else [grant])
    one = await claims.claim_one(vault, grant, owner=uuid4(), now=UNTIL, until=LATER)
    assert (one is None) == stops


@pytest.mark.parametrize("seconds", [-1, 1])  # a probe takes what fell due last
@pytest.mark.parametrize("is_open", [False, True])
async def test_tokens_that_are_to_be_revoked_are_not_spent(
    vault: Vault, sql: Sql, add: Add, is_open: bool, seconds: int
) -> None:
    """A grant whose tokens wait to be taken for revocation is not claimed; once they are taken it may be."""
    waiting, taken = (
        add(due_at=min(NOW, NOW + seconds * SECOND)),
        add(due_at=min(NOW, NOW - seconds * SECOND)),
    )
    revoke(sql, waiting)
    revoke(sql, taken, taken=True)
    if is_open:
        open_circuit(sql)
    assert await claimed(vault) == [taken]
    assert await claims.claim_one(vault, waiting, owner=uuid4(), now=UNTIL, until=LATER) is None
    assert await claims.claim_one(vault, taken, owner=uuid4(), now=UNTIL, until=LATER) is not None


# Probes


@pytest.mark.parametrize(("until", "probes"), [(NOW, True), (NOW + SECOND, False)])
async def test_an_open_circuit_allows_one_probe(
    vault: Vault, sql: Sql, add: Add, until: datetime, probes: bool
) -> None:
    """Once its pause is over a circuit gets one call, and the next one after that call's deadline."""
    add(due_at=NOW - SECOND)
    last = add()
    other = add(connection="d")
    open_circuit(sql, until=until)
    assert await claimed(vault, names=("c", "d")) == ([last, other] if probes else [other])
    [row] = sql("SELECT circuit_until FROM connections WHERE name = 'c'")
    assert row["circuit_until"] == (UNTIL if probes else until)
    assert await claimed(vault) == []


@pytest.mark.parametrize(("blame", "early"), [("operator", True), ("nobody", False)])
@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_probe_of_a_client_is_made_before_a_grant_is_due(
    vault: Vault, sql: Sql, add: Add, refuse: Callable[[int], None], blame: str, early: bool, is_refused: bool
) -> None:
    """To see whether a client is good a grant is tried early; in an outage none is put at risk."""
    grant = add(due_at=LATER)
    add(due_at=LATER, state="in_doubt")
    add(due_at=LATER, claim_owner=UUID(int=1), claimed_at=NOW, claim_until=LATER)
    if is_refused:
        refuse(grant)
    open_circuit(sql, blame)
    assert await claimed(vault) == ([grant] if early else [])


@pytest.mark.parametrize("due_at", [NOW - SECOND, NOW])
@pytest.mark.parametrize("blame", ["operator", "nobody"])
@pytest.mark.parametrize("state", ["active", "in_doubt"])
async def test_a_probe_prefers_a_grant_that_was_never_refused(
    vault: Vault, sql: Sql, add: Add, refuse: Callable[[int], None], blame: str, state: str, due_at: datetime
) -> None:
    """One that may be dead itself proves nothing of the client, however long it is due."""
    for before_or_after in (NOW, NOW - 2 * SECOND):
        refuse(add(due_at=before_or_after))
        add(due_at=before_or_after, state="reauthorization_required")
    fresh = add(state=state, due_at=due_at)
    open_circuit(sql, blame)
    assert await claimed(vault) == [fresh]


async def test_a_probe_takes_the_grant_that_was_renewed_last(vault: Vault, sql: Sql, add: Add) -> None:
    """Where many died, those that were left over are due first: the one that is due last is the likeliest to live."""
    for hours in range(1, 4):
        add(due_at=NOW - timedelta(hours=hours))
    add(due_at=LATER)
    renewed = add(due_at=LATER + SECOND)
    add(due_at=None)
    open_circuit(sql, "operator")
    assert await claimed(vault) == [renewed]


async def test_probes_of_refused_grants_take_turns(
    vault: Vault, sql: Sql, add: Add, refuse: Callable[[int], None]
) -> None:
    """Where all were refused, none is probed again before the others; last come those that a renewal left behind."""
    left_behind, late, early = (
        add(last_renewed_at=NOW - timedelta(hours=hours), due_at=LATER) for hours in (1, 2, 3)
    )
    for grant, first_at, last_at in ((left_behind, -9, -8), (late, -4, -1), (early, -3, -2)):
        refuse(grant)
        sql(
            "UPDATE refusals SET first_at = %s, last_at = %s WHERE grant_id = %s",
            NOW + timedelta(hours=first_at),
            NOW + timedelta(hours=last_at),
            grant,
        )
    sql("UPDATE connections SET renewed_at = %s", NOW - timedelta(hours=6))
    turns = []
    for _ in range(2):
        open_circuit(sql, "operator")
        [grant] = await claimed(vault)
        turns.append(grant)
        sql("UPDATE grants SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL, due_at = %s", LATER)
        sql("UPDATE refusals SET last_at = %s WHERE grant_id = %s", NOW, grant)
    assert turns == [early, late]


@pytest.mark.parametrize("change", ["claimed", "never due", "in doubt"])
async def test_no_grant_is_tried_early_that_cannot_prove_anything(
    vault: Vault, sql: Sql, add: Add, change: str
) -> None:
    """A grant under way, one that is never due, or one in doubt is not taken before its time."""
    match change:
        case "claimed":
            add(due_at=LATER, claim_owner=UUID(int=1), claimed_at=NOW, claim_until=LATER)
        case "never due":
            add(due_at=None)
        case "in doubt":
            add(due_at=LATER, state="in_doubt")
    add(connection="d", due_at=LATER)
    open_circuit(sql)
    assert await claimed(vault) == []


@pytest.mark.parametrize("blame", ["operator", "nobody"])
async def test_where_all_were_refused_the_last_renewed_is_tried(
    vault: Vault, sql: Sql, add: Add, refuse: Callable[[int], None], blame: str
) -> None:
    """Of grants that were all refused, the one that was renewed last is the least likely to be dead."""
    add_refused: list[int] = []
    for columns in (
        {"last_renewed_at": None},
        {"last_renewed_at": NOW - SECOND},
        {"last_renewed_at": NOW - 2 * SECOND},
        {"last_renewed_at": NOW, "state": "in_doubt"},
        {"last_renewed_at": NOW, "claim_owner": UUID(int=1), "claimed_at": NOW, "claim_until": LATER},
    ):
        add_refused.append(add(**columns))
        refuse(add_refused[-1])
    refuse(add(connection="d", last_renewed_at=NOW))
    open_circuit(sql, blame)
    assert await claimed(vault) == [add_refused[1]]


async def test_where_nothing_else_is_left_the_longest_due_is_tried(vault: Vault, sql: Sql, add: Add) -> None:
    """A connection whose grants are all dead is probed by the one that has waited longest."""
    add(state="reauthorization_required")
    oldest = add(state="reauthorization_required", due_at=NOW - SECOND)
    add(state="reauthorization_required", connection="d", due_at=NOW - 2 * SECOND)
    open_circuit(sql)
    assert await claimed(vault) == [oldest]


async def test_a_dead_grant_is_a_probe_from_the_moment_on_that_it_is_due(
    vault: Vault, sql: Sql, add: Add
) -> None:
    """Where nothing else is left, what is due now is tried now, and nothing before its time."""
    add(state="reauthorization_required", due_at=LATER)
    due = add(state="reauthorization_required")
    open_circuit(sql)
    assert await claimed(vault) == [due]


@pytest.mark.parametrize("kind", ["fresh", "refused", "dead"])
async def test_a_probe_waits_for_no_lock(
    vault: Vault, sql: Sql, add: Add, refuse: Callable[[int], None], database_url: Secret, kind: str
) -> None:
    """Where somebody is just writing the grant that a probe would take, it takes the next one."""
    state = "reauthorization_required" if kind == "dead" else "active"
    first = add(state=state, due_at=NOW - SECOND, last_renewed_at=NOW)
    second = add(state=state, last_renewed_at=NOW - SECOND)
    if kind == "fresh":  # of those that were never refused, the one that fell due last is taken
        first, second = second, first
    if kind == "refused":
        refuse(first)
        refuse(second)
    open_circuit(sql)
    async with locked(database_url, first):
        assert await claimed(vault) == [second]


# One grant


@pytest.mark.parametrize(
    ("columns", "by_operator", "allowed"),
    [
        ({}, False, True),
        ({"due_at": LATER}, False, True),
        ({"due_at": LATER, "attempts": 1}, False, False),
        ({"due_at": NOW, "attempts": 1}, False, True),
        ({"due_at": LATER, "attempts": 1}, True, True),
        ({"due_at": None, "state": "reauthorization_required"}, False, False),
        ({"due_at": None, "state": "reauthorization_required"}, True, True),
        ({"due_at": None, "state": "erased"}, True, False),
        ({"claim_owner": UUID(int=1), "claimed_at": NOW, "claim_until": NOW}, False, True),
        ({"claim_owner": UUID(int=1), "claimed_at": NOW, "claim_until": NOW + SECOND}, True, False),
    ],
)
async def test_who_may_claim_a_grant_singly(
    vault: Vault, sql: Sql, add: Add, columns: dict[str, Any], by_operator: bool, allowed: bool
) -> None:
    """A failure's pause holds apps back, a claim everybody, and a death all but the operator."""
    grant, other = add(**columns), add()
    claim = await claims.claim_one(vault, grant, owner=uuid4(), now=NOW, until=UNTIL, by_operator=by_operator)
    assert (claim is not None) == allowed
    rows = {row["id"]: row for row in sql("SELECT id, claim_until, due_at, forced_at FROM grants")}
    assert rows[other]["claim_until"] is None
    if allowed:
        is_dead = columns.get("state") == "reauthorization_required"
        assert rows[grant]["claim_until"] == UNTIL
        assert rows[grant]["due_at"] == (None if is_dead else min(columns.get("due_at", NOW), UNTIL))
        assert rows[grant]["forced_at"] == (NOW if is_dead else None)


async def test_a_forced_try_keeps_its_time_and_brings_the_next_one(vault: Vault, sql: Sql, add: Add) -> None:
    """A dead grant that is looked at daily keeps being so while it is tried by force."""
    grant = add(state="reauthorization_required", due_at=LATER)
    assert await claims.claim_one(vault, grant, owner=uuid4(), now=NOW, until=UNTIL, force=True)
    assert sql("SELECT due_at, forced_at FROM grants") == [{"due_at": UNTIL, "forced_at": NOW}]


# Claims that end without a pair


async def claim_of(vault: Vault, grant: int) -> claims.Claim:
    claim = await claims.claim_one(vault, grant, owner=uuid4(), now=NOW, until=UNTIL, by_operator=True)
    assert claim is not None
    return claim


async def test_a_release_changes_what_it_names(vault: Vault, sql: Sql, add: Add) -> None:
    """What a release says nothing of stays as it was."""
    before = {
        "reason": "invalid_grant", "reason_since": NOW - SECOND, "last_error": "x", "refused_client": b"c",
        "attempts": 3, "in_doubt_since": NOW - SECOND,
    }  # fmt: skip
    grant = add(state="in_doubt", **before)
    assert await claims.release(vault, await claim_of(vault, grant), due_at=LATER, in_doubt=True)
    names = ", ".join(before)
    [row] = sql(f"SELECT state, due_at, claim_owner, claimed_at, claim_until, {names} FROM grants")
    free = {"claim_owner": None, "claimed_at": None, "claim_until": None}
    assert row == before | free | {"state": "in_doubt", "due_at": LATER}


async def test_a_release_says_why(vault: Vault, sql: Sql, add: Add) -> None:
    """A new state comes with its reason, time, client and failures; a first doubt began with the claim."""
    grant = add()
    assert await claims.release(
        vault, await claim_of(vault, grant), due_at=LATER, state="in_doubt", reason="timeout", reason_since=NOW,
        in_doubt=True, attempts=7, last_error="timeout", refused_client=b"client",
    )  # fmt: skip
    assert sql(
        "SELECT state, reason, reason_since, due_at, in_doubt_since, attempts, last_error, refused_client FROM grants"
    ) == [
        {
            "state": "in_doubt", "reason": "timeout", "reason_since": NOW, "due_at": LATER, "in_doubt_since": NOW,
            "attempts": 7, "last_error": "timeout", "refused_client": b"client",
        }
    ]  # fmt: skip
    assert await claims.release(
        vault, await claim_of(vault, grant), due_at=LATER, doubt_resolved=True, state="active"
    )
    assert sql("SELECT in_doubt_since, reason, attempts FROM grants") == [
        {"in_doubt_since": None, "reason": None, "attempts": 7}
    ]


@pytest.mark.parametrize(
    ("state", "due_at", "kept"),
    [
        ("active", LATER, LATER), ("active", None, NOW), ("in_doubt", LATER, LATER), ("in_doubt", None, NOW),
        ("reauthorization_required", LATER, LATER), ("reauthorization_required", None, None),
        ("unrenewable", LATER, None), ("unrenewable", None, None),
    ],
)  # fmt: skip
async def test_who_lives_is_looked_at_again(
    vault: Vault, sql: Sql, add: Add, state: str, due_at: datetime | None, kept: datetime | None
) -> None:
    """A grant that can be renewed always has a time; what nothing renews has none."""
    grant = add(in_doubt_since=NOW)
    assert await claims.release(vault, await claim_of(vault, grant), due_at=due_at, state=state, reason="x")
    assert sql("SELECT due_at FROM grants") == [{"due_at": kept}]


@pytest.mark.parametrize(("ahead", "is_released"), [(1, False), (0, True), (-1, True)])
async def test_a_newer_access_token_does_not_keep_a_claim(
    vault: Vault, sql: Sql, add: Add, ahead: int, is_released: bool
) -> None:
    """A login that brought an access token alone leaves what is said of the refresh token true."""
    grant, other = add(access_version=5), add(access_version=5)
    claim = await claim_of(vault, grant)
    await claim_of(vault, other)
    claim = replace(claim, access_version=claim.access_version + ahead)
    assert await claims.release(vault, claim, due_at=LATER) == is_released
    rows = sql("SELECT claim_owner IS NULL AS is_free FROM grants ORDER BY id")
    assert [row["is_free"] for row in rows] == [is_released, False]


@pytest.mark.parametrize(
    ("state", "due_at", "kept"),
    [
        ("active", NOW, LATER), ("in_doubt", NOW, LATER), ("reauthorization_required", NOW, LATER),
        ("reauthorization_required", None, None), ("unrenewable", NOW, None),
    ],
)  # fmt: skip
async def test_an_unspent_claim_leaves_the_dead_alone(
    vault: Vault, sql: Sql, add: Add, state: str, due_at: datetime | None, kept: datetime | None
) -> None:
    """A claim that is given back is due when its caller says, where it was due at all."""
    grant, other = add(state=state, due_at=due_at), add()
    claim = await claim_of(vault, grant)
    await claim_of(vault, other)
    await claims.release_unspent(vault, [claim], due_at=LATER)
    rows = sql("SELECT due_at, claim_owner IS NULL AS is_free FROM grants ORDER BY id")
    assert rows == [{"due_at": kept, "is_free": True}, {"due_at": NOW, "is_free": False}]
