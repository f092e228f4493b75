"""Planted faults go wrong in exactly the way they are called, and where they should."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from emulators.client import Emulation, EmulationError, running
from tests.support.wait import WAIT_SECONDS


@pytest.fixture(scope="module")
def process() -> Iterator[Emulation]:
    with running() as emulation:
        yield emulation


@pytest.fixture
def world(process: Emulation) -> Emulation:
    process.reset()
    process.add_connection("c", "oauth2", "custom")
    process.add_user("oauth2|c|1", [{"connection": "c"}])
    return process


def renew(world: Emulation, timeout: float = 5) -> httpx.Response:
    form: dict[str, Any] = {
        "grant_type": "refresh_token",
        "refresh_token": world.live("oauth2|c|1", "c")["refresh_token"],
        "client_id": "c-client",
        "client_secret": "secret-of-c",
    }
    return world.http.post(f"{world.base_url}/idp/custom/oauth/token", data=form, timeout=timeout)


def spent(world: Emulation) -> bool:
    return bool(world.ledger("oauth2|c|1", "c")[0]["spent"])


@pytest.mark.parametrize(
    ("kind", "status", "carried_out"),
    [
        ("503", 503, False),
        ("html200", 200, False),
        ("error:temporarily_unavailable", 503, False),
        ("error:invalid_grant", 400, False),
        ("empty200", 200, True),
        ("malformed_json", 200, True),
        ("delay:0.01", 200, True),
        ('override:{"expires_in": "soon"}', 200, True),
    ],
)
def test_answers_that_go_wrong(world: Emulation, kind: str, status: int, carried_out: bool) -> None:
    """A fault comes once, with its status, and spends the refresh token only when carried out."""
    world.fail_next("/idp/custom", 1, kind)
    assert renew(world).status_code == status
    assert spent(world) is carried_out
    assert "refresh_token" in renew(world).json()


@pytest.mark.parametrize(("kind", "carried_out"), [("reset_before", False), ("reset_after", True)])
def test_resets(world: Emulation, kind: str, carried_out: bool) -> None:
    """A reset closes the connection without an answer, before or after the request took effect."""
    world.fail_next("/idp/custom", 1, kind)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        renew(world)
    assert spent(world) is carried_out
    assert world.call_log("/idp")[-1]["outcome"] == kind


def test_a_hang_ends_when_the_client_leaves(world: Emulation) -> None:
    """A hanging request has taken effect though its client never hears of it."""
    world.fail_next("/idp/custom", 1, "hang")
    with pytest.raises(httpx.ReadTimeout):
        renew(world, timeout=0.1)
    assert spent(world)


def test_a_hang_ends_when_released(world: Emulation) -> None:
    """A released request is answered."""
    world.fail_next("/idp/custom", 1, "hang")
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(renew(world)))
    caller.start()
    while not spent(world):
        pass
    world.release()
    caller.join(WAIT_SECONDS)
    assert answers[0].status_code == 200


def test_overrides_and_malformed_answers(world: Emulation) -> None:
    """An override replaces fields of the true answer; a malformed one cannot be parsed."""
    world.fail_next("/idp/custom", 1, 'override:{"refresh_token": "", "expires_in": null}')
    answer = renew(world).json()
    assert (answer["refresh_token"], answer["expires_in"]) == ("", None)
    assert answer["access_token"].startswith("cust_at_")
    world.fail_next("/idp/custom", 1, "malformed_json")
    with pytest.raises(ValueError, match=r"."):
        renew(world).json()


def test_errors_take_the_providers_form(world: Emulation) -> None:
    """A planted Entra error carries its numbers; extra fields and Retry-After come along."""
    world.fail_next(
        "/idp/entra", 1, "error:invalid_grant:AADSTS50196: loop.", extra={"suberror": "x"}, retry_after=7
    )
    answer = world.http.post(f"{world.base_url}/idp/entra/common/oauth2/v2.0/token")
    assert (answer.json()["error_codes"], answer.json()["suberror"]) == ([50196], "x")
    assert answer.headers["retry-after"] == "7"


def test_faults_stay_below_their_path(world: Emulation) -> None:
    """A fault hits its own path and below, not a neighbour whose name begins alike, and n times."""
    world.fail_next("/idp/github", 2, "500")
    neighbour = f"{world.base_url}/idp/github-classic/api/me"
    own = f"{world.base_url}/idp/github/api/me"
    assert [world.http.get(url).status_code for url in (neighbour, own, own, own)] == [401, 500, 500, 401]


def test_tenant_faults_speak_auth0(world: Emulation) -> None:
    """A 429 of the tenant has Auth0's body and Retry-After."""
    world.fail_next("/api/v2/users", 1, "429", retry_after=3)
    world.fail_next("/oauth/token", 1, "429", retry_after=4)
    users = world.http.get(f"{world.base_url}/api/v2/users/oauth2%7Cc%7C1")
    assert (users.json()["errorCode"], users.headers["retry-after"]) == ("too_many_requests", "3")
    token = world.http.post(f"{world.base_url}/oauth/token", json={})
    assert (token.json()["error"], token.headers["retry-after"]) == ("too_many_requests", "4")
    assert "auth0-client-quota-limit" in token.headers


def test_nonsense_is_refused(world: Emulation) -> None:
    """An operation, fault, provider or setting that does not exist is an error at once."""
    for wrong in (
        lambda: world.fail_next("/", 1, "explode"),
        lambda: world.configure_provider("custom", colour="blue"),
        lambda: world.configure_tenant(colour="blue"),
        lambda: world.user("nobody"),
        lambda: world.add_connection("x", "oauth2", "nowhere"),
    ):
        with pytest.raises(EmulationError):
            wrong()
