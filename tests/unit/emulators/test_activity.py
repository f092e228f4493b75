"""An emulated tenant lives by itself, and its providers remember what became of each token."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from emulators import large_tenant, wiring
from emulators.activity import RATES, Activity
from emulators.client import Emulation, digest, running
from emulators.world import World

Json = dict[str, Any]


@pytest.fixture(scope="module")
def process() -> Iterator[Emulation]:
    with running() as emulation:
        yield emulation


@pytest.fixture
def tenant(process: Emulation) -> Emulation:
    process.reset()
    process.add_connection("google-oauth2", "google-oauth2", "google")
    process.add_connection("partner", "oauth2", "custom")
    return process


def small_world() -> World:
    world = World("http://127.0.0.1:1", client_id="a", client_secret="b")
    world.clock.set(1_800_000_000.0)
    wiring.add_connection(world, "google-oauth2", "google-oauth2", "google")
    wiring.add_connection(world, "partner", "oauth2", "custom")
    large_tenant.seed_users(world, 200, ["google-oauth2", "partner"], linked=0.1)
    return world


def course(seed: int) -> tuple[list[str], Json]:
    """Let 500 things happen; gives who is there at the end, with how many identities, and what was done."""
    world = small_world()
    activity = Activity(world, dict.fromkeys(RATES, 1.0), 0.3, seed)
    for _ in range(500):
        activity.one()
        world.clock.advance(1)
    users = [f"{name} {len(user['identities'])}" for name, user in sorted(world.users.ingest_by_id.items())]
    return users, dict(activity.done)


def test_a_course_is_the_same_for_its_seed() -> None:
    """The same seed on the same tenant gives the same end, another seed another; everything occurs."""
    users, done = course(1)
    assert (users, done) == course(1)
    assert users != course(2)[0]
    assert set(RATES) <= set(done)


def test_what_happened_can_be_reconciled() -> None:
    """At the end each identity is with one user, and shows the newest tokens that its provider issued."""
    world = small_world()
    activity = Activity(world, dict.fromkeys(RATES, 1.0), 0.3, 5)
    for _ in range(500):
        activity.one()
        world.clock.advance(1)
    users = large_tenant.alive(world, count=1000)["users"]
    identities = [each for user in users for each in user["identities"]]
    places = {(each["connection"], str(each["provider_user_id"])) for each in identities}
    assert len(places) == len(identities)
    assert all(each["newest_access"] == each["shown_access"] is not None for each in identities)


def test_activity_follows_the_clock(tenant: Emulation) -> None:
    """So many things happen in a minute of the emulation's clock; none after the stop."""
    tenant.set_clock(tenant.now())
    tenant.seed_users(50, ["google-oauth2", "partner"])
    tenant.start_activity(logins=60, creations=60)
    tenant.advance(30.25)
    while sum(tenant.activity().values()) < 60:
        pass
    done = tenant.stop_activity()
    assert sum(done.values()) == 60
    assert tenant.count_alive() == 50 + done["creations"]
    tenant.advance(60)
    assert tenant.activity() == {}
    assert tenant.count_alive() == 50 + done["creations"]


def test_a_provider_revokes(tenant: Emulation) -> None:
    """Revoking a token ends its family, and says 200 also of what it does not know."""
    [user_id] = tenant.add_users("partner", 1)
    live = tenant.live(user_id, "partner")
    url, client = tenant.revocation_url("partner"), ("partner-client", "secret-of-partner")

    def revoke(token: str | None, secret: str = client[1]) -> httpx.Response:
        form = {"token": token, "client_id": client[0], "client_secret": secret}
        return tenant.http.post(url, data={name: value for name, value in form.items() if value})

    assert revoke("unknown").status_code == 200
    assert revoke(live["refresh_token"], "wrong").status_code == 401
    assert revoke(None).status_code == 400
    assert tenant.ledger(user_id, "partner")[0]["live"]
    assert revoke(live["refresh_token"]).status_code == 200
    [entry] = tenant.ledger(user_id, "partner")
    assert (entry["live"], entry["access_live"], len(entry["revocations"])) == (False, False, 1)
    log = tenant.call_log("/idp/custom/revoke")
    assert log[-1]["token"] == digest(str(live["refresh_token"]))
    assert (log[-1]["grant"], log[-1]["status"]) == (entry["grant"], 200)
    tenant.fail_next("/idp/custom/revoke", 1, "503")
    assert [revoke("a").status_code, revoke("a").status_code] == [503, 200]
    [stranger] = tenant.add_users("google-oauth2", 1)
    assert revoke(tenant.live(stranger, "google-oauth2")["refresh_token"]).status_code == 400
    tenant.configure_provider("custom", revocation_path="")
    assert tenant.revocation_url("partner") == ""
    assert revoke("a").status_code == 404


def test_families_tell_each_spend(tenant: Emulation) -> None:
    """A strict provider's family shows when each refresh token was presented and spent, and what is live."""
    tenant.configure_provider("custom", reuse_revokes_family=True)
    tenant.set_clock(tenant.now())
    [user_id] = tenant.add_users("partner", 1)
    first = str(tenant.live(user_id, "partner")["refresh_token"])
    client = {"client_id": "partner-client", "client_secret": "secret-of-partner"}

    def renew(token: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token, **client}
        return tenant.http.post(tenant.token_url("partner"), data=form)

    spent = tenant.advance(5)
    second = renew(first).json()["refresh_token"]
    [family] = tenant.families(page=1)
    assert family["live_refresh"] == [digest(second)]
    assert family["subject"] == "partner-0"
    assert [each["presented_at"] for each in family["refresh"]] == [[spent], []]
    assert [each["spent_at"] for each in family["refresh"]] == [spent, None]
    again = tenant.advance(5)
    assert renew(first).status_code == 400
    [family] = tenant.families()
    assert (family["live_refresh"], family["live_access"]) == ([], [])
    assert family["refresh"][0]["presented_at"] == [spent, again]
    assert renew(second).status_code == 400
    assert tenant.double_spends() == 1


async def test_a_slow_answer_waits_for_the_clock(tenant: Emulation) -> None:
    """A slow answer comes when the emulation's clock has moved on, however long that is."""
    tenant.set_clock(tenant.now())
    tenant.fail_next("/idp/custom", 1, "slow:60")
    async with httpx.AsyncClient(trust_env=False) as http:
        asked = asyncio.create_task(http.get(f"{tenant.base_url}/idp/custom/api/me"))
        while not tenant.call_log("/idp"):  # noqa: ASYNC110  (only the emulation knows)
            await asyncio.sleep(0)
        tenant.advance(59)
        assert not asked.done()
        tenant.advance(1.5)
        assert (await asked).status_code == 401


def test_an_hour_passes_in_a_moment(tenant: Emulation) -> None:
    """A slow answer of a minute and an hour's limit take no time on a fast clock."""
    tenant.set_speed(36_000)
    before = tenant.now()
    tenant.fail_next("/idp/custom", 1, "slow:600")
    assert tenant.http.get(f"{tenant.base_url}/idp/custom/api/me").status_code == 401
    assert tenant.now() - before >= 600
    assert tenant.set_clock(None) - time.time() < 1
