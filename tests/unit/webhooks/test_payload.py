"""What an event says, how it is signed, and the settings of webhooks."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.webhook_receiver import KEY, SECRET, Got, signature
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.settings import EventKind, EventSettings, WebhookSettings, load, webhook_key
from worker.vault.outbox import OutboxEvent
from worker.webhooks import payload
from worker.webhooks import signature as signing
from worker.webhooks.http import http_client, post

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(kind: EventKind, **columns: Any) -> OutboxEvent:
    given: dict[str, Any] = dict.fromkeys(OutboxEvent.__slots__) | {
        "id": uuid4(),
        "kind": kind.value,
        "at": NOW,
        "tenant": "default",
    }
    return OutboxEvent(**(given | {"connection": "c", "user_id": "x|1", "expires_at": NOW} | columns))


def secret_of(key: bytes) -> Secret:
    return Secret("whsec_" + base64.b64encode(key).decode())


@given(
    body=st.binary(max_size=200),
    keys=st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=3),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    id_=st.uuids(),
)
def test_any_signature_verifies_and_only_for_what_was_signed(
    body: bytes, keys: list[bytes], at: datetime, id_: UUID
) -> None:
    """Each key verifies its own signature, over these bytes, this id and this second."""
    made = signing.headers(payload.public_id(id_), body, [secret_of(key) for key in keys], now=at)
    got = Got("/", made, body)
    assert made["webhook-signature"].split(" ") == [signature(key, got) for key in keys]
    assert abs(int(made["webhook-timestamp"]) - at.timestamp()) < 1
    for other in (
        Got("/", made, body + b" "),
        Got("/", made | {"webhook-id": "evt_0"}, body),
        Got("/", made | {"webhook-timestamp": "1"}, body),
    ):
        assert signature(keys[0], other) not in made["webhook-signature"]


@given(key=st.binary(max_size=100))
def test_a_secret_has_24_to_64_bytes(key: bytes) -> None:
    """Shorter and longer keys are refused, and what is refused is not shown."""
    if 24 <= len(key) <= 64:
        assert webhook_key(secret_of(key)) == key
    else:
        with pytest.raises(ValueError, match="24 to 64"):
            webhook_key(secret_of(key))


@given(user=st.text(min_size=1), connection=st.text(), tenant=st.text(min_size=1))
def test_a_link_carries_any_id(user: str, connection: str, tenant: str) -> None:
    """Whatever the ids hold, the link's parameters are theirs and nothing else of the link changes."""
    named = event(EventKind.LOST_IN_ROTATION, user_id=user, connection=connection, tenant=tenant)
    template = "https://app.example/again?u={user_id}&c={connection}&t={tenant}&end=1"
    try:
        link = payload.document(named, payload.fill_link(template, named))["data"]["reauthorize_url"]
    except UnicodeEncodeError:
        return  # half a surrogate pair is no text that Postgres holds
    parts = urlsplit(link)
    assert (parts.netloc, parts.path, parts.fragment) == ("app.example", "/again", "")
    found = parse_qs(parts.query, keep_blank_values=True)
    assert found == {"u": [user], "c": [connection], "t": [tenant], "end": ["1"]}


@pytest.mark.parametrize("kind", list(EventKind))
@pytest.mark.parametrize("user_id", ["x|1", "", None])
def test_every_event_says_what_to_do(kind: EventKind, user_id: str | None) -> None:
    """Each kind has a sentence; a link is there only where a user has to act, and no secret's name ever."""
    said = json.loads(payload.body(event(kind, user_id=user_id, reason="x"), "https://a.example/again"))
    assert set(said) == {"id", "type", "timestamp", "data"}
    assert said["data"]["action"].endswith(".")
    acts = bool(user_id) and kind in (
        EventKind.REAUTHORIZATION_REQUIRED, EventKind.LOST_IN_ROTATION, EventKind.EXPIRING,
        EventKind.CONSENT_ENDING, EventKind.SCOPES_LOST,
    )  # fmt: skip
    assert (said["data"]["reauthorize_url"] is not None) == acts
    assert said["data"]["admin"] == (user_id == "")
    assert not {name for name in said["data"] if "token" in name or "secret" in name}


@pytest.mark.parametrize("since", [NOW - timedelta(hours=1), None])
def test_an_event_says_since_when(since: datetime | None) -> None:
    """Since the state began, or since the event where that is not known."""
    data = payload.document(event(EventKind.FAILING, since=since), None)["data"]
    assert datetime.fromisoformat(data["since"]) == (since or NOW)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"url": "http://example.com/"}, "https"),
        ({"url": "ftp://localhost/"}, "https"),
        ({"url": "nowhere"}, "https"),
        ({"url": "https://user:canary@example.com/"}, "user"),
        ({"url": "https://example.com:99999/"}, "host"),
        ({"url": "https://example..com/"}, "host"),
        ({"secret": "whsec_canary"}, "whsec_"),
        ({"secret": base64.b64encode(KEY).decode()}, "whsec_"),
        ({"secret": []}, "empty"),
        ({"secret": 1}, "one secret"),
        ({"events": ["grants"]}, "no event is called grants"),
        ({"events": ["grant.heal"]}, "no event is called grant.heal"),
        ({"evnets": []}, "evnets"),
    ],
)
def test_a_wrong_webhook_is_refused(wrong: dict[str, Any], says: str) -> None:
    """What is wrong is named, and no secret is shown."""
    with pytest.raises(ValidationError, match=says) as refused:
        WebhookSettings.model_validate({"url": "https://example.com/", "secret": SECRET} | wrong)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "template",
    ["https://a/{user}", "https://a/{user_id!r}", "https://a/{user_id:x}", "https://a/{", "/{user_id}", "https://a/{tenant.x}"],
)  # fmt: skip
def test_a_wrong_template_is_refused(template: str) -> None:
    """A link that could not be made for every event is refused when the settings are read."""
    with pytest.raises(ValidationError, match="reauthorize_url"):
        EventSettings(reauthorize_url=template)


def test_secrets_come_from_variables_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A webhook's secret may be elsewhere, several of them too, and prints nowhere."""
    for name in ("AUTH0_DOMAIN", "AUTH0_CLIENT_ID", "AUTH0_CLIENT_SECRET", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    config, file = tmp_path / "vault.toml", tmp_path / "secret"
    file.write_text(f"{SECRET}\n{secret_of(bytes(24)).reveal()}\n", encoding="utf-8")
    monkeypatch.setenv("HOOK", SECRET)
    config.write_text(
        '[webhooks.a]\nurl = "https://a.example"\nsecret_env = "HOOK"\n'
        f'[webhooks.b]\nurl = "http://localhost:1"\nsecret_file = "{file}"\n',
        encoding="utf-8",
    )
    webhooks = load(config).webhooks
    assert webhooks["a"].secret == (Secret(SECRET),)
    assert [len(webhook_key(secret)) for secret in webhooks["b"].secret] == [32, 24]
    assert SECRET not in repr(webhooks)
    config.write_text('[webhooks.a]\nurl = "https://a"\nsecret_env = "NONE"\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="secret_env"):
        load(config)


def test_a_receiver_names_kinds_of_events_or_their_beginnings() -> None:
    """A whole name matches its event alone; a beginning ends where a part of the name ends."""
    for names, kinds in (
        (["grant.healed"], {"grant.healed"}),
        (
            ["connection"],
            {"connection.broken", "connection.mended", "connection.paused", "connection.resumed"},
        ),
        (["user.*", "grant.failing"], {"user.forgotten", "grant.failing"}),
        (["gran"], set()),
    ):
        assert {kind for kind in EventKind if kind.is_in(names)} == kinds


def test_events_outlive_their_deliveries() -> None:
    """Events that are forgotten before they are given up would be lost silently: that is refused."""
    with pytest.raises(ValidationError, match="keep"):
        EventSettings(keep=timedelta(days=1).total_seconds())


async def test_a_receiver_that_is_not_there_is_unreachable() -> None:
    """A refused connection is told as that, and not as a receiver that is slow."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and nobody listens
        async with http_client() as http:
            result = await post(http, f"http://127.0.0.1:{sock.getsockname()[1]}/", b"{}", {})
    assert (result.status, result.error, result.is_unavailable) == (None, "unreachable", True)


@pytest.mark.parametrize(
    "url",
    ["https://a..b/hook", f"https://{'a' * 64}.test/", "https://xn--a.test/", "https://u:p@127.0.0.1:9/"],
)
async def test_a_url_that_nothing_can_be_sent_to_is_a_failure_and_no_exception(url: str) -> None:
    """A delivery is counted as tried then, and given up in time."""
    async with http_client() as http:
        result = await post(http, url, b"{}", {})
    assert (result.status, result.error) == (None, "bad_url")


async def test_a_receiver_whose_tls_is_broken_is_not_told_as_unreachable() -> None:
    """Its operator looks for a certificate then, and not for a network."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, http_client() as http:
        port = server.sockets[0].getsockname()[1]
        result = await post(http, f"https://127.0.0.1:{port}/", b"{}", {})
    assert (result.status, result.error, result.is_unavailable) == (None, "tls_failed", True)
