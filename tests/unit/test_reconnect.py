"""The link by which a user consents again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from pydantic import ValidationError

from token_vault.secret import Secret
from worker.reconnect import InvalidState, ReconnectApplication, read_state, reconnect_link
from worker.settings import ReconnectSettings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = Secret("s" * 32)
APPLICATION = ReconnectApplication(
    "https://acme.eu.auth0.com",
    "web-app",
    "https://app.acme.example/reconnected?from=vault",
    "openid profile email",
    SECRET,
    timedelta(days=7),
)


def link(**changes: object) -> dict[str, str]:
    given = {
        "tenant": "default",
        "connection": "google-oauth2",
        "user_id": "google-oauth2|1&1",
        "scopes": ["https://www.googleapis.com/auth/calendar", "email", "email"],
        "login_hint": "ada+x@acme.example",
        "now": NOW,
    }
    url = urlsplit(reconnect_link(APPLICATION, **(given | changes)))  # type: ignore[arg-type]  # a mixture
    assert f"{url.scheme}://{url.netloc}{url.path}" == "https://acme.eu.auth0.com/authorize"
    return {name: value for name, (value,) in parse_qs(url.query, strict_parsing=True).items()}


def test_the_link_asks_for_a_new_consent_with_offline_access() -> None:
    """The link is an authorization request on that connection, with the scopes and consent forced."""
    found = link()
    assert found.pop("state")
    assert found == {
        "response_type": "code",
        "client_id": "web-app",
        "redirect_uri": "https://app.acme.example/reconnected?from=vault",
        "scope": "openid profile email",
        "connection": "google-oauth2",
        "connection_scope": "https://www.googleapis.com/auth/calendar,email",
        "access_type": "offline",
        "prompt": "consent",
        "login_hint": "ada+x@acme.example",
    }


def test_what_is_not_known_is_left_out() -> None:
    """Without scopes or an address their parameters are absent, not empty."""
    assert {"connection_scope", "login_hint", "audience"}.isdisjoint(link(scopes=[], login_hint=None))


def test_the_state_says_whose_grant_it_was() -> None:
    """The operator's page reads from the state whom it may connect; no two are the same."""
    first, second = link()["state"], link()["state"]
    state = read_state(first, SECRET, NOW + timedelta(days=6))
    assert (state.tenant, state.connection, state.user_id) == (
        "default",
        "google-oauth2",
        "google-oauth2|1&1",
    )
    assert state.nonce != read_state(second, SECRET, NOW).nonce


def test_a_state_ends() -> None:
    """A state that has ended is refused in words."""
    with pytest.raises(InvalidState, match="ask for another link"):
        read_state(link()["state"], SECRET, NOW + timedelta(days=7))


@pytest.mark.parametrize("claims", [{}, {"aud": "other"}, {"sub": None}, {"exp": None}, {"tenant": None}])
def test_a_foreign_state_is_refused(claims: dict[str, str | None]) -> None:
    """A state under another key, for another use or without its names is refused."""
    sound = jwt.decode(link()["state"], options={"verify_signature": False}) | claims
    key = SECRET.reveal() if claims else "t" * 32
    forged = jwt.encode({name: value for name, value in sound.items() if value is not None}, key)
    with pytest.raises(InvalidState):
        read_state(forged, SECRET, NOW)
    with pytest.raises(InvalidState):
        read_state("x" + link()["state"], SECRET, NOW)


def test_a_state_without_signature_is_refused() -> None:
    """``alg: none`` is refused."""
    claims = jwt.decode(link()["state"], options={"verify_signature": False})
    with pytest.raises(InvalidState):
        read_state(jwt.encode(claims, "", algorithm="none"), SECRET, NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "short"},
        {"redirect_uri": "http://app.acme.example/"},
        {"redirect_uri": "https://app.acme.example/#a"},
        {"client_id": ""},
        {"state_seconds": 1},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    """A short secret, an insecure page or an empty client is refused at the start."""
    sound = {"client_id": "web-app", "redirect_uri": "https://app.acme.example/", "secret": "s" * 32}
    ReconnectSettings.model_validate(sound)
    with pytest.raises(ValidationError):
        ReconnectSettings.model_validate(sound | wrong)
