from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import TextClause

from tests.support import rows
from tests.support.histories import HISTORIES, LIFE, Age, Auth0Copy, Event, age, name
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.rows import Sql
from tests.support.wait import WAIT_SECONDS, until_async
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.read_model import CHANNEL
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import Claim
from worker.vault.grants.erase import erase as bury
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.ingest.ingest import _FIND_CHANGED, IngestStats, ingest
from worker.vault.sync_state.scanned_pages import _COMMIT_PAGE
from worker.vault.vault import Vault, open_vault

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEY = GrantKey("default", "google-oauth2", "google-oauth2|1111", "1111")


def shown(
    key: GrantKey = KEY,
    access: str | None = "access-1",
    refresh: str | None = "refresh-1",
    *,
    at: datetime | None = NOW,
    issued_at: datetime | None = NOW,
    **more: Any,
) -> IncomingGrant:
    """What Auth0 shows of a grant that was logged in at `at`."""
    pair = TokenPair(
        Secret(access) if access else None,
        Secret(refresh) if refresh else None,
        issued_at + LIFE if issued_at and access else None,
    )
    return IncomingGrant(key, "google-oauth2", pair, at, issued_at, **more)


def row_of(sql: Sql, key: GrantKey = KEY) -> dict[str, Any]:
    """The row of a grant."""
    return rows.row_of(sql, key)


def opened(vault: Vault, sql: Sql, key: GrantKey = KEY) -> tuple[str | None, str | None]:
    """The access and refresh token that the vault holds."""
    return rows.opened(vault, rows.row_of(sql, key))


async def claimed(vault: Vault, grant_id: int, now: datetime = NOW) -> Claim:
    """A claim on a grant, two minutes long."""
    claim = await claims.claim_one(vault, grant_id, owner=uuid4(), now=now, until=now + 2 * MINUTE)
    assert claim is not None
    return claim


async def renewed(
    vault: Vault, sql: Sql, access: str, refresh: str | None, *, key: GrantKey = KEY, now: datetime = NOW
) -> None:
    """Renew a grant as the engine does."""
    pair = TokenPair(Secret(access), Secret(refresh) if refresh else None, now + LIFE)
    claim = await claimed(vault, row_of(sql, key)["id"], now)
    assert await claims.store_pair(vault, claim, pair, obtained_at=now, due_at=now + LIFE / 2)


# Never older, never empty


@given(HISTORIES)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_through_any_history_no_token_gets_older_or_lost(
    vault: Vault, sql: Sql, history: list[Event]
) -> None:
    """Logins, renewals and answers that lag, in any order: what Postgres holds only ever gets newer."""
    subject = str(uuid4())
    key = replace(KEY, user_id=f"google-oauth2|{subject}", provider_user_id=subject)
    auth0, renewals, newest, seen_access = Auth0Copy(), 0, None, set[str]()
    await ingest(vault, [_of_copy(key, auth0, 0)], now=auth0.now)
    for event in history:
        access_before, refresh_before = opened(vault, sql, key)
        assert access_before is not None
        assert refresh_before is not None
        auth0.happen(event)
        row = row_of(sql, key)
        if event.what in ("renew", "extend") and row["state"] == "active":
            renewals += 1
            born = Age(age(refresh_before).login, renewals)
            rotated = name("refresh", born) if event.what == "renew" else None
            await renewed(vault, sql, name("access", born), rotated, key=key, now=auth0.now)
        elif event.what == "die" and row["state"] == "active":
            claim = await claimed(vault, row["id"], auth0.now)
            assert await claims.release(
                vault, claim, due_at=None, state="reauthorization_required", reason="invalid_grant"
            )
        elif event.what == "see":
            copy = auth0.shown(event.lag)
            tally = await ingest(vault, [_of_copy(key, auth0, event.lag)], now=auth0.now)
            assert (tally.stale == 1) == (newest is not None and copy.updated_at < newest)
            newest = max(newest or copy.updated_at, copy.updated_at)
            access_after, _ = opened(vault, sql, key)
            assert access_after == access_before or access_after not in seen_access
            seen_access.add(copy.access)
        access, refresh = opened(vault, sql, key)
        assert access is not None
        assert refresh is not None
        assert age(refresh) >= age(refresh_before)


def _of_copy(key: GrantKey, auth0: Auth0Copy, lag: int) -> IncomingGrant:
    copy = auth0.shown(lag)
    return shown(key, copy.access, copy.refresh, at=copy.updated_at, issued_at=copy.last_login)


async def test_an_absent_refresh_token_erases_nothing(vault: Vault, sql: Sql) -> None:
    """A login that brings an access token alone leaves the refresh token, and the grant stays renewable."""
    await ingest(vault, [shown()], now=NOW)
    later = NOW + 10 * MINUTE
    tally = await ingest(
        vault, [shown(access="access-2", refresh=None, at=later, issued_at=later)], now=later
    )
    assert tally == IngestStats(changed=1)
    assert opened(vault, sql) == ("access-2", "refresh-1")
    assert row_of(sql)["state"] == "active"


async def test_auth0s_stale_copy_does_not_overwrite_a_rotated_token(vault: Vault, sql: Sql) -> None:
    """What Auth0 goes on showing after our renewal is no news, also with a newer time on it."""
    await ingest(vault, [shown()], now=NOW)
    await renewed(vault, sql, "access-2", "refresh-2")
    assert await ingest(vault, [shown()], now=NOW) == IngestStats(unchanged=1)
    touched = shown(at=NOW + MINUTE)
    assert await ingest(vault, [touched], now=NOW) == IngestStats(unchanged=1)
    assert row_of(sql)["observed_updated_at"] == NOW + MINUTE
    assert opened(vault, sql) == ("access-2", "refresh-2")


async def test_a_token_hidden_for_a_while_is_no_news_when_it_is_back(vault: Vault, sql: Sql) -> None:
    """A refresh token that Auth0 showed, then did not show, then shows again, has not changed."""
    await ingest(vault, [shown()], now=NOW)
    await renewed(vault, sql, "access-2", "refresh-2")
    for minute, refresh in ((1, None), (2, "refresh-1")):
        assert (await ingest(vault, [shown(refresh=refresh, at=NOW + minute * MINUTE)], now=NOW)).changed == 0
    assert opened(vault, sql) == ("access-2", "refresh-2")


async def test_a_users_creation_is_noted_when_it_is_shown(vault: Vault, sql: Sql) -> None:
    """A time that Auth0 did not show at first is stored, though no token is news."""
    await ingest(vault, [shown()], now=NOW)
    page = [shown(user_created_at=NOW - LIFE)]
    assert await ingest(vault, page, now=NOW) == IngestStats(unchanged=1)
    assert row_of(sql)["user_created_at"] == NOW - LIFE


async def test_what_holds_no_token_is_left_aside(vault: Vault, sql: Sql) -> None:
    """An identity without any token makes no grant, and erases none."""
    assert await ingest(vault, [], now=NOW) == IngestStats()
    assert await ingest(vault, [shown(access=None, refresh=None)], now=NOW) == IngestStats()
    assert sql("SELECT 1 FROM grants") == []
    await ingest(vault, [shown()], now=NOW)
    assert await ingest(vault, [shown(access=None, refresh=None, at=NOW + MINUTE)], now=NOW) == IngestStats()
    assert opened(vault, sql) == ("access-1", "refresh-1")


# What a grant is


async def test_each_identity_has_tokens_of_its_own(vault: Vault, sql: Sql) -> None:
    """Linked accounts, two of one connection among them, the same user of two tenants, and an admin grant."""
    keys = [
        KEY,
        replace(KEY, provider_user_id="2222"),
        replace(KEY, connection="bitbucket", provider_user_id="{b}"),
        replace(KEY, tenant="other"),
        replace(KEY, user_id="auth0|x/y%7C🎈", provider_user_id="3333"),
        GrantKey("default", "google-oauth2"),
    ]
    page = [shown(key, f"access-{n}", f"refresh-{n}") for n, key in enumerate(keys)]
    assert await ingest(vault, page, now=NOW) == IngestStats(new=len(keys))
    assert await ingest(vault, page, now=NOW) == IngestStats(unchanged=len(keys))
    for n, key in enumerate(keys):
        assert opened(vault, sql, key) == (f"access-{n}", f"refresh-{n}")


async def test_a_tenant_that_is_synced_later_has_grants_of_its_own(vault: Vault, sql: Sql) -> None:
    """A user id known from one tenant is new at another, and changes there alone."""
    other = replace(KEY, tenant="other")
    await ingest(vault, [shown()], now=NOW)
    assert await ingest(vault, [shown(other)], now=NOW) == IngestStats(new=1)
    changed = shown(other, "access-2", "refresh-2", at=NOW + MINUTE)
    assert await ingest(vault, [changed], now=NOW) == IngestStats(changed=1)
    assert opened(vault, sql) == ("access-1", "refresh-1")
    assert opened(vault, sql, other) == ("access-2", "refresh-2")


@pytest.mark.parametrize(("access", "refresh"), [("access-2", "refresh-1"), ("access-1", "refresh-2")])
async def test_an_admin_grant_changes_by_either_token(
    vault: Vault, sql: Sql, access: str, refresh: str
) -> None:
    """Connections have no time of change: a new token is seen by its own change, whichever it is."""
    key = GrantKey("default", "corp-google")
    first = replace(
        shown(key, at=None, issued_at=None), pair=TokenPair(Secret("access-1"), Secret("refresh-1"), NOW)
    )
    assert await ingest(vault, [first], now=NOW) == IngestStats(new=1)
    assert await ingest(vault, [first], now=NOW) == IngestStats(unchanged=1)
    again = replace(first, pair=TokenPair(Secret(access), Secret(refresh), NOW + LIFE))
    assert await ingest(vault, [again], now=NOW) == IngestStats(changed=1)
    assert await ingest(vault, [again], now=NOW) == IngestStats(unchanged=1)
    assert opened(vault, sql, key) == (access, refresh)


async def test_all_that_comes_with_the_tokens_is_kept(vault: Vault, sql: Sql) -> None:
    """Scopes and the end of the refresh token are kept; where a later login does not name scopes, the old stay."""
    pair = TokenPair(Secret("a"), Secret("r"), NOW + LIFE, NOW + 90 * LIFE, ("openid", "drive"))
    await ingest(vault, [replace(shown(), pair=pair)], now=NOW)
    row = row_of(sql)
    assert (row["scopes"], row["refresh_expires_at"]) == (["openid", "drive"], NOW + 90 * LIFE)
    await ingest(vault, [shown(access="access-2", refresh="refresh-2", at=NOW + MINUTE)], now=NOW)
    row = row_of(sql)
    assert (row["scopes"], row["refresh_expires_at"]) == (["openid", "drive"], None)


async def test_one_identity_changes_alone(vault: Vault, sql: Sql) -> None:
    """A login by one of several linked identities leaves the others' tokens as they are."""
    other = replace(KEY, connection="bitbucket")
    await ingest(vault, [shown(), shown(other)], now=NOW)
    await renewed(vault, sql, "access-2", "refresh-2", key=other)
    later = NOW + MINUTE
    page = [shown(access="access-3", refresh="refresh-3", at=later), shown(other, at=later)]
    assert await ingest(vault, page, now=later) == IngestStats(changed=1, unchanged=1)
    assert opened(vault, sql) == ("access-3", "refresh-3")
    assert opened(vault, sql, other) == ("access-2", "refresh-2")


@pytest.mark.parametrize(
    ("refresh", "exchangeable", "state"),
    [("refresh-1", False, "active"), (None, False, "unrenewable"), (None, True, "active")],
)
async def test_what_can_be_renewed_is_due(
    vault: Vault, sql: Sql, refresh: str | None, exchangeable: bool, state: str
) -> None:
    """A refresh token, or a provider that exchanges access tokens, makes a grant active and due; else it never is."""
    await ingest(vault, [shown(refresh=refresh, exchangeable=exchangeable)], now=NOW)
    row = row_of(sql)
    assert row["state"] == state
    assert (row["due_at"] is not None) == (state == "active")
    if row["due_at"]:
        assert NOW < row["due_at"] < NOW + LIFE


async def test_a_refresh_token_alone_is_due_at_once(vault: Vault, sql: Sql) -> None:
    """Where Auth0 shows no access token, renewal gets the first one."""
    await ingest(vault, [shown(access=None)], now=NOW)
    assert row_of(sql)["due_at"] == NOW
    assert opened(vault, sql) == (None, "refresh-1")


async def test_an_access_token_of_unknown_end_is_due_soon(vault: Vault, sql: Sql) -> None:
    """With linked accounts nothing says when a token was issued: it is renewed within minutes."""
    await ingest(vault, [shown(issued_at=None)], now=NOW)
    row = row_of(sql)
    assert (row["expires_at"], row["obtained_at"]) == (None, None)
    assert NOW <= row["due_at"] <= NOW + 5 * MINUTE


async def test_a_connection_that_auth0_has_not_shown_gets_a_stub(vault: Vault, sql: Sql) -> None:
    """A grant of a connection not yet synced is kept, and the connection says what is missing."""
    await ingest(vault, [shown()], now=NOW)
    [connection] = sql("SELECT * FROM connections")
    assert (connection["name"], connection["problem"]) == ("google-oauth2", "not_shown")
    assert "token-vault sync" in connection["problem_message"]


# Logins and renewals at once


async def test_a_login_heals_a_dead_grant(vault: Vault, sql: Sql) -> None:
    """Consent given again makes the grant active, due, and forgets why it was dead."""
    await ingest(vault, [shown()], now=NOW)
    claim = await claimed(vault, row_of(sql)["id"])
    await claims.release(
        vault, claim, due_at=None, state="reauthorization_required", reason="invalid_grant", reason_since=NOW,
        in_doubt=True, attempts=7, last_error="invalid_grant",
    )  # fmt: skip
    assert (await ingest(vault, [shown(at=NOW + MINUTE)], now=NOW)).changed == 0
    assert row_of(sql)["state"] == "reauthorization_required"
    await ingest(vault, [shown(access="access-2", refresh="refresh-2", at=NOW + 2 * MINUTE)], now=NOW)
    row = row_of(sql)
    assert (row["state"], row["reason"], row["reason_since"]) == ("active", None, None)
    assert (row["in_doubt_since"], row["attempts"], row["last_error"]) == (None, 0, None)
    assert row["due_at"] is not None
    assert opened(vault, sql) == ("access-2", "refresh-2")


async def test_an_access_token_alone_does_not_heal_a_dead_grant(vault: Vault, sql: Sql) -> None:
    """Without a new refresh token the grant stays dead, and its new access token is served until it ends."""
    await ingest(vault, [shown()], now=NOW)
    claim = await claimed(vault, row_of(sql)["id"])
    await claims.release(vault, claim, due_at=None, state="reauthorization_required", reason="invalid_grant")
    later = NOW + MINUTE
    await ingest(vault, [shown(access="access-2", refresh=None, at=later, issued_at=later)], now=later)
    row = row_of(sql)
    assert (row["state"], row["reason"], row["due_at"]) == ("reauthorization_required", "invalid_grant", None)
    assert opened(vault, sql) == ("access-2", "refresh-1")
    assert row["expires_at"] == later + LIFE


async def test_a_grant_in_doubt_is_healed_by_a_login_alone(vault: Vault, sql: Sql) -> None:
    """A grant in doubt ignores an access token of unknown age; a login's new refresh token ends the doubt."""
    await ingest(vault, [shown()], now=NOW)
    await renewed(vault, sql, "access-1b", "refresh-1b")
    claim = await claimed(vault, row_of(sql)["id"])
    await claims.release(
        vault, claim, due_at=NOW + MINUTE, state="in_doubt", reason="read_timeout", in_doubt=True
    )
    touched = shown(access="access-2", refresh=None, at=NOW + MINUTE, issued_at=None)
    assert (await ingest(vault, [touched], now=NOW)).changed == 0
    assert row_of(sql)["state"] == "in_doubt"
    login = shown(access="access-3", refresh="refresh-3", at=NOW + 2 * MINUTE, issued_at=None)
    assert (await ingest(vault, [login], now=NOW)).changed == 1
    assert (row_of(sql)["state"], row_of(sql)["in_doubt_since"]) == ("active", None)
    assert opened(vault, sql) == ("access-3", "refresh-3")


async def test_a_silent_login_is_newer_than_what_auth0_showed_before(vault: Vault, sql: Sql) -> None:
    """As long as we have not renewed it, a changed access token is news, whenever it was issued."""
    await ingest(vault, [shown()], now=NOW)
    silent = shown(access="access-2", refresh=None, at=NOW + MINUTE, issued_at=None)
    assert (await ingest(vault, [silent], now=NOW)).changed == 1
    assert opened(vault, sql) == ("access-2", "refresh-1")
    behind = shown(access="access-1", refresh="refresh-1", at=NOW)
    assert (await ingest(vault, [behind], now=NOW)).changed == 0
    assert opened(vault, sql) == ("access-2", "refresh-1")


async def test_a_login_during_a_renewal_wins(vault: Vault, sql: Sql) -> None:
    """A new refresh token voids the claim: the late answer stores nothing and releases nothing."""
    await ingest(vault, [shown()], now=NOW)
    claim = await claimed(vault, row_of(sql)["id"])
    later = NOW + timedelta(seconds=1)
    await ingest(vault, [shown(access="access-2", refresh="refresh-2", at=later, issued_at=later)], now=later)
    row = row_of(sql)
    assert (row["claim_owner"], row["claimed_at"], row["claim_until"]) == (None, None, None)
    late = TokenPair(Secret("access-late"), Secret("refresh-late"), later + LIFE)
    assert not await claims.store_pair(vault, claim, late, obtained_at=NOW, due_at=NOW)
    assert not await claims.release(
        vault, claim, due_at=None, state="reauthorization_required", reason="invalid_grant"
    )
    assert row_of(sql) == row
    assert opened(vault, sql) == ("access-2", "refresh-2")
    assert (await claimed(vault, row["id"], later)).in_doubt_since is None


async def test_an_access_token_shown_during_a_renewal_does_not_cost_the_rotated_refresh_token(
    vault: Vault, sql: Sql
) -> None:
    """A login without a refresh token keeps its access token, and the answer's refresh token is stored."""
    await ingest(vault, [shown()], now=NOW)
    claim = await claimed(vault, row_of(sql)["id"])
    later = NOW + timedelta(seconds=1)
    await ingest(vault, [shown(access="access-2", refresh=None, at=later, issued_at=later)], now=later)
    assert row_of(sql)["due_at"] == claim.until
    late = TokenPair(Secret("access-late"), Secret("refresh-late"), later + LIFE)
    assert await claims.store_pair(vault, claim, late, obtained_at=NOW, due_at=NOW + MINUTE)
    assert opened(vault, sql) == ("access-2", "refresh-late")
    assert row_of(sql)["claim_owner"] is None


async def test_who_waits_for_a_renewal_is_told_of_a_login(
    vault: Vault, sql: Sql, database_url: Secret
) -> None:
    """A login that voids a claim wakes those who wait for its outcome."""
    await ingest(vault, [shown()], now=NOW)
    grant_id = row_of(sql)["id"]
    await claimed(vault, grant_id)
    async with vault.engine.begin() as connection:
        assert await claims.mark_awaited(connection, grant_id, NOW)
    with psycopg.connect(database_url.reveal(), autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        await ingest(vault, [shown(access="access-2", refresh="refresh-2", at=NOW + MINUTE)], now=NOW)
        assert [notice.payload for notice in listening.notifies(timeout=WAIT_SECONDS, stop_after=1)] == [
            str(grant_id)
        ]
    assert row_of(sql)["awaited"] is False


# Accounts linked and unlinked

LINKED = replace(KEY, user_id="auth0|primary")


async def test_an_identity_that_moves_takes_its_grant_along(vault: Vault, sql: Sql) -> None:
    """Linked to another user and unlinked again, an identity keeps the tokens that were renewed meanwhile."""
    other = replace(KEY, connection="bitbucket")
    await ingest(vault, [shown(), shown(other)], now=NOW)
    await renewed(vault, sql, "access-2", "refresh-2")
    for minute, key in enumerate((LINKED, KEY), start=1):
        assert await ingest(vault, [shown(key, at=NOW + minute * MINUTE)], now=NOW) == IngestStats(
            unchanged=1
        )
        assert opened(vault, sql, key) == ("access-2", "refresh-2")
        assert row_of(sql, key)["observed_updated_at"] == NOW + minute * MINUTE
    assert opened(vault, sql, other) == ("access-1", "refresh-1")
    assert len(sql("SELECT 1 FROM grants")) == 2


async def test_an_answer_from_before_the_link_moves_nothing_back(vault: Vault, sql: Sql) -> None:
    """A list that still shows the user who was linked away counts for nothing, also as a new grant."""
    await ingest(vault, [shown()], now=NOW)
    await ingest(vault, [shown(LINKED, at=NOW + MINUTE)], now=NOW)
    for late in (NOW, NOW + MINUTE - timedelta(milliseconds=1), None):
        tally = await ingest(vault, [shown(at=late), shown(LINKED, at=NOW + MINUTE)], now=NOW)
        assert (tally.new, tally.changed) == (0, 0)
        assert [row["user_id"] for row in sql("SELECT user_id FROM grants")] == [LINKED.user_id]


async def test_a_grant_in_use_moves_when_its_call_has_ended(vault: Vault, sql: Sql) -> None:
    """While its refresh token is with the provider a grant stays where it is; the answer is stored either way."""
    await ingest(vault, [shown()], now=NOW)
    claim = await claimed(vault, row_of(sql)["id"])
    linked = shown(LINKED, at=NOW + MINUTE)
    assert (await ingest(vault, [linked], now=NOW)).new == 0
    assert row_of(sql)["user_id"] == KEY.user_id
    answer = TokenPair(Secret("access-2"), Secret("refresh-2"), NOW + LIFE)
    assert await claims.store_pair(vault, claim, answer, obtained_at=NOW, due_at=NOW + MINUTE)
    assert (await ingest(vault, [linked], now=NOW)).new == 0
    assert opened(vault, sql, LINKED) == ("access-2", "refresh-2")


async def test_a_dead_grant_moves_though_whoever_forced_it_died(vault: Vault, sql: Sql) -> None:
    """An expired claim of a dead grant, which no worker takes over, does not keep a new login out of the vault."""
    await ingest(vault, [shown()], now=NOW)
    sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', reason_since = %s, due_at = NULL,"
        " claim_owner = gen_random_uuid(), claimed_at = %s, claim_until = %s",
        NOW, NOW, NOW + MINUTE,
    )  # fmt: skip
    linked = shown(LINKED, access="access-2", refresh="refresh-2", at=NOW + 2 * MINUTE)
    await ingest(vault, [linked], now=NOW + 2 * MINUTE)
    assert opened(vault, sql, LINKED) == ("access-2", "refresh-2")
    row = row_of(sql, LINKED)
    assert (row["state"], row["claim_owner"]) == ("active", None)


async def test_an_answer_that_was_put_aside_follows_its_grant(vault: Vault, sql: Sql) -> None:
    """An answer stored after its grant has moved is encrypted for the user it belongs to now."""
    await ingest(vault, [shown()], now=NOW)
    claim = await claimed(vault, row_of(sql)["id"])
    sql("UPDATE grants SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL")
    await ingest(vault, [shown(LINKED, at=NOW + MINUTE)], now=NOW)
    answer = TokenPair(Secret("access-2"), Secret("refresh-2"), NOW + LIFE)
    assert await claims.store_pair(vault, claim, answer, obtained_at=NOW, due_at=NOW + MINUTE)
    assert opened(vault, sql, LINKED) == ("access-2", "refresh-2")


@pytest.mark.parametrize(
    "change",
    [{"tenant": "other"}, {"connection": "other"}, {"provider_user_id": "2222"}],
    ids=["tenant", "connection", "identity"],
)
async def test_another_identity_with_the_same_tokens_is_another_grant(
    vault: Vault, sql: Sql, change: dict[str, str]
) -> None:
    """Only the same identity of the same connection and tenant can have moved."""
    await ingest(vault, [shown()], now=NOW)
    other = replace(LINKED, **change)
    assert await ingest(vault, [shown(other, at=NOW + MINUTE)], now=NOW) == IngestStats(new=1)
    assert opened(vault, sql) == opened(vault, sql, other) == ("access-1", "refresh-1")


async def test_a_login_after_the_link_wins(vault: Vault, sql: Sql) -> None:
    """The identity has one grant: its new tokens take the place of those renewed, and no older ones come back."""
    await ingest(vault, [shown()], now=NOW)
    await renewed(vault, sql, "access-2", "refresh-2")
    login = shown(LINKED, "access-3", "refresh-3", at=NOW + MINUTE)
    assert await ingest(vault, [login], now=NOW) == IngestStats(changed=1)
    assert opened(vault, sql, LINKED) == ("access-3", "refresh-3")
    await ingest(vault, [shown()], now=NOW)  # a list that lags behind the link and the login
    await renewed(vault, sql, "access-4", "refresh-4", key=LINKED)
    unlinked = shown(access="access-3", refresh="refresh-3", at=NOW + 2 * MINUTE)
    assert await ingest(vault, [unlinked], now=NOW) == IngestStats(unchanged=1)
    assert opened(vault, sql) == ("access-4", "refresh-4")
    assert len(sql("SELECT 1 FROM grants")) == 1


async def test_an_erasure_follows_its_identity(vault: Vault, sql: Sql) -> None:
    """What was erased is not brought back by linking the account."""
    await ingest(vault, [shown()], now=NOW)
    erase(sql)
    assert await ingest(vault, [shown(LINKED, at=NOW + MINUTE)], now=NOW) == IngestStats(unchanged=1)
    assert (row_of(sql, LINKED)["state"], opened(vault, sql, LINKED)) == ("erased", (None, None))


# An erased grant


def erase(sql: Sql) -> None:
    sql("""UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL,
        expires_at = NULL""")


async def test_an_erased_grant_is_not_brought_back_by_what_was_shown_before(vault: Vault, sql: Sql) -> None:
    """Auth0 goes on showing the tokens that were erased here: they stay erased."""
    await ingest(vault, [shown()], now=NOW)
    erase(sql)
    assert await ingest(vault, [shown(at=NOW + MINUTE)], now=NOW) == IngestStats(unchanged=1)
    assert row_of(sql)["state"] == "erased"
    assert opened(vault, sql) == (None, None)


@pytest.mark.parametrize(("refresh", "state"), [("refresh-2", "active"), (None, "unrenewable")])
async def test_a_new_login_brings_an_erased_grant_back(
    vault: Vault, sql: Sql, refresh: str | None, state: str
) -> None:
    """Who signs in again after an erasure has consented again, with or without a refresh token."""
    await ingest(vault, [shown()], now=NOW)
    erase(sql)
    later = NOW + MINUTE
    page = [shown(access="access-2", refresh=refresh, at=later, issued_at=later)]
    assert await ingest(vault, page, now=later) == IngestStats(changed=1)
    assert opened(vault, sql) == ("access-2", refresh)
    assert row_of(sql)["state"] == state


async def test_a_tombstone_beside_a_new_grant_counts_as_unchanged(vault: Vault, sql: Sql) -> None:
    """A grant that stays erased does not change the number of new grants on its page."""
    await ingest(vault, [shown()], now=NOW)
    async with vault.engine.begin() as connection:
        await bury(vault, connection, row_of(sql)["id"], KEY, reason="deleted", now=NOW)
    other = replace(KEY, user_id="google-oauth2|2222", provider_user_id="2222")
    page = [shown(), shown(other, "access-2", "refresh-2")]
    assert await ingest(vault, page, now=NOW) == IngestStats(new=1, unchanged=1)
    older = shown(access="access-0", refresh="refresh-0", at=NOW - MINUTE)
    assert await ingest(vault, [older], now=NOW) == IngestStats(stale=1)


# Several syncs at once


async def test_the_same_new_grants_taken_twice_at_once_are_one_grant_each(
    vault: Vault, sql: Sql, database_url: Secret
) -> None:
    """Two workers that are in the middle of one page, in opposite orders, wait for each other and agree."""
    await ingest(
        vault, [shown()], now=NOW
    )  # the connection's row is there: nothing else makes them take turns
    keys = [replace(KEY, user_id=f"google-oauth2|a{n:02}", provider_user_id=f"a{n:02}") for n in range(21)]
    page = [shown(key, f"access-{n}", f"refresh-{n}") for n, key in enumerate(keys)]
    with psycopg.connect(database_url.reveal()) as holding:
        holding.execute(  # both stop at the tenth
            "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from) "
            "VALUES (%s, %s, %s, %s, 'active', 'auth0')",
            (keys[10].tenant, keys[10].connection, keys[10].user_id, keys[10].provider_user_id),
        )
        takes = [asyncio.create_task(ingest(vault, order, now=NOW)) for order in (page, page[::-1])]
        await waiting(sql, 2)
        holding.rollback()
    tallies = await asyncio.gather(*takes)
    assert sum(tally.new for tally in tallies) == 21
    assert sum(tally.unchanged for tally in tallies) == 21
    assert len(sql("SELECT 1 FROM grants")) == 22
    assert opened(vault, sql, keys[7]) == ("access-7", "refresh-7")


async def test_a_renewal_committed_during_a_take_is_built_upon(
    vault: Vault, sql: Sql, database_url: Secret
) -> None:
    """A pair that is just being stored when a login is taken is neither lost nor put in the wrong place."""
    await ingest(vault, [shown()], now=NOW)
    grant_id, later = row_of(sql)["id"], NOW + MINUTE
    rotated = vault.refresh.encrypt(EncryptionContext.of_grant(KEY, "refresh", 2), Secret("refresh-2"))
    with psycopg.connect(database_url.reveal()) as storing:
        storing.execute(
            "UPDATE grants SET refresh_ciphertext = %s, refresh_version = 2 WHERE id = %s",
            (rotated, grant_id),
        )
        login = shown(access="access-2", refresh=None, at=later, issued_at=later)
        taking = asyncio.create_task(ingest(vault, [login], now=later))
        await waiting(sql, 1)
        storing.commit()
    assert await taking == IngestStats(changed=1)
    assert opened(vault, sql) == ("access-2", "refresh-2")


LOCK_WAITS = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def waiting(sql: Sql, number: int) -> None:
    """Return when so many transactions wait for a lock."""
    async with asyncio.timeout(WAIT_SECONDS):
        while sql(LOCK_WAITS)[0]["n"] < number:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_login_beats_an_older_copy_taken_at_the_same_time(vault: Vault, sql: Sql) -> None:
    """However two syncs of one grant interleave, the newer copy is what is held at the end."""
    old = shown()
    new = shown(access="access-2", refresh="refresh-2", at=NOW + MINUTE, issued_at=NOW + MINUTE)
    for _ in range(10):
        sql("DELETE FROM grants")
        await asyncio.gather(*(ingest(vault, [grant], now=NOW) for grant in (old, new, old, new)))
        assert opened(vault, sql) == ("access-2", "refresh-2")


# Keys


async def test_fingerprints_outlive_the_rotation_of_both_rings(
    vault: Vault, database_url: Secret, sql: Sql
) -> None:
    """With a new first key in both rings no stale copy looks new, and new tokens are sealed under the new key."""
    await ingest(vault, [shown()], now=NOW)
    await renewed(vault, sql, "access-2", "refresh-2")
    new_access, new_refresh = KeyRing.generate(), KeyRing.generate()
    async with open_vault(database_url, [new_access, ACCESS_KEY], [new_refresh, REFRESH_KEY]) as rotated:
        assert await ingest(rotated, [shown(at=NOW + MINUTE)], now=NOW) == IngestStats(unchanged=1)
        assert opened(rotated, sql) == ("access-2", "refresh-2")
        await ingest(rotated, [shown(access="access-3", refresh="refresh-3", at=NOW + 2 * MINUTE)], now=NOW)
        new_only = replace(
            rotated, access=KeyRing("access", [new_access]), refresh=KeyRing("refresh", [new_refresh])
        )
        assert opened(new_only, sql) == ("access-3", "refresh-3")


@pytest.mark.parametrize("wrong", ["access", "refresh"])
async def test_a_wrong_ring_is_named_when_the_vault_opens(
    vault: Vault, database_url: Secret, wrong: str
) -> None:
    """A vault that was sealed under another key does not open, and says which variable lacks it."""
    other = KeyRing.generate()
    access, refresh = (
        other if wrong == ring else key for ring, key in (("access", ACCESS_KEY), ("refresh", REFRESH_KEY))
    )
    with pytest.raises(ConfigurationError, match=f"VAULT_{wrong.upper()}_KEYS") as caught:
        async with open_vault(database_url, [access], [refresh]):
            pass
    assert other.reveal() not in str(caught.value)
    async with open_vault(database_url, [other, ACCESS_KEY], [KeyRing.generate(), REFRESH_KEY]):
        pass


async def test_rings_may_not_be_exchanged(vault: Vault, database_url: Secret) -> None:
    """The two rings in each other's variable are noticed."""
    with pytest.raises(ConfigurationError, match="does not open this vault"):
        async with open_vault(database_url, [REFRESH_KEY], [ACCESS_KEY]):
            pass


@pytest.mark.parametrize(
    ("damage", "out_of_place"),
    [
        ("refresh_ciphertext = (SELECT refresh_ciphertext FROM grants WHERE user_id LIKE '%%2222')", True),
        ("refresh_version = refresh_version + 1", True),
        ("provider_user_id = '3333'", True),
        ("refresh_ciphertext = convert_to('no ciphertext', 'UTF8')", False),
        ("refresh_ciphertext = overlay(refresh_ciphertext placing 'xx'::bytea from 40)", False),
        ("refresh_ciphertext = access_ciphertext", False),  # another ring's
    ],
)
async def test_a_ciphertext_opens_in_its_own_place_only(
    vault: Vault, sql: Sql, damage: str, out_of_place: bool
) -> None:
    """What was swapped between rows, fields or versions does not open, and the error says where it was found."""
    other = replace(KEY, user_id="google-oauth2|2222", provider_user_id="2222")
    await ingest(vault, [shown(), shown(other, "access-canary", "refresh-canary")], now=NOW)
    sql(f"UPDATE grants SET {damage} WHERE user_id = %s", KEY.user_id)
    claim = await claimed(vault, sql("SELECT id FROM grants WHERE user_id = %s", KEY.user_id)[0]["id"])
    with pytest.raises(
        CannotDecrypt, match="out of place" if out_of_place else "VAULT_REFRESH_KEYS"
    ) as caught:
        claims.decrypt_refresh_token(vault, claim)
    assert "google-oauth2|1111" in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_nothing_readable_is_in_a_row(vault: Vault, sql: Sql) -> None:
    """No column of a grant holds a token, nor a plain hash of one."""
    await ingest(vault, [shown(access="access-canary", refresh="refresh-canary")], now=NOW)
    text = repr(sql("SELECT * FROM grants"))
    assert "canary" not in text
    [row] = sql(
        """SELECT sha256('refresh-canary'::bytea) IN (observed_access, observed_refresh) AS guessed,
            encode(sha256('refresh-canary'::bytea), 'hex') AS digest FROM grants"""
    )
    assert not row["guessed"]
    assert row["digest"] not in text


async def test_values_beside_the_token_come_with_it(vault: Vault, sql: Sql) -> None:
    """What Auth0 shows beside a token is stored with it, and stays where a later login shows none."""

    def extra() -> str | None:
        sealed = row_of(sql)["extra_ciphertext"]
        return sealed and vault.access.decrypt(EncryptionContext.of_extra(KEY), sealed).reveal()

    first = shown()
    beside = replace(first, pair=replace(first.pair, extra={"instance_url": "https://one.example"}))
    await ingest(vault, [beside], now=NOW)
    assert extra() == '{"instance_url": "https://one.example"}'
    await ingest(vault, [shown(access="access-2", at=NOW + MINUTE, issued_at=NOW + MINUTE)], now=NOW + MINUTE)
    assert extra() == '{"instance_url": "https://one.example"}'
    again = shown(access="access-3", at=NOW + 2 * MINUTE, issued_at=NOW + 2 * MINUTE)
    moved = replace(again, pair=replace(again.pair, extra={"instance_url": "https://two.example"}))
    await ingest(vault, [moved], now=NOW + 2 * MINUTE)
    assert extra() == '{"instance_url": "https://two.example"}'
    assert opened(vault, sql) == ("access-3", "refresh-1")


@pytest.mark.parametrize("newer_first", [False, True])
async def test_of_two_users_with_one_identity_the_one_changed_last_has_it(
    vault: Vault, sql: Sql, newer_first: bool
) -> None:
    """A list may still show an identity under its earlier user; stored twice, its tokens would end each other."""
    page = [shown(refresh="older"), shown(LINKED, refresh="newer", at=NOW + MINUTE)]
    await ingest(vault, page[::-1] if newer_first else page, now=NOW)
    assert [row["user_id"] for row in sql("SELECT user_id FROM grants")] == [LINKED.user_id]
    assert opened(vault, sql, LINKED)[1] == "newer"


@pytest.mark.parametrize("is_newer", [False, True])
async def test_an_identity_that_two_syncs_read_under_two_users_is_stored_once(
    vault: Vault, sql: Sql, database_url: Secret, is_newer: bool
) -> None:
    """Neither finds it stored; whoever is second waits for the first, and then moves it if its user changed later."""
    first, second = (LINKED, KEY) if is_newer else (KEY, LINKED)
    later = {first: NOW, second: NOW + MINUTE if is_newer else NOW - MINUTE}
    async with await psycopg.AsyncConnection.connect(database_url.reveal()) as connection:
        await ingest(
            vault, [shown(replace(KEY, provider_user_id="2222"))], now=NOW
        )  # makes the connection's row
        await connection.execute(
            "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from,"
            " observed_updated_at) VALUES ('default', 'google-oauth2', %s, '1111', 'unrenewable', 'auth0', %s)",
            (first.user_id, later[first]),
        )
        syncing = asyncio.create_task(ingest(vault, [shown(second, at=later[second])], now=NOW))
        await until_async(lambda: syncing.done() or sql(LOCK_WAITS)[0]["n"] == 1)
        await connection.commit()
        stats = await syncing
    [row] = sql("SELECT user_id, state FROM grants WHERE provider_user_id = '1111'")
    assert row["user_id"] == (second if is_newer else first).user_id
    assert (row["state"], stats) == (
        ("active", IngestStats(changed=1)) if is_newer else ("unrenewable", IngestStats(unchanged=1))
    )


async def test_syncs_of_the_same_new_identities_never_wait_in_a_circle(
    vault: Vault, sql: Sql, database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each inserts them in one order, whichever users it has read them under."""

    async def run(*_: object) -> None:
        raise AssertionError("a statement has failed, and is run again")

    monkeypatch.setattr(Vault, "run", run)
    await ingest(vault, [shown(replace(KEY, provider_user_id="0"))], now=NOW)  # makes the connection's row
    pages = [
        [shown(replace(KEY, user_id=f"auth0|{n}", provider_user_id=number)) for n, number in enumerate(order)]
        for order in ("123", "321")
    ]
    async with await psycopg.AsyncConnection.connect(database_url.reveal()) as connection:
        await connection.execute(
            "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from)"
            " VALUES ('default', 'google-oauth2', 'auth0|third', '2', 'unrenewable', 'auth0')"
        )
        syncing = [asyncio.create_task(ingest(vault, page, now=NOW)) for page in pages]
        await waiting(sql, 2)
        await connection.rollback()
    assert sum(stats.new for stats in await asyncio.gather(*syncing)) == 3


@pytest.mark.parametrize("statement", [_FIND_CHANGED, _COMMIT_PAGE])
def test_a_plan_made_for_an_empty_table_takes_indexes(sql: Sql, statement: TextClause) -> None:
    """Postgres keeps using such a plan while the first sync fills the table: each page would read all of it."""
    # New, as the tests before may have left statistics of the other. No autovacuum makes any of a temporary table.
    sql("CREATE TEMPORARY TABLE grants (LIKE grants INCLUDING ALL)")
    numbers = itertools.count(1)
    numbered = re.sub(r"(?<![:\w]):\w+(?!:)", lambda _: f"${next(numbers)}", statement.text)
    sql("SET plan_cache_mode = force_generic_plan")
    sql(f"PREPARE page AS {numbered}")
    values = ", ".join(["NULL"] * (next(numbers) - 1))
    plan = [row["QUERY PLAN"] for row in sql(f"EXPLAIN EXECUTE page({values})")]
    assert not [line for line in plan if "Seq Scan on grants" in line], "\n".join(plan)
