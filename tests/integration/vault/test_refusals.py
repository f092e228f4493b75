"""How refusals are counted: what passes for one kind of answer says nothing of another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.vault.connections import circuits
from worker.vault.refusals import refusals
from worker.vault.refusals.refusals import Refusal, Suspicion
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
CLIENT = b"client"


@pytest.fixture
def grant(vault: Vault, sql: Sql) -> int:
    """The one grant of a connection."""
    sql(
        "INSERT INTO connections (tenant, name, strategy, client_fingerprint) VALUES ('default', 'c', 'oauth2', %s)",
        CLIENT,
    )
    [row] = sql(
        "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, due_at, obtained_from)"
        " VALUES ('default', 'c', 'oauth2|1', '1', 'active', %s, 'auth0') RETURNING id",
        NOON,
    )
    return int(row["id"])


async def refuse(vault: Vault, grant: int, *answers: tuple[Suspicion, float]) -> Refusal:
    """Record answers, each at these hours after noon; return what is counted in the end."""
    for suspicion, hours in answers:
        evidence = await refusals.record(
            vault,
            tenant="default",
            connection="c",
            grant_id=grant,
            client=CLIENT,
            suspicion=suspicion,
            code="x",
            begins_anew=False,
            now=NOON + timedelta(hours=hours),
        )
    assert evidence is not None
    [counted] = evidence.refusals
    return counted


async def test_a_request_to_wait_changes_no_count(vault: Vault, grant: int) -> None:
    """Refusals between which the provider asks to wait are counted together."""
    unclear, throttled = Suspicion.UNCLEAR, Suspicion.THROTTLED
    counted = await refuse(vault, grant, (unclear, 0), (throttled, 1), (unclear, 2), (throttled, 3))
    assert counted == Refusal(grant, unclear, 2, NOON, NOON + timedelta(hours=2))


async def test_answers_are_counted_apart_from_server_errors(vault: Vault, grant: int) -> None:
    """Server errors count no tries of an answer, and hours of both are the same trouble."""
    unclear, outage = Suspicion.UNCLEAR, Suspicion.OUTAGE
    counted = await refuse(vault, grant, (outage, 0), (outage, 1), (unclear, 2))
    assert (counted.tries, counted.first_at) == (1, NOON)


async def test_words_about_the_client_begin_anew_after_server_errors(vault: Vault, grant: int) -> None:
    """An outage before the client broke is no part of its refusals, which a renewal between them does not acquit."""
    outage, client = Suspicion.OUTAGE, Suspicion.CLIENT
    counted = await refuse(vault, grant, (outage, 0), (outage, 1), (client, 2), (client, 3))
    assert (counted.tries, counted.first_at) == (2, NOON + timedelta(hours=2))


@pytest.mark.parametrize(("hours", "began"), [(1.5, 0), (5, 5)])
async def test_a_server_error_long_after_a_refusal_begins_anew(
    vault: Vault, grant: int, hours: float, began: float
) -> None:
    """A server error counts the hours of a grant that is tried all the time, not those of a client that was refused."""
    counted = await refuse(vault, grant, (Suspicion.CLIENT, 0), (Suspicion.OUTAGE, hours))
    assert counted.first_at == NOON + timedelta(hours=began)


@pytest.mark.parametrize(("is_open", "tries"), [(True, 1), (False, 3)])
async def test_a_client_put_right_leaves_each_grant_its_tries(
    vault: Vault, grant: int, sql: Sql, is_open: bool, tries: int
) -> None:
    """When a circuit closes, its grants have their tries before them again; nobody is presumed dead of the client."""
    if is_open:
        sql("UPDATE connections SET circuit_opened_at = %s, circuit_until = %s, circuit_code = 'x',"
            " circuit_blame = 'operator', circuit_failures = 1", NOON, NOON)  # fmt: skip
    await refuse(vault, grant, (Suspicion.CLIENT, 0), (Suspicion.CLIENT, 1), (Suspicion.CLIENT, 2))
    await circuits.acquit(
        vault, tenant="default", name="c", fingerprint=CLIENT, now=NOON + timedelta(hours=3)
    )
    [row] = sql("SELECT tries, first_at FROM refusals")
    assert (row["tries"], row["first_at"]) == (tries, NOON)
