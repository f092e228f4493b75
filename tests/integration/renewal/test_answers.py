"""What an answer brings is kept: a refresh token without an access token, ends, scopes and values beside the token."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.renewals import Renewals, opened
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from worker.providers import registry
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime
from worker.vault import outbox
from worker.vault.grants.relink import relink

DAY = 86_400


async def due(renewals: Renewals, **behaviour: Any) -> tuple[Runtime, str]:
    """A worker, and the one user of a strict provider, whose grant is due."""
    [user] = renewals.connect("c", **behaviour)
    worker = await renewals.synced()
    renewals.make_due()
    return worker, user


async def renew(renewals: Renewals, worker: Runtime, **fields: Any) -> Outcome:
    """Renew the one due grant; the answer says this instead."""
    renewals.make_due()
    if fields:
        renewals.tenant.fail_next("/idp/c", 1, f"override:{json.dumps(fields)}")
    [outcome] = (await worker.engine.renew_due(worker.tenants)).elements()
    return outcome


async def test_a_refresh_token_without_access_token_is_kept(renewals: Renewals) -> None:
    """It is committed, the old access token stays, the operator is told what is missing, and it is sent next."""
    worker, user = await due(renewals)
    before = renewals.row(user)
    for attempts in (1, 2, 3):
        assert await renew(renewals, worker, access_token=None, id_token="x.y.z") is Outcome.RETRY
        row = renewals.row(user)
        assert opened(worker.vault, row).refresh == renewals.tenant.live(user, "c")["refresh_token"]
        kept = ("access_ciphertext", "access_version", "expires_at", "obtained_at", "obtained_from")
        assert [row[name] for name in kept] == [before[name] for name in kept]
        assert (row["state"], row["attempts"], row["last_error"]) == ("active", attempts, "no_access_token")
        assert row["due_at"] > row["now"]
    assert await renew(renewals, worker) is Outcome.RENEWED
    row = renewals.row(user)
    assert (row["attempts"], row["last_error"]) == (0, None)
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_half_an_answer_with_the_whole_pair_is_enough(renewals: Renewals) -> None:
    """A body that ends too early, after the refresh token, costs nothing."""
    [user] = renewals.connect("c", "okta", "okta")
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "malformed_json")
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_a_learned_life_never_lengthens(renewals: Renewals) -> None:
    """Where an answer tells no end, the shortest life that is known counts: the grant's own, or the connection's."""
    worker, user = await due(renewals)
    assert await renew(renewals, worker, expires_in=1200) is Outcome.RENEWED
    for observed, minutes in (("2 h", 20), ("10 min", 10), ("2 h", 10)):
        renewals.sql(f"UPDATE connections SET observed_life = '{observed}'")
        assert await renew(renewals, worker, expires_in=None) is Outcome.RENEWED
        row = renewals.row(user)
        assert row["expires_at"] - row["obtained_at"] == timedelta(minutes=minutes)


def events(renewals: Renewals) -> list[tuple[str, str | None, str | None]]:
    """What was told of grants, in order."""
    rows = renewals.sql("SELECT kind, reason, message FROM outbox WHERE user_id IS NOT NULL ORDER BY at")
    return [(row["kind"], row["reason"], row["message"]) for row in rows]


async def test_both_ends_of_consent_are_stored(renewals: Renewals) -> None:
    """The sliding end follows each answer; the hard one stays where an answer does not say it, but for a new login."""
    worker, user = await due(renewals)
    ends = {"x_refresh_token_expires_in": DAY, "x_refresh_token_hard_expires_in": 40 * DAY}
    assert await renew(renewals, worker, **ends) is Outcome.RENEWED
    row = renewals.row(user)
    assert row["refresh_expires_at"] - row["obtained_at"] == timedelta(days=1)
    assert row["consent_expires_at"] - row["obtained_at"] == timedelta(days=40)
    assert await renew(renewals, worker) is Outcome.RENEWED
    assert renewals.row(user)["consent_expires_at"] == row["consent_expires_at"]
    renewals.tenant.login(user, "c")
    await renewals.sync(worker)
    assert renewals.row(user)["consent_expires_at"] is None


async def test_the_end_of_consent_is_reported_30_7_and_1_days_before(renewals: Renewals) -> None:
    """Each once, whoever looks and however often, though the end that providers tell moves by seconds."""
    worker, user = await due(renewals)
    told: list[str] = []
    for left in (31, 30.1, 29.9, 29, 7.1, 6.9, 6, 1.1, 0.9, 0.1):
        await renew(renewals, worker, authorization_expires_in=40 * DAY)
        now = renewals.row(user)["consent_expires_at"] - timedelta(days=left)
        await asyncio.gather(
            *(outbox.report_consent_ending(worker.vault, worker.tenants, now=now) for _ in range(3))
        )
        told.append(" ".join(reason or "" for _, reason, _ in events(renewals)))
    thirty, seven, one = "30_days", "30_days 7_days", "30_days 7_days 1_days"
    assert told == ["", "", thirty, thirty, thirty, seven, seven, seven, one, one]
    assert {kind for kind, _, _ in events(renewals)} == {"grant.consent_ending"}
    # A new consent is a new end.
    await renew(renewals, worker, authorization_expires_in=80 * DAY)
    now = renewals.row(user)["consent_expires_at"] - timedelta(days=3)
    await outbox.report_consent_ending(worker.vault, worker.tenants, now=now)
    assert [reason for _, reason, _ in events(renewals)][3:] == ["7_days"]


async def test_an_end_of_consent_is_counted_where_nobody_names_it(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the declared life, from the login; an answer that names the end counts more, and a new login is a new consent."""
    life = timedelta(days=180)
    named = [
        replace(each, absolute_life=life) if each.name == "oauth2" else each for each in registry.PROVIDERS
    ]
    monkeypatch.setattr(registry, "PROVIDERS", tuple(named))
    worker, user = await due(renewals)
    assert renewals.row(user)["consent_expires_at"] is None
    for _ in range(2):
        assert await renew(renewals, worker) is Outcome.RENEWED
        row = renewals.row(user)
        assert row["now"] - timedelta(minutes=1) < row["consented_at"] < row["now"]
        assert row["consent_expires_at"] == row["consented_at"] + life
    now = row["consent_expires_at"] - timedelta(days=6)
    await outbox.report_consent_ending(worker.vault, worker.tenants, now=now)
    day = f"{row['consented_at']:%Y-%m-%d}"
    assert events(renewals) == [("grant.consent_ending", "7_days", day)]
    # What began before this was known counts from when Auth0 last showed its user.
    renewals.sql("UPDATE grants SET consented_at = NULL, consent_expires_at = NULL")
    await renew(renewals, worker)
    row = renewals.row(user)
    assert row["consent_expires_at"] == row["observed_updated_at"] + life
    # A counted end that has passed is refuted by the next renewal.
    renewals.sql("UPDATE grants SET consented_at = now() - interval '181 days'")
    before = renewals.row(user)["consent_expires_at"]
    assert await renew(renewals, worker) is Outcome.RENEWED
    assert renewals.row(user)["consent_expires_at"] == before
    renewals.sql("UPDATE grants SET consented_at = now()")
    await renew(renewals, worker, authorization_expires_in=40 * DAY)
    await renew(renewals, worker)
    row = renewals.row(user)
    assert timedelta(days=39) < row["consent_expires_at"] - row["now"] < timedelta(days=41)
    await outbox.report_consent_ending(
        worker.vault, worker.tenants, now=row["consent_expires_at"] - timedelta(days=1)
    )
    assert events(renewals)[-1] == ("grant.consent_ending", "1_days", None)
    renewals.tenant.login(user, "c")
    await renewals.sync(worker)
    assert renewals.row(user)["consent_expires_at"] is None
    await renew(renewals, worker)
    row = renewals.row(user)
    assert row["consent_expires_at"] == row["consented_at"] + life


async def test_a_dead_grant_is_not_told_of_its_consent(renewals: Renewals) -> None:
    """Whoever has to consent again already is not asked to do so before some day."""
    worker, user = await due(renewals)
    await renew(renewals, worker, authorization_expires_in=40 * DAY)
    renewals.sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', due_at = NULL"
    )
    now = renewals.row(user)["consent_expires_at"] - timedelta(days=3)
    assert await outbox.report_consent_ending(worker.vault, worker.tenants, now=now) == 1
    assert [kind for kind, _, _ in events(renewals)] == ["grant.reauthorization_required"]
    assert await outbox.report_consent_ending(worker.vault, worker.tenants, now=now) == 0


async def test_a_lost_scope_is_an_event(renewals: Renewals) -> None:
    """Which scopes were lost is told once; scopes that come, or that an answer leaves out, are no loss."""
    worker, _ = await due(renewals)
    for scope in ("a b c", "a,b,c,d", None, "c a", "a+c", "a b c"):
        await renew(renewals, worker, scope=scope)
    assert events(renewals) == [("grant.scopes_lost", "scopes_lost", "b d")]


async def test_values_beside_the_token_are_renewed_with_it(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the declaration names is kept with the token until an answer has it anew, and goes with the grant."""
    named = [
        replace(each, keeps=("instance_url",)) if each.name == "oauth2" else each
        for each in registry.PROVIDERS
    ]
    monkeypatch.setattr(registry, "PROVIDERS", tuple(named))
    worker, user = await due(renewals)
    subject = renewals.row(user)["provider_user_id"]

    def extra(user_id: str) -> Any:
        sealed = renewals.row(user_id)["extra_ciphertext"]
        context = EncryptionContext.of_extra(GrantKey("default", "c", user_id, subject))
        return sealed and json.loads(worker.vault.access.decrypt(context, sealed).reveal())

    one, two = {"instance_url": "https://one.example"}, {"instance_url": "https://two.example"}
    for said, found in (({}, None), (one | {"other": "x"}, one), ({}, one), (two, two)):
        assert await renew(renewals, worker, **said) is Outcome.RENEWED
        assert extra(user) == found
    row = renewals.row(user)
    moved = GrantKey("default", "c", "other|1", subject)
    assert await relink(worker.vault, [(row["id"], moved, row["now"])], now=row["now"]) == {moved}
    assert extra("other|1") == two
