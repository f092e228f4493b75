"""The truth that a scripted provider keeps, and the answers that follow from it."""

import base64

import httpx
import pytest

from emulators.scripted import LIBRARY, Policy, ScriptedProvider, ScriptedServer, Trouble, Wording
from tests.unit.emulators.scripted.conftest import CLIENT, NOW, Present


def _policy(provider: ScriptedProvider, policy: Policy) -> None:
    provider.policy = policy


def test_a_live_grant_is_renewed_and_rotated(provider: ScriptedProvider, present: Present) -> None:
    """A renewal gives a new pair, and spends the refresh token."""
    grant = provider.grants["ada"]
    first = grant.refresh_token
    answer = present(first).json()
    assert answer["refresh_token"] == grant.refresh_token != first
    assert answer["access_token"] == grant.access_token
    assert answer["expires_in"] == 3600
    assert provider.accepts(answer["access_token"])
    assert present(first).json()["error"] == "invalid_grant"
    assert present(grant.refresh_token).status_code == 200
    assert provider.double_spends == 1
    assert provider.counts == {"standard": 2, "invalid_grant": 1}


def test_every_presentation_is_in_the_ledger(provider: ScriptedProvider, server: ScriptedServer) -> None:
    """The ledger has time, token, client authentication as sent, headers, body and what became of it."""
    token = provider.grants["ada"].refresh_token
    form = {"grant_type": "refresh_token", "refresh_token": token}
    httpx.post(server.token_url("acme"), data=form, auth=CLIENT, headers={"x-mine": "1"}, trust_env=False)
    [seen] = provider.presentations("ada")
    assert (seen.at, seen.refresh_token, seen.trouble) == (NOW, token, Trouble.NONE)
    assert (seen.client.method, seen.client.client_id, seen.client.secret) == ("basic", *CLIENT)
    assert seen.headers["x-mine"] == "1"
    assert seen.body == f"grant_type=refresh_token&refresh_token={token}".encode()
    assert (seen.carried_out, seen.reused) == (True, False)
    assert seen.issued == provider.grants["ada"].refresh_token


@pytest.mark.parametrize("method", ["basic", "basic-raw", "post", "json"])
def test_each_way_of_client_authentication(
    provider: ScriptedProvider, server: ScriptedServer, method: str
) -> None:
    """Basic with and without percent-encoding, a form and a JSON object are read, each where it is taken."""
    client_id, secret = ("app%40acme", "s%2Be%2Fc%3Dr%3Ae~t%25") if method == "basic" else CLIENT
    fields = {"grant_type": "refresh_token", "refresh_token": provider.grants["ada"].refresh_token}
    header = {"authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}
    url = server.token_url("acme")

    def ask() -> int:
        if method.startswith("basic"):
            return httpx.post(url, data=fields, headers=header, trust_env=False).status_code
        body = {**fields, "client_id": client_id, "client_secret": secret}
        if method == "json":
            return httpx.post(url, json=body, trust_env=False).status_code
        return httpx.post(url, data=body, trust_env=False).status_code

    taken = "post" if method == "json" else method
    _policy(provider, Policy(rotates=False, client_auth=frozenset({taken})))
    assert ask() == 200
    _policy(provider, Policy(rotates=False, client_auth=frozenset({"basic", "basic-raw", "post"} - {taken})))
    assert ask() == 401


def test_within_its_grace_a_spent_token_is_taken(provider: ScriptedProvider, present: Present) -> None:
    """Within the grace a spent token brings a new pair, after it nothing."""
    _policy(provider, Policy(grace=30))
    token = provider.grants["ada"].refresh_token
    issued = {present(token).json()["refresh_token"], present(token).json()["refresh_token"]}
    assert len(issued) == 2
    provider.clock.advance(30)
    assert present(token).json()["error"] == "invalid_grant"


def test_the_same_pair_is_repeated_until_it_is_used(provider: ScriptedProvider, present: Present) -> None:
    """A provider may repeat the same pair within the grace, until its refresh token is used."""
    _policy(provider, Policy(grace=30, grace_answer="same"))
    token = provider.grants["ada"].refresh_token
    pair = present(token).json()
    assert present(token).json() == pair
    assert present(pair["refresh_token"]).status_code == 200
    assert present(token).json()["error"] == "invalid_grant"


def test_reuse_may_kill_the_grant(provider: ScriptedProvider, present: Present) -> None:
    """Where reuse kills, a spent token ends the newest one too."""
    _policy(provider, Policy(reuse_kills=True))
    token = provider.grants["ada"].refresh_token
    newest = present(token).json()["refresh_token"]
    assert present(token).status_code == 400
    assert not provider.alive("ada")
    assert present(newest).status_code == 400


def test_ends_of_consent(provider: ScriptedProvider, present: Present) -> None:
    """A sliding end moves with each renewal, a hard one does not."""
    _policy(provider, Policy(idle_life=100, hard_life=250))
    for _ in range(3):
        provider.clock.advance(80)
        assert present(provider.grants["ada"].refresh_token).status_code == 200
    provider.clock.advance(10)
    assert not provider.alive("ada")
    provider.add_grant("ada", CLIENT[0])
    provider.clock.advance(100)
    assert present(provider.grants["ada"].refresh_token).status_code == 400


def test_the_truth_chooses_the_shape(provider: ScriptedProvider, present: Present) -> None:
    """Dead, throttled, out of service, wrong secret, other client: each has its shape and its trouble."""
    provider.wording = Wording(
        dead_grant=LIBRARY["errors_list_code"],
        wrong_client=LIBRARY["deleted_client"],
        other_client=LIBRARY["other_client_gitlab"],
        throttled=LIBRARY["slow_down"],
        unavailable=LIBRARY["bad_gateway"],
    )
    other = ("other", "secret")
    provider.add_client(*other)
    token = provider.grants["ada"].refresh_token
    present(token, client=other)
    present(token, client=(CLIENT[0], "mistyped"))
    provider.throttle("ada", 10)
    present(token)
    provider.take_out_of_service(10)
    present(token)
    provider.clock.advance(10)
    provider.kill("ada")
    present(token)
    assert [(each.shape, each.trouble) for each in provider.presentations()] == [
        ("other_client_gitlab", Trouble.OPERATOR),
        ("deleted_client", Trouble.OPERATOR),
        ("slow_down", Trouble.NOBODY),
        ("bad_gateway", Trouble.NOBODY),
        ("errors_list_code", Trouble.USER),
    ]
    assert not any(each.carried_out for each in provider.presentations())


def test_grants_outlive_a_disabled_client(provider: ScriptedProvider, present: Present) -> None:
    """A client's trouble leaves its grants alive."""
    provider.clients[CLIENT[0]].state = "disabled"
    token = provider.grants["ada"].refresh_token
    assert present(token).status_code == 401
    provider.clients[CLIENT[0]].state = "active"
    assert present(token).status_code == 200


def test_queued_shapes_come_first(provider: ScriptedProvider, present: Present) -> None:
    """Shapes that are queued for a grant, or for anybody, are answered in turn."""
    provider.add_grant("bob", CLIENT[0])
    provider.queue(LIBRARY["throttled"], grant="bob")
    provider.queue(LIBRARY["already_processed"], LIBRARY["error_after_rotation"])
    ada, bob = provider.grants["ada"], provider.grants["bob"]
    token = ada.refresh_token
    assert present(token).json()["error_description"] == "token request is already being processed"
    assert present(bob.refresh_token).status_code == 429
    assert present(token).status_code == 500
    assert ada.refresh_token != token  # carried out all the same
    assert present(token).status_code == 400
    assert present(bob.refresh_token).status_code == 200


def test_a_queued_success_waits_for_a_live_token(provider: ScriptedProvider, present: Present) -> None:
    """No queue brings a dead grant back."""
    provider.queue(LIBRARY["nested_in_data"], grant="ada")
    provider.kill("ada")
    assert present(provider.grants["ada"].refresh_token).status_code == 400
    provider.add_grant("ada", CLIENT[0])
    assert "data" in present(provider.grants["ada"].refresh_token).json()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"refresh_token": "x"}, "invalid_request"),
    ],
)
def test_a_malformed_request(
    provider: ScriptedProvider, server: ScriptedServer, fields: dict[str, str], error: str
) -> None:
    """A request that RFC 6749 does not allow is refused by its words."""
    body = {**fields, "client_id": CLIENT[0], "client_secret": CLIENT[1]}
    answer = httpx.post(server.token_url("acme"), data=body, trust_env=False)
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert provider.presentations()[0].trouble is Trouble.OPERATOR


def test_one_seed_is_one_course_of_events() -> None:
    """Two providers of one seed issue the same tokens."""
    first, second = ScriptedProvider(seed=3), ScriptedProvider(seed=3)
    for each in (first, second):
        each.add_client(*CLIENT)
        each.add_grant("ada", CLIENT[0])
    assert first.grants["ada"].refresh_token == second.grants["ada"].refresh_token
