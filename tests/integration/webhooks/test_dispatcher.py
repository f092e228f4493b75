"""Events reach their receivers, signed, whatever those and the dispatchers do meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.support.collector import collecting_here
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.readers import Rows
from tests.support.wait import WAIT_SECONDS, until, until_async
from tests.support.webhook_receiver import KEY, SECRET, Receiver, receiving, signature
from token_vault.secret import Secret
from worker import traces
from worker.reconnect import ReconnectApplication, read_state
from worker.settings import EventKind, EventSettings, WebhookSettings
from worker.vault import outbox
from worker.vault.vault import Vault
from worker.webhooks import http as posting
from worker.webhooks.dispatcher import MAX_CONCURRENT_POSTS, Dispatcher, webhook_filters
from worker.webhooks.http import http_client
from worker.webhooks.payload import public_id

Sql = Callable[..., list[dict[str, Any]]]
TENANTS = ["default"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


class Clock:
    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.time

    def pass_by(self, **span: float) -> None:
        self.time += timedelta(**span)


def webhook(receiver: Receiver | str, **settings: Any) -> WebhookSettings:
    url = receiver if isinstance(receiver, str) else receiver.url
    return WebhookSettings.model_validate({"url": url, "secret": SECRET} | settings)


class Dispatchers:
    """Makes dispatchers over one vault, on one clock; a failure's wait is as long as it can be."""

    def __init__(self, vault: Vault, stack: AsyncExitStack) -> None:
        self.vault, self._stack, self.clock = vault, stack, Clock()
        self.application: ReconnectApplication | None = None

    async def make(self, events: EventSettings | None = None, **webhooks: WebhookSettings) -> Dispatcher:
        http: httpx.AsyncClient = await self._stack.enter_async_context(http_client())
        return Dispatcher(
            self.vault,
            webhooks,
            events or EventSettings(),
            http,
            application_of=lambda _: self.application,
            now=self.clock,
            jitter=lambda: 1.0,
        )


@pytest.fixture
async def dispatchers(vault: Vault) -> AsyncIterator[Dispatchers]:
    async with AsyncExitStack() as stack:
        yield Dispatchers(vault, stack)


async def tell(vault: Vault, kind: EventKind = EventKind.BROKEN, times: int = 1, **columns: Any) -> None:
    async with vault.engine.begin() as connection:
        for n in range(times):
            given = {"tenant": "default", "name": f"c{n}", "state": "blocked"} | columns
            await outbox.emit(connection, kind, **given)


def states(sql: Sql) -> list[str]:
    return [row["state"] for row in sql("SELECT state FROM deliveries ORDER BY webhook, state")]


async def test_an_event_arrives_signed_and_says_what_to_do(
    dispatchers: Dispatchers, receiver: Receiver, sql: Sql
) -> None:
    """The body is what was told, its id the event's, the signature that of the specification over what was sent."""
    template = "https://app.example/again/{connection}?user={user_id}&t={tenant}"
    dispatcher = await dispatchers.make(EventSettings(reauthorize_url=template), a=webhook(receiver))
    await tell(
        dispatchers.vault, EventKind.REAUTHORIZATION_REQUIRED, name="a b", user_id="x|1&é",
        state="reauthorization_required", reason="invalid_grant",
    )  # fmt: skip
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    [got] = receiver.got
    [row] = sql("SELECT * FROM outbox")
    assert got.headers["webhook-signature"] == signature(KEY, got)
    assert got.headers["webhook-timestamp"] == str(int(dispatchers.clock().timestamp()))
    assert got.headers["content-type"] == "application/json"
    assert got.id == got.event["id"] == public_id(row["id"])
    assert "." not in got.id
    assert got.event["type"] == "grant.reauthorization_required"
    assert datetime.fromisoformat(got.event["timestamp"]) == row["at"]
    data = got.event["data"]
    assert (data["user_id"], data["connection"], data["reason"]) == ("x|1&é", "a b", "invalid_grant")
    assert data["reauthorize_url"] == "https://app.example/again/a%20b?user=x%7C1%26%C3%A9&t=default"
    assert "the user has to sign in again over connection a b" in data["action"]
    assert await dispatcher.deliver_due(TENANTS) == {}


async def test_an_event_has_the_link_by_which_the_user_consents_again(
    dispatchers: Dispatchers, receiver: Receiver, sql: Sql
) -> None:
    """The link of [reconnect] goes before the operator's own; its state names the grant."""
    secret = Secret("s" * 32)
    dispatchers.application = ReconnectApplication(
        "https://acme.eu.auth0.com", "web", "https://app.example/again", "openid", secret, timedelta(days=7)
    )
    template = EventSettings(reauthorize_url="https://app.example/{user_id}")
    dispatcher = await dispatchers.make(template, a=webhook(receiver))
    await tell(
        dispatchers.vault, EventKind.REAUTHORIZATION_REQUIRED, name="google-oauth2", user_id="google-oauth2|1",
        state="reauthorization_required", reason="invalid_grant",
    )  # fmt: skip
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    link = urlsplit(receiver.got[0].event["data"]["reauthorize_url"])
    query = dict(parse_qsl(link.query))
    assert (link.netloc, query["connection"]) == ("acme.eu.auth0.com", "google-oauth2")
    state = read_state(query["state"], secret, dispatchers.clock())
    assert (state.tenant, state.connection, state.user_id) == ("default", "google-oauth2", "google-oauth2|1")
    sql(
        "INSERT INTO outbox (kind, tenant, connection, user_id, message)"
        " VALUES ('grant.scopes_lost', 'default', 'google-oauth2', 'google-oauth2|1', 'mail drive')"
    )
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    link = urlsplit(receiver.got[1].event["data"]["reauthorize_url"])
    asked = dict(parse_qsl(link.query))["connection_scope"]
    assert {"mail", "drive"} <= set(asked.split(","))  # what was lost is asked for again


async def test_while_a_secret_is_replaced_both_sign(dispatchers: Dispatchers, receiver: Receiver) -> None:
    """Two secrets make two signatures, and either key verifies."""
    newer = bytes(range(64, 128))
    secrets = ["whsec_" + base64.b64encode(newer).decode(), SECRET]
    dispatcher = await dispatchers.make(a=webhook(receiver, secret=secrets))
    await tell(dispatchers.vault)
    await dispatcher.deliver_due(TENANTS)
    [got] = receiver.got
    assert got.headers["webhook-signature"].split(" ") == [signature(newer, got), signature(KEY, got)]


async def test_an_outage_of_a_day_loses_nothing(
    dispatchers: Dispatchers, receiver: Receiver, sql: Sql
) -> None:
    """A receiver down for a day gets every event, once and under its first id, within half an hour of its return."""
    dispatcher = await dispatchers.make(a=webhook(receiver))
    await tell(dispatchers.vault, times=30)
    receiver.status = 503
    while dispatchers.clock() < datetime.now(UTC) + timedelta(days=1):
        await dispatcher.deliver_due(TENANTS)
        dispatchers.clock.pass_by(minutes=10)
    tried, receiver.status = set(receiver.ids), 200
    assert len(receiver.got) <= 24 * 6 + 1  # one call a look, however many events wait
    receiver.got.clear()
    for _ in range(4):
        await dispatcher.deliver_due(TENANTS)
        dispatchers.clock.pass_by(minutes=10)
    assert len(receiver.ids) == len(set(receiver.ids)) == 30
    assert tried <= set(receiver.ids)
    assert receiver.most_at_once <= MAX_CONCURRENT_POSTS
    assert states(sql) == ["delivered"] * 30
    assert all(got.headers["webhook-signature"] == signature(KEY, got) for got in receiver.got)


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 500, 503])
async def test_anything_but_success_is_tried_again(
    dispatchers: Dispatchers, receiver: Receiver, other: Receiver, status: int
) -> None:
    """No status but 2xx is a success, and no redirect is followed."""
    receiver.status, receiver.headers = status, {"location": other.url}
    dispatcher = await dispatchers.make(a=webhook(receiver))
    await tell(dispatchers.vault)
    assert await dispatcher.deliver_due(TENANTS) == {"refused": 1}
    assert await dispatcher.deliver_due(TENANTS) == {}
    receiver.status = 204
    dispatchers.clock.pass_by(seconds=10)
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    assert len(set(receiver.ids)) == 1
    assert other.got == []


async def test_each_failure_is_waited_for_longer(
    dispatchers: Dispatchers, receiver: Receiver, sql: Sql
) -> None:
    """A receiver that refuses one event for long is not shown it at each look."""
    receiver.status = 400
    dispatcher = await dispatchers.make(a=webhook(receiver))
    await tell(dispatchers.vault)
    waits = list[timedelta]()
    for _ in range(5):
        assert await dispatcher.deliver_due(TENANTS) == {"refused": 1}
        [row] = sql("SELECT next_at FROM deliveries")
        waits.append(row["next_at"] - dispatchers.clock())
        dispatchers.clock.time = row["next_at"]
    assert all(later > earlier for earlier, later in pairwise(waits))


async def test_a_receiver_that_never_answers_is_given_up(
    dispatchers: Dispatchers, receiver: Receiver, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would else be posted to without end, and get no other event."""
    monkeypatch.setattr(posting, "POST_SECONDS", 0.2)
    receiver.open.clear()
    dispatcher = await dispatchers.make(a=webhook(receiver))
    await tell(dispatchers.vault)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await dispatcher.deliver_due(TENANTS) == {"refused": 1}
    assert sql("SELECT last_error FROM deliveries") == [{"last_error": "timeout"}]


async def test_what_ended_while_nobody_looked_is_told(
    dispatchers: Dispatchers, receiver: Receiver, rows: Rows, sql: Sql
) -> None:
    """A token that nothing renews, and that ended while the workers were stopped, is news for a day."""
    await rows.add(state="unrenewable", reason="no_refresh_token")
    sql("UPDATE grants SET created_at = now() - interval '5 d', expires_at = now() - interval '2 d'")
    dispatcher = await dispatchers.make(a=webhook(receiver, events=["grant.expiring"]))
    assert await dispatcher.deliver_due(TENANTS) == {}
    sql("UPDATE grants SET expires_at = now() - interval '23 h'")
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    assert receiver.kinds == ["grant.expiring"]


async def test_a_receiver_that_asks_for_time_gets_it(dispatchers: Dispatchers, receiver: Receiver) -> None:
    """`Retry-After` is obeyed, up to an hour."""
    receiver.status, receiver.headers = 429, {"retry-after": "600"}
    dispatcher = await dispatchers.make(a=webhook(receiver))
    await tell(dispatchers.vault)
    await dispatcher.deliver_due(TENANTS)
    dispatchers.clock.pass_by(seconds=599)
    assert await dispatcher.deliver_due(TENANTS) == {}
    receiver.headers = {"retry-after": "99999999"}
    dispatchers.clock.pass_by(seconds=1)
    assert await dispatcher.deliver_due(TENANTS) == {"refused": 1}
    dispatchers.clock.pass_by(hours=1)
    assert await dispatcher.deliver_due(TENANTS) == {"refused": 1}


async def test_a_receiver_that_asks_for_time_is_not_asked_for_the_next_event_either(
    dispatchers: Dispatchers, receiver: Receiver, other: Receiver
) -> None:
    """`Retry-After` is that receiver's, however many events wait or come meanwhile; then all of them go."""
    receiver.status, receiver.headers = 429, {"retry-after": "600"}
    dispatcher = await dispatchers.make(a=webhook(other), b=webhook(receiver))
    await tell(dispatchers.vault, times=30)
    for _ in range(5):
        await dispatcher.deliver_due(TENANTS)
        await tell(dispatchers.vault)
        dispatchers.clock.pass_by(seconds=60)
    assert len(receiver.got) == 1
    assert len(other.got) == 34
    receiver.status, receiver.headers = 200, {}
    dispatchers.clock.pass_by(seconds=300)
    await dispatcher.deliver_due(TENANTS)
    assert len(set(receiver.ids)) == 35


async def test_one_receiver_is_never_in_the_way_of_another(
    dispatchers: Dispatchers, receiver: Receiver, other: Receiver
) -> None:
    """While one receiver hangs, another gets old and new events, at this look and at the next."""
    receiver.open.clear()
    dispatcher = await dispatchers.make(
        slow=webhook(receiver), gone=webhook("http://127.0.0.1:9/"), b=webhook(other)
    )
    await tell(dispatchers.vault)
    first = asyncio.create_task(dispatcher.deliver_due(TENANTS))
    await until_async(lambda: len(other.got) == 1 and len(receiver.got) == 1)
    await tell(dispatchers.vault)
    assert (await dispatcher.deliver_due(TENANTS))["delivered"] == 1
    assert len(other.got) == 2
    assert len(receiver.got) == 1
    receiver.open.set()
    await first


async def test_410_ends_it(dispatchers: Dispatchers, receiver: Receiver, other: Receiver, sql: Sql) -> None:
    """A receiver that is gone is not asked again for an event; the failure is listed, and can be sent again."""
    receiver.status = 410
    webhooks = {"a": webhook(receiver), "b": webhook(other)}
    dispatcher = await dispatchers.make(None, **webhooks)
    await tell(dispatchers.vault)
    assert await dispatcher.deliver_due(TENANTS) == {"failed": 1, "delivered": 1}
    assert states(sql) == ["failed", "delivered"]
    dispatchers.clock.pass_by(days=4)
    assert await dispatcher.deliver_due(TENANTS) == {}
    receiver.status = 500
    again = await outbox.resend(
        dispatchers.vault, TENANTS, webhook_filters(webhooks), now=dispatchers.clock(), failed=True
    )
    assert len(again) == 1
    assert await dispatcher.deliver_due(TENANTS) == {"refused": 1}  # and has its days anew
    assert sql("SELECT attempts FROM deliveries WHERE webhook = 'a'") == [{"attempts": 1}]
    receiver.status = 200
    dispatchers.clock.pass_by(minutes=1)
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    assert len(set(receiver.ids)) == 1
    assert len(other.got) == 1


async def test_days_of_refusal_are_given_up(dispatchers: Dispatchers, receiver: Receiver, sql: Sql) -> None:
    """After the settable time a delivery is failed, one that was never tried too, and costs no more calls."""
    receiver.status = 500
    dispatcher = await dispatchers.make(EventSettings(give_up=3600), a=webhook(receiver))
    await tell(dispatchers.vault, times=3)
    await dispatcher.deliver_due(TENANTS)
    dispatchers.clock.pass_by(hours=1)
    await dispatcher.deliver_due(TENANTS)
    assert states(sql) == ["failed"] * 3
    calls = len(receiver.got)
    dispatchers.clock.pass_by(hours=1)
    await dispatcher.deliver_due(TENANTS)
    assert len(receiver.got) == calls


async def test_two_dispatchers_deliver_each_event_once(dispatchers: Dispatchers, receiver: Receiver) -> None:
    """Claims keep dispatchers apart."""
    several = [await dispatchers.make(a=webhook(receiver)) for _ in range(3)]
    await tell(dispatchers.vault, times=40)
    counts = await asyncio.gather(*(each.deliver_due(TENANTS) for each in several))
    assert sum(count["delivered"] for count in counts) == 40
    assert len(receiver.ids) == len(set(receiver.ids)) == 40


async def test_a_killed_dispatcher_is_succeeded(
    dispatchers: Dispatchers, receiver: Receiver, database_url: Secret, sql: Sql
) -> None:
    """A process killed while a receiver works on its event leaves a claim; after it the same event comes again."""
    program = """
import asyncio, json, sys
from worker.settings import EventSettings, WebhookSettings
from worker.webhooks import http as posting
from worker.webhooks.dispatcher import Dispatcher
from worker.webhooks.http import http_client
from token_vault.secret import Secret
from worker.vault.vault import open_vault

async def main(url, access, refresh, hook):
    async with open_vault(Secret(url), [Secret(access)], [Secret(refresh)]) as vault, http_client() as http:
        await Dispatcher(vault, {"a": WebhookSettings(**hook)}, EventSettings(), http).deliver_due(["default"])

asyncio.run(main(*json.load(sys.stdin)))
"""
    receiver.open.clear()
    await tell(dispatchers.vault)
    process = subprocess.Popen(  # noqa: ASYNC220  # it is this one that is killed
        [sys.executable, "-c", program], stdin=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    given = [
        database_url.reveal(), ACCESS_KEY.reveal(), REFRESH_KEY.reveal(), {"url": receiver.url, "secret": SECRET},
    ]  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        await asyncio.to_thread(receiver.arrived.wait, WAIT_SECONDS)
        process.kill()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(WAIT_SECONDS)
    receiver.open.set()
    dispatcher = await dispatchers.make(a=webhook(receiver))
    assert await dispatcher.deliver_due(TENANTS) == {}
    dispatchers.clock.pass_by(minutes=2)
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1
    assert states(sql) == ["delivered"]


async def test_who_has_lost_a_claim_gives_up_nothing(vault: Vault, sql: Sql) -> None:
    """A receiver slower than its claim: the late failure is not recorded, the late success is."""
    await tell(vault)
    now = await vault.now()
    await outbox.queue(vault, TENANTS, [outbox.WebhookFilter("a", ("connection.broken",))], now=now)
    (late,) = await outbox.claim_due(vault, "a", now=now, until=now, limit=1)
    until = now + timedelta(hours=1)
    (taken,) = await outbox.claim_due(vault, "a", now=now, until=until, limit=1)
    before = sql("SELECT * FROM deliveries")
    await outbox.mark_failed(vault, late, status=410, error=None, next_at=now, final=True)
    await outbox.postpone(vault, late, next_at=now, final=True)
    assert sql("SELECT * FROM deliveries") == before
    assert before[0]["owner"] == taken.owner
    await outbox.mark_failed(vault, taken, status=None, error="unreachable", next_at=now, final=False)
    await outbox.mark_delivered(vault, late, status=204, now=now)
    await outbox.mark_failed(vault, taken, status=500, error=None, next_at=now, final=False)
    assert sql("SELECT state, last_error FROM deliveries") == [{"state": "delivered", "last_error": None}]


async def test_each_gets_what_it_wants(
    dispatchers: Dispatchers, receiver: Receiver, other: Receiver, sql: Sql
) -> None:
    """By kind, by the beginning of a kind, and by tenant; what nobody wants is done with all the same."""
    dispatcher = await dispatchers.make(
        a=webhook(receiver, events=["grant", "user.forgotten"]),
        b=webhook(other, events=["connection.*"], tenants=["second"]),
    )
    await tell(dispatchers.vault, EventKind.HEALED)
    await tell(dispatchers.vault, EventKind.BROKEN)
    await tell(dispatchers.vault, EventKind.MENDED, tenant="second")
    await tell(dispatchers.vault, EventKind.HEALED, tenant="third")
    await dispatcher.deliver_due(["default", "second"])
    assert (receiver.kinds, other.kinds) == (["grant.healed"], ["connection.mended"])
    assert sql("SELECT tenant FROM outbox WHERE queued_at IS NULL") == [{"tenant": "third"}]


async def test_a_webhook_gets_what_is_told_from_its_first_day(
    dispatchers: Dispatchers, receiver: Receiver
) -> None:
    """One that is set later is not sent the past; single events can be sent to it by hand."""
    await tell(dispatchers.vault)
    await (await dispatchers.make()).deliver_due(TENANTS)
    webhooks = {"a": webhook(receiver)}
    dispatcher = await dispatchers.make(None, **webhooks)
    assert await dispatcher.deliver_due(TENANTS) == {}
    [old] = await outbox.list_events(dispatchers.vault, TENANTS)
    await outbox.resend(
        dispatchers.vault, TENANTS, webhook_filters(webhooks), now=dispatchers.clock(), ids=[old["id"]]
    )
    assert await dispatcher.deliver_due(TENANTS) == {"delivered": 1}
    assert receiver.ids == [public_id(old["id"])]


async def test_a_forgotten_users_id_goes_when_all_know(
    dispatchers: Dispatchers, receiver: Receiver, other: Receiver, sql: Sql
) -> None:
    """The id stays until the last receiver has it, and then it is nowhere in the outbox."""
    other.status = 500
    dispatcher = await dispatchers.make(a=webhook(receiver), b=webhook(other))
    await tell(dispatchers.vault, EventKind.FORGOTTEN, name=None, user_id="x|1", state="erased")
    await dispatcher.deliver_due(TENANTS)
    assert sql("SELECT user_id FROM outbox") == [{"user_id": "x|1"}]
    sql("UPDATE deliveries SET state = 'failed' WHERE webhook = 'b'")  # given up, and may be resent
    await outbox.redact_forgotten(dispatchers.vault)
    assert sql("SELECT user_id FROM outbox") == [{"user_id": "x|1"}]
    sql("UPDATE deliveries SET state = 'pending' WHERE webhook = 'b'")
    other.status = 200
    dispatchers.clock.pass_by(minutes=1)
    await dispatcher.deliver_due(TENANTS)
    assert [got.event["data"]["user_id"] for got in (*receiver.got, *other.got)] == ["x|1"] * 3
    assert sql("SELECT user_id FROM outbox") == [{"user_id": None}]


async def test_the_old_is_forgotten(dispatchers: Dispatchers, receiver: Receiver, sql: Sql) -> None:
    """Past its keeping time an event goes, with its deliveries, delivered or not."""
    receiver.status = 500
    dispatcher = await dispatchers.make(a=webhook(receiver))
    await tell(dispatchers.vault)
    await dispatcher.deliver_due(TENANTS)
    await outbox.delete_old(dispatchers.vault, before=datetime.now(UTC) - timedelta(days=1))
    assert states(sql) == ["pending"]
    await outbox.delete_old(dispatchers.vault, before=datetime.now(UTC) + timedelta(days=1))
    assert states(sql) == []
    assert sql("SELECT * FROM outbox") == []


async def test_a_forgotten_users_id_is_not_removed_before_it_is_queued(
    dispatchers: Dispatchers, receiver: Receiver, sql: Sql
) -> None:
    """A dispatcher that was away when the user was forgotten still tells every receiver whom."""
    dispatcher = await dispatchers.make(a=webhook(receiver))
    await tell(dispatchers.vault, EventKind.FORGOTTEN, name=None, user_id="x|1", state="erased")
    await outbox.redact_forgotten(dispatchers.vault)
    assert sql("SELECT user_id FROM outbox") == [{"user_id": "x|1"}]
    await dispatcher.deliver_due(TENANTS)
    assert [got.event["data"]["user_id"] for got in receiver.got] == ["x|1"]


async def test_each_delivery_is_a_span_that_names_no_user(
    dispatchers: Dispatchers, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the webhook, the event and how it ended; the receiver is sent no trace."""
    nowhere = webhook("http://127.0.0.1:1/hook?token=canary-of-a-query")
    with collecting_here(monkeypatch) as collector:
        receiver.answers = [204, 500]
        dispatcher = await dispatchers.make(a=webhook(receiver), b=nowhere)
        await tell(
            dispatchers.vault, EventKind.REAUTHORIZATION_REQUIRED, user_id="x|canary", times=2,
        )  # fmt: skip
        await dispatcher.deliver_due(TENANTS)
        traces.flush()
        until(lambda: len(collector.spans) >= 3, "the spans")
        told = [span.attributes for span in collector.spans if span.name == "POST webhook"]
    ended = [
        (each["token_vault.webhook"], each.get("http.response.status_code"), each.get("error.type"))
        for each in told
    ]
    assert sorted(ended, key=str) == [("a", 204, None), ("a", 500, "500"), ("b", None, "unreachable")]
    assert {str(each["token_vault.event"]) for each in told} >= {
        got.headers["webhook-id"] for got in receiver.got
    }
    assert told[0].items() >= {"token_vault.tenant": "default", "server.address": "127.0.0.1"}.items()
    assert b"canary" not in collector.content
    assert not any("traceparent" in got.headers for got in receiver.got)
