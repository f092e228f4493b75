"""What an answer brings is kept: a refresh token without an access token, ends, scopes and values beside the token."""

from __future__ import annotations

import json
from typing import Any

from tests.support.renewals import Renewals, opened
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime


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
