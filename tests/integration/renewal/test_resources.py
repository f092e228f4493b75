"""One refresh token, several access tokens: each for its resource, and never two calls with one refresh token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from tests.support.keys import ACCESS_KEY
from tests.support.readers import KINDS, OpenReader, Sql, on_demand_worker, opening
from tests.support.renewals import Renewals
from tests.support.wait import WAIT_SECONDS, until_async
from token_vault import TokenVault
from token_vault.errors import AccessDenied, CannotDecrypt, ConfigurationError, ReauthorizationRequired
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from token_vault.token_target import TokenTarget
from worker.renewal import commit
from worker.renewal.on_demand import Refreshed
from worker.runtime import Runtime
from worker.vault import claims
from worker.vault.grants import resource_tokens
from worker.vault.grants.erase import erase
from worker.vault.grants.relink import relink
from worker.vault.rotation.ciphertext_columns import CIPHERTEXT_COLUMNS, read_pages

CONNECTION = "office"
RESOURCES = [f"https://api-{number}.example" for number in range(8)]
GRAPH = RESOURCES[0]
CALLERS = 64
LONG = 10 * WAIT_SECONDS


@pytest.fixture(params=KINDS)
async def open_reader(request: pytest.FixtureRequest, database_url: Secret) -> AsyncIterator[OpenReader]:
    """Open readers for threads, then for asyncio."""
    async with opening(request.param, database_url) as make:
        yield make


async def audience(renewals: Renewals, token: str) -> str:
    """Ask the provider's API what a token is for."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(
            f"{renewals.tenant.base_url}/idp/{CONNECTION}/api/me",
            headers={"Authorization": f"Bearer {token}"},
        )
    assert answer.status_code == 200
    found: str = answer.json()["audience"]
    return found


@pytest.fixture
async def user(renewals: Renewals) -> tuple[str, Runtime]:
    """A user of a strict rotator, whose own token is fresh."""
    (user_id,) = renewals.connect(CONNECTION)
    worker = await renewals.synced()
    renewals.tenant.reset_calls()
    return user_id, worker


async def test_callers_on_many_resources(
    renewals: Renewals, user: tuple[str, Runtime], open_reader: OpenReader
) -> None:
    """64 callers on 8 resources of one grant: one call each, no refresh token twice, and no token mixed up."""
    user_id, worker = user
    other, reader = await renewals.worker(), open_reader()
    async with on_demand_worker(worker), on_demand_worker(other):
        tokens = await asyncio.gather(
            *(
                reader.user_token(user_id, CONNECTION, resource=RESOURCES[caller % 8], wait=LONG)
                for caller in range(CALLERS)
            )
        )
    assert len(renewals.token_calls(CONNECTION)) == len(RESOURCES)
    by_resource = {tokens[number].value: RESOURCES[number] for number in range(8)}
    assert len(by_resource) == len(RESOURCES)
    for caller, token in enumerate(tokens):
        assert by_resource[token.value] == RESOURCES[caller % 8]
    for value, resource in by_resource.items():
        assert await audience(renewals, value) == resource
    assert renewals.tenant.double_spends() == 0
    row = renewals.row(user_id)
    assert (row["state"], row["claim_owner"]) == ("active", None)
    assert row["due_at"] > row["now"]
    own = await reader.user_token(user_id, CONNECTION)
    assert own.value not in by_resource


async def test_the_rotated_refresh_token_renews_all(
    renewals: Renewals, user: tuple[str, Runtime], open_reader: OpenReader, sql: Sql
) -> None:
    """After a rotation for one resource the grant's own token and another resource's are renewed with the new one."""
    user_id, worker = user
    reader = open_reader()
    async with on_demand_worker(worker):
        first = await reader.user_token(user_id, CONNECTION, resource=GRAPH, wait=LONG)
        renewals.make_due()
        await worker.engine.renew_due(["default"])
        second = await reader.user_token(user_id, CONNECTION, scopes=["email"], wait=LONG)
        assert (await reader.user_token(user_id, CONNECTION, resource=GRAPH)).value == first.value
        sql("UPDATE resource_tokens SET expires_at = now() WHERE resource <> ''")
        renewed = await reader.user_token(user_id, CONNECTION, resource=GRAPH, wait=LONG)
    assert len({first.value, second.value, renewed.value}) == 3
    assert await audience(renewals, renewed.value) == GRAPH
    assert await audience(renewals, second.value) == "email"
    assert renewals.tenant.double_spends() == 0


async def test_a_refused_target_leaves_the_grant_alone(
    renewals: Renewals, user: tuple[str, Runtime], open_reader: OpenReader
) -> None:
    """A refusal of one resource says who acts, costs one call a minute, and neither grant nor connection anything."""
    user_id, worker = user
    before, reader = renewals.row(user_id), open_reader()
    renewals.tenant.fail_next(f"/idp/{CONNECTION}", 1, "error:consent_required")
    async with on_demand_worker(worker):
        for _ in range(3):
            with pytest.raises(ReauthorizationRequired, match=r"consent to https://api-0\.example"):
                await reader.user_token(user_id, CONNECTION, resource=GRAPH, wait=LONG)
        with pytest.raises(ConfigurationError, match="invalid_scope"):
            await reader.user_token(user_id, CONNECTION, scopes=["never-granted"], wait=LONG)
    assert len(renewals.token_calls(CONNECTION)) == 2
    row = renewals.row(user_id)
    for name in ("state", "reason", "attempts", "refresh_version", "access_version", "last_error"):
        assert row[name] == before[name]
    assert row["due_at"] > row["now"]
    assert renewals.circuit(CONNECTION)["circuit_opened_at"] is None
    assert (await reader.user_token(user_id, CONNECTION)).value


async def test_a_dead_grant_is_found_out_by_its_own_token(
    renewals: Renewals, user: tuple[str, Runtime], open_reader: OpenReader
) -> None:
    """A target refused as the dead grant would be has the grant's own token renewed at once, which decides."""
    user_id, worker = user
    renewals.tenant.revoke(user_id, CONNECTION)
    async with on_demand_worker(worker):
        with pytest.raises(ReauthorizationRequired):
            await open_reader().user_token(user_id, CONNECTION, resource=GRAPH, wait=LONG)
    assert renewals.row(user_id)["state"] == "active"
    await worker.engine.renew_due(["default"])
    assert renewals.row(user_id)["state"] == "reauthorization_required"


async def test_the_operator_names_the_resources(
    renewals: Renewals, user: tuple[str, Runtime], open_reader: OpenReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection's resources are named, no other is asked for."""
    user_id, worker = user
    load = worker.connections.load

    async def limited(*arguments: Any, **options: Any) -> Any:
        loaded = await load(*arguments, **options)
        return {key: replace(found, resources=("https://api-1.*",)) for key, found in loaded.items()}

    monkeypatch.setattr(worker.connections, "load", limited)
    reader = open_reader()
    async with on_demand_worker(worker):
        await reader.user_token(user_id, CONNECTION, resource=RESOURCES[1], wait=LONG)
        with pytest.raises(AccessDenied, match=r"resources does not name https://api-0\.example"):
            await reader.user_token(user_id, CONNECTION, resource=GRAPH, wait=LONG)
    assert len(renewals.token_calls(CONNECTION)) == 1


async def stored(
    renewals: Renewals, user: tuple[str, Runtime], database_url: Secret, *resources: str
) -> None:
    """Have tokens for these resources stored."""
    user_id, worker = user
    async with AsyncExitStack() as stack:
        make = await stack.enter_async_context(opening("asyncio", database_url))
        await stack.enter_async_context(on_demand_worker(worker))
        for resource in resources:
            await make().user_token(user_id, CONNECTION, resource=resource, wait=LONG)


async def test_a_token_decrypts_for_its_resource_only(
    renewals: Renewals, user: tuple[str, Runtime], database_url: Secret, sql: Sql
) -> None:
    """Whoever swaps the tokens of two resources in the database gets an error, not another resource's token."""
    await stored(renewals, user, database_url, *RESOURCES[:2])
    sql(
        "UPDATE resource_tokens r SET ciphertext = o.ciphertext, version = o.version FROM resource_tokens o"
        " WHERE o.grant_id = r.grant_id AND o.resource <> r.resource"
    )
    with TokenVault(database_url, [ACCESS_KEY]) as reader, pytest.raises(CannotDecrypt):
        reader.user_token(user[0], CONNECTION, resource=GRAPH)


async def test_tokens_end_with_their_grant(
    renewals: Renewals, user: tuple[str, Runtime], database_url: Secret, sql: Sql
) -> None:
    """Nothing of another resource outlives a move to another user, or an erasure."""
    user_id, worker = user
    row = renewals.row(user_id)
    key = GrantKey("default", CONNECTION, "auth0|other", row["provider_user_id"])
    await stored(renewals, user, database_url, GRAPH)
    assert await relink(worker.vault, [(row["id"], key, row["observed_updated_at"])], now=row["now"])
    assert sql("SELECT * FROM resource_tokens") == []
    await stored(renewals, (key.user_id, worker), database_url, GRAPH)
    async with worker.vault.engine.begin() as connection:
        await erase(worker.vault, connection, row["id"], key, reason="forgotten", now=row["now"])
    assert sql("SELECT * FROM resource_tokens") == []


async def test_a_grant_keeps_a_bounded_number(
    renewals: Renewals, user: tuple[str, Runtime], database_url: Secret, sql: Sql
) -> None:
    """However many resources an app asks for, a grant keeps the newest tokens only."""
    await stored(renewals, user, database_url, GRAPH)
    sql(
        "INSERT INTO resource_tokens (grant_id, resource, scope, refused_at) SELECT grant_id, 'r' || number, '',"
        " now() - interval '1 hour' FROM resource_tokens, generate_series(1, 100) number"
    )
    await stored(renewals, user, database_url, RESOURCES[1])
    kept = sql("SELECT resource FROM resource_tokens")
    assert len(kept) == 32
    assert {GRAPH, RESOURCES[1]} <= {row["resource"] for row in kept}


async def test_many_targets_make_few_calls(renewals: Renewals, user: tuple[str, Runtime], sql: Sql) -> None:
    """However many targets an app names, a grant has a bounded number of calls for them in a minute."""
    user_id, worker = user
    grant_id = renewals.row(user_id)["id"]

    async def ask(number: int) -> Refreshed:
        target = TokenTarget(f"https://{number}.example", "")
        return await worker.on_demand.refresh_grant(grant_id, min_ttl=None, target=target)

    asked = [await ask(number) for number in range(resource_tokens.MAX_TARGET_CALLS + 4)]
    assert len(renewals.token_calls(CONNECTION)) == resource_tokens.MAX_TARGET_CALLS
    assert [each.renewed for each in asked[-5:]] == [True, *[False] * 4]
    assert 30 < (asked[-1].retry_after or 0) <= 60
    sql(
        "UPDATE resource_tokens SET obtained_at = obtained_at - interval '1 min' WHERE resource = 'https://0.example'"
    )
    assert (await ask(100)).renewed


async def test_refusals_take_no_room_from_tokens(
    renewals: Renewals, user: tuple[str, Runtime], database_url: Secret, sql: Sql
) -> None:
    """An app that asks for what it does not get makes no other app's token be forgotten."""
    await stored(renewals, user, database_url, GRAPH)
    row = renewals.row(user[0])
    for number in range(40):
        await resource_tokens.record_refusal(
            user[1].vault,
            row["id"],
            TokenTarget(f"r{number}", ""),
            code="not_allowed",
            blame="denied",
            now=row["now"],
        )
    kept = [each["resource"] for each in sql("SELECT resource FROM resource_tokens")]
    assert GRAPH in kept
    assert len(kept) == 33


async def test_keys_are_rotated(renewals: Renewals, user: tuple[str, Runtime], database_url: Secret) -> None:
    """The rotation of keys reads these tokens with the rest."""
    await stored(renewals, user, database_url, GRAPH)
    (column,) = [column for column in CIPHERTEXT_COLUMNS if column.table == "resource_tokens"]
    with psycopg.connect(database_url.reveal()) as connection:
        ((found,),) = list(read_pages(connection, column, 10))
    assert user[1].vault.access.key_index(found.context, found.ciphertext) == 0


async def test_an_answer_for_a_resource_waits_on_disk(
    renewals: Renewals,
    user: tuple[str, Runtime],
    database_url: Secret,
    sql: Sql,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer that Postgres could not take is stored from disk for its resource, the rotated token with it."""
    user_id, worker = user
    store = claims.store_pair
    monkeypatch.setattr(commit, "COMMIT_RETRY_SECONDS", 0.0)

    async def away(*_: Any, **__: Any) -> bool:
        raise OperationalError("", {}, Exception())

    monkeypatch.setattr(claims, "store_pair", away)
    before = renewals.row(user_id)
    await worker.on_demand.refresh_grant(before["id"], min_ttl=None, target=TokenTarget(GRAPH))
    monkeypatch.setattr(claims, "store_pair", store)
    await worker.engine.renew_due(["default"])
    row = renewals.row(user_id)
    assert (row["refresh_version"], row["access_version"]) == (
        before["refresh_version"] + 1,
        before["access_version"],
    )
    with TokenVault(database_url, [ACCESS_KEY]) as reader:
        assert await audience(renewals, reader.user_token(user_id, CONNECTION, resource=GRAPH).value) == GRAPH


async def test_a_call_for_a_resource_puts_off_no_renewal(
    renewals: Renewals, user: tuple[str, Runtime], database_url: Secret, sql: Sql
) -> None:
    """However long a resource's token lives, the grant's own is renewed before it ends."""
    user_id, _ = user
    sql("UPDATE grants SET expires_at = now() + interval '20 min', obtained_at = now() - interval '40 min'")
    await stored(renewals, user, database_url, GRAPH)
    row = renewals.row(user_id)
    assert row["now"] < row["due_at"] < row["expires_at"]


async def test_a_rejected_token_of_a_resource_is_renewed(
    renewals: Renewals, user: tuple[str, Runtime], database_url: Secret, sql: Sql
) -> None:
    """A token that an API refused is renewed for its resource alone, and none that is younger than a minute."""
    user_id, worker = user
    async with opening("asyncio", database_url) as make, on_demand_worker(worker) as results:
        reader = make()
        first = await reader.user_token(user_id, CONNECTION, resource=GRAPH, wait=LONG)
        await reader.rejected(first)
        await until_async(lambda: len(results) == 2)
        assert len(renewals.token_calls(CONNECTION)) == 1
        sql("UPDATE resource_tokens SET obtained_at = obtained_at - interval '2 minutes'")
        await reader.rejected(first)
        second = await reader.user_token(user_id, CONNECTION, resource=GRAPH, wait=LONG)
    assert second.value != first.value
    assert len(renewals.token_calls(CONNECTION)) == 2
    assert renewals.row(user_id)["access_version"] == 1
