"""The emulated tenant at size: its clock runs fast, its search lags, its plans' limits hold."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from emulators.auth0.limits import PLANS, Limits
from emulators.auth0.settings import Settings
from emulators.client import Emulation, EmulationError, digest, running
from emulators.clock import Clock, milliseconds
from tests.unit.emulators.test_tenant import Api

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


def test_the_clock_runs_faster_without_a_leap() -> None:
    """A change of speed starts from the present moment, also from a clock that stands still."""
    clock = Clock()
    clock.set(1000.0)
    before = time.time()
    clock.set_speed(1_000_000.0)
    passed = clock.now() - 1000.0
    assert 0 <= passed <= (time.time() - before) * 1_000_000
    slow = clock.set_speed(0.000_001)
    assert slow - 0.001 < clock.advance(5) - 5 < slow + 0.001
    clock.set(None)
    assert abs(clock.now() - time.time()) < 1
    with pytest.raises(ValueError, match="stands still"):
        clock.set_speed(0)


async def test_waiting_follows_the_clock() -> None:
    """Who waits for a moment is woken when the clock is moved past it or runs fast towards it."""
    clock = Clock()
    clock.set_speed(1_000_000)
    await clock.sleep_until(clock.now() + 3600)


def test_many_users_at_once(tenant: Emulation) -> None:
    """Users are seeded over connections and a span of time, some in one millisecond, all with live tokens."""
    at = tenant.now()
    made = tenant.seed_users(3000, ["google-oauth2", "partner"], span=86_400, at=at, cluster=1200, linked=0.1)
    assert made["connections"] == {"google-oauth2": 1500, "partner": 1500}
    users = list(tenant.alive(page=700))
    assert len({user["user_id"] for user in users}) == len(users) == tenant.count_alive() == 3000
    identities = [identity for user in users for identity in user["identities"]]
    assert len(identities) == made["identities"] > 3200
    assert all(each["live_refresh"] == each["shown_refresh"] is not None for each in identities)
    api = Api(tenant)
    middle = tenant.user(users[0]["user_id"])["created_at"]
    query = f"created_at:[{middle} TO {middle}]"
    page = api.get("/users", q=query, sort="created_at:1", per_page=100, page=9, include_totals="true").json()
    assert page["total"] == 1200  # the first by id is one of the cluster
    assert len({user["last_login"] for user in page["users"]}) == 1
    first = api.get("/users", sort="created_at:1", per_page=1).json()[0]
    assert milliseconds(first["created_at"]) >= (at - 86_400) * 1000 - 1


def test_what_the_providers_issued_last(tenant: Emulation) -> None:
    """After a renewal the live tokens differ from those that Auth0 shows."""
    [user_id] = tenant.add_users("partner", 1)
    shown = str(tenant.live(user_id, "partner")["refresh_token"])
    form = {"grant_type": "refresh_token", "refresh_token": shown, "client_id": "partner-client"}
    renewed = tenant.http.post(
        tenant.token_url("partner"), data={**form, "client_secret": "secret-of-partner"}
    ).json()
    [identity] = next(tenant.alive())["identities"]
    assert identity["shown_refresh"] == digest(shown)
    assert identity["live_refresh"] == digest(renewed["refresh_token"])
    assert identity["live_access"] == digest(renewed["access_token"])


@pytest.mark.parametrize("field", ["created_at", "updated_at", "last_login", "user_id", "email"])
def test_sorting(tenant: Emulation, field: str) -> None:
    """Each field sorts, in both directions, and again after users changed and went."""
    tenant.seed_users(60, ["google-oauth2", "partner"])
    api = Api(tenant)

    def listed(direction: int) -> list[str]:
        users = api.get("/users", sort=f"{field}:{direction}", per_page=100).json()
        return [str(user[field]) for user in users]

    gone = next(tenant.alive())["user_id"]
    tenant.delete_user(gone)
    tenant.login([user["user_id"] for user in tenant.alive()][7])
    assert listed(1) == sorted(listed(1)) == listed(-1)[::-1]
    assert len(listed(1)) == 59


def test_searching_an_identity(tenant: Emulation) -> None:
    """An identity is found by connection and provider's id under the user that has it now."""
    [google] = tenant.add_users("google-oauth2", 1)
    [partner, other] = tenant.add_users("partner", 2)
    subject = partner.partition("|")[2]
    query = f'identities.connection:"partner" AND identities.user_id:"{subject}"'
    api = Api(tenant)

    def found() -> list[str]:
        return [user["user_id"] for user in api.get("/users", q=query).json()]

    assert found() == [partner]
    tenant.link(google, partner)
    assert found() == [google]
    tenant.unlink(google, "partner")
    assert found() == [partner] != [other]


def test_the_search_lags(tenant: Emulation) -> None:
    """New, changed and deleted users show in the search after the lag, by id at once."""
    tenant.set_clock(tenant.now())
    [old, kept] = tenant.add_users("partner", 2)
    tenant.set_search_lag(10)
    tenant.delete_user(old)
    [new] = tenant.add_users("partner", 1)
    token = tenant.login(kept)["access_token"]
    api = Api(tenant)

    def listed() -> dict[str, str]:
        users = api.get("/users").json()
        return {user["user_id"]: user["identities"][0]["access_token"] for user in users}

    assert api.user(new)["user_id"] == new
    assert api.user(old)["statusCode"] == 404
    assert set(listed()) == {old, kept}
    assert listed()[kept] != token
    tenant.advance(9.9)
    assert set(listed()) == {old, kept}
    tenant.advance(0.2)
    assert set(listed()) == {new, kept}
    assert listed()[kept] == token


def test_a_user_comes_again(tenant: Emulation) -> None:
    """A deleted user can be created again under the same id, with new tokens."""
    [user_id] = tenant.add_users("partner", 1)
    old = tenant.live(user_id, "partner")
    tenant.delete_user(user_id)
    tenant.add_user(user_id, [{"connection": "partner"}])
    assert tenant.live(user_id, "partner")["refresh_token"] != old["refresh_token"]
    assert Api(tenant).user(user_id)["identities"][0]["user_id"] == user_id.partition("|")[2]


def test_plans_have_buckets(tenant: Emulation) -> None:
    """A self-service plan limits each group by itself; refusals are counted by group and by endpoint."""
    tenant.set_clock(tenant.now())
    [user_id] = tenant.add_users("partner", 1)
    api = Api(tenant)
    tenant.set_plan("essentials", retry_after_header=False)
    tenant.reset_calls()
    assert [api.get("/connections").status_code for _ in range(6)] == [200] * 5 + [429]
    refused = api.get("/connections")
    assert (refused.headers["x-ratelimit-limit"], refused.headers["x-ratelimit-remaining"]) == ("5", "0")
    assert "retry-after" not in refused.headers
    assert refused.json()["errorCode"] == "too_many_requests"
    api.user(user_id)
    assert api.get("/users").headers["x-ratelimit-remaining"] == "38"
    tenant.advance(1.21)
    assert [api.get("/connections").status_code for _ in range(2)] == [200, 429]
    counts = tenant.limit_counts()
    assert counts["groups"]["connections"] == {"calls": 9, "refused": 3}
    assert counts["endpoints"]["GET /api/v2/users/{id}"] == {"calls": 1, "refused": 0}
    tenant.set_plan("free")
    assert [api.get("/connections").status_code, api.get("/users").status_code] == [200, 200]
    assert api.get("/users").status_code == 429
    with pytest.raises(EmulationError, match="no plan"):
        tenant.set_plan("golden")


@pytest.mark.parametrize("plan", sorted(PLANS))
@pytest.mark.parametrize("background", [0.0, 0.5])
def test_ten_minutes_of_a_plan(plan: str, background: float) -> None:
    """Each bucket of a plan gives its rate over ten minutes and its burst, less what others spend."""
    clock, settings = Clock(), Settings(plan=plan, background=background)
    clock.set(0.0)
    limits = Limits(clock, settings)
    for group, rate in PLANS[plan].items():
        name = "other" if group == "global" else group
        begun, allowed = clock.now(), 0
        while clock.now() < begun + 600:
            allowed += limits.take(name, "GET /")[0]
            clock.advance(0.05)
        expected = max(0.0, rate.per_second - background) * 600 + rate.burst
        assert abs(allowed - expected) <= rate.burst * (background > 0) + 2


def test_the_window_at_its_edge(tenant: Emulation) -> None:
    """The last record that can be paged to is the 1,000th, whatever the page's size."""
    api = Api(tenant)

    def status(page: int, size: int) -> int:
        answer: httpx.Response = api.get("/users", page=page, per_page=size)
        return answer.status_code

    assert [status(9, 100), status(10, 100), status(999, 1), status(1000, 1)] == [200, 400, 200, 400]
    assert [status(32, 30), status(33, 30)] == [200, 400]
