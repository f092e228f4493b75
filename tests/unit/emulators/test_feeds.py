"""The emulated tenant tells of what happens as Auth0 does: by log, by event stream, by export."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from emulators.client import Emulation, running
from tests.unit.emulators.test_tenant import ALL, Api

Json = dict[str, Any]
DAY = 86_400


@pytest.fixture(scope="module")
def process() -> Iterator[Emulation]:
    with running() as emulation:
        yield emulation


@pytest.fixture
def tenant(process: Emulation) -> Emulation:
    process.reset()
    process.configure_tenant(management_token_life=30 * DAY, scopes=[*ALL, "read:logs", "read:events"])
    process.add_connection("google-oauth2", "google-oauth2", "google")
    process.add_connection("partner", "oauth2", "custom")
    process.set_clock(process.now())
    return process


@pytest.fixture
def api(tenant: Emulation) -> Api:
    return Api(tenant)


def following(answer: httpx.Response) -> httpx.URL:
    """The address that the Link header calls next."""
    return httpx.URL(answer.links["next"]["url"])


# The log


def test_the_log_by_checkpoint(tenant: Emulation, api: Api) -> None:
    """Following the Link header meets every entry once, in order; an empty page gives the same link."""
    tenant.add_users("partner", 25)
    answer = api.get("/logs", take=10)
    seen: list[str] = []
    while answer.json():
        assert len(answer.json()) <= 10
        seen += [entry["log_id"] for entry in answer.json()]
        answer = tenant.http.get(following(answer), headers=api.headers)
    assert len(seen) == 25
    assert seen == sorted(set(seen))
    assert following(answer).params["from"] == seen[-1]
    again = tenant.http.get(following(answer), headers=api.headers)
    assert following(again) == following(answer)
    tenant.login("oauth2|partner|partner-0")
    news = tenant.http.get(following(answer), headers=api.headers).json()
    assert [entry["type"] for entry in news] == ["s", "seacft"]
    assert news[0]["user_id"] == "oauth2|partner|partner-0"
    assert news[0]["connection"] == "partner"


def test_the_newest_entry(tenant: Emulation, api: Api) -> None:
    """Sorted by date downwards, the first entry is the checkpoint to begin with; totals count what matches."""
    [user_id] = tenant.add_users("partner", 1)
    tenant.login(user_id)
    newest = tenant.write_log("fp", user_id=user_id)
    [entry] = api.get("/logs", sort="date:-1", per_page=1, page=0).json()
    assert entry["log_id"] == newest["log_id"]
    assert api.get("/logs", take=5, **{"from": newest["log_id"]}).json() == []
    logins = api.get("/logs", q="type:s OR type:ss", include_totals="true", per_page=1).json()
    assert (logins["total"], logins["length"]) == (2, 1)
    assert api.get("/logs", per_page=100, page=10).json()["errorCode"] == "invalid_paging"


def test_a_native_login(tenant: Emulation, api: Api) -> None:
    """A native social login is an entry of its own type, and brings tokens like any other."""
    [user_id] = tenant.add_users("partner", 1)
    shown = tenant.login(user_id, log_type="sens")
    assert [entry["type"] for entry in api.get("/logs", take=9).json()] == ["ss", "sens"]
    assert api.user(user_id)["identities"][0]["access_token"] == shown["access_token"]


def test_the_log_needs_its_scope(tenant: Emulation) -> None:
    """Without read:logs, read:events or read:stats the feeds and the counts are forbidden."""
    tenant.set_scopes(ALL)
    api = Api(tenant)
    for path, scope in (("/logs", "read:logs"), ("/events", "read:events"), ("/stats/daily", "read:stats")):
        answer = api.get(path)
        assert answer.status_code == 403
        assert answer.json()["message"].endswith(scope)


def test_logins_by_day(tenant: Emulation) -> None:
    """The logins and sign-ups of each day are counted, of those days that are asked for."""
    tenant.set_scopes([*ALL, "read:stats"])
    tenant.set_clock(1_767_225_600 - 1)  # the last second of 2025, UTC
    [user_id] = tenant.add_users("partner", 1)
    tenant.login(user_id)
    tenant.advance(1)
    tenant.login(user_id)
    tenant.login(user_id)
    api = Api(tenant)
    days = api.get("/stats/daily", **{"from": "20251231", "to": "20260101"}).json()
    assert [(day["date"][:10], day["logins"], day["signups"]) for day in days] == [
        ("2025-12-31", 1, 1), ("2026-01-01", 2, 0),
    ]  # fmt: skip
    assert [
        day["logins"] for day in api.get("/stats/daily", **{"from": "20260101", "to": "20260101"}).json()
    ] == [2]


def test_the_log_is_late_and_forgets(tenant: Emulation, api: Api) -> None:
    """An entry shows after the delay and is gone after the retention, with or without a word."""
    tenant.set_log(delay=5, retention=DAY)
    old = tenant.write_log("s", user_id="a")["log_id"]
    assert api.get("/logs", take=1).json() == []
    tenant.advance(5)
    assert [entry["user_id"] for entry in api.get("/logs", take=1).json()] == ["a"]
    tenant.advance(DAY)
    tenant.write_log("s", user_id="b")
    tenant.advance(5)
    answer = api.get("/logs", **{"from": old})
    assert [entry["user_id"] for entry in answer.json()] == ["b"]
    tenant.set_log(retention=DAY, gone="400")
    assert api.get("/logs", **{"from": old}).status_code == 400
    assert api.get("/logs", **{"from": answer.json()[0]["log_id"]}).status_code == 200
    assert api.get("/logs", **{"from": "nonsense"}).status_code == 400


def test_what_the_log_says(tenant: Emulation, api: Api) -> None:
    """Links and unlinks are management writes that name users in their request alone; no token is told."""
    [google] = tenant.add_users("google-oauth2", 1)
    [partner] = tenant.add_users("partner", 1)
    tenant.link(google, partner)
    tenant.unlink(google, "partner")
    tenant.delete_user(partner)
    entries = api.get("/logs", take=100).json()
    assert [entry["type"] for entry in entries] == ["ss", "ss", "sapi", "sapi", "sapi", "sdu"]
    link, unlink, delete = (entry["details"]["request"] for entry in entries[2:5])
    subject = partner.partition("|")[2]
    assert (link["method"], link["path"]) == ("post", f"/api/v2/users/{quote(google, safe='')}/identities")
    assert link["body"] == {"provider": "oauth2", "user_id": subject}
    assert unlink["path"].endswith(f"/identities/oauth2/{quote(subject, safe='')}")
    assert (delete["method"], delete["path"]) == ("delete", f"/api/v2/users/{quote(partner, safe='')}")
    assert entries[5]["user_id"] == partner
    assert all("user_id" not in entry for entry in entries[2:5])
    assert "cust_" not in json.dumps(entries)


# The event stream


class Stream:
    """Messages of an open stream, each as its fields; a comment is under ""."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def message(self) -> Json:
        found: Json = {}
        for line in self._lines:
            if not line and found:
                return found
            name, _, value = line.partition(":")
            if line:
                found[name] = value.strip()
        return found

    def event(self) -> Json:
        """The next message that is an event, its data read; {} at the end."""
        while message := self.message():
            if "event" in message:
                return {**message, "data": json.loads(message["data"])}
        return {}


@contextmanager
def stream(api: Api, mark: str | None = None, **params: Any) -> Iterator[Stream]:
    headers = {**api.headers, **({} if mark is None else {"last-event-id": mark})}
    # What never comes ends in an error instead of a test that hangs.
    opened = api.tenant.http.stream("GET", "/api/v2/events", params=params, headers=headers, timeout=10)
    with opened as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


def test_events_are_told_at_once(tenant: Emulation, api: Api) -> None:
    """An open stream tells of users that come, change and go, without tokens."""
    [user_id, other] = tenant.add_users("partner", 2)
    tenant.set_events(on_login=True)
    with stream(api) as opened:
        assert opened.message() == {"": "connected"}
        assert opened.message() == {"retry": "1000"}
        tenant.login(user_id)
        tenant.link(user_id, other)
        tenant.unlink(user_id, "partner")
        tenant.delete_user(user_id)
        events = [opened.event() for _ in range(6)]
    told = [(each["event"], each["data"]["event"]["data"]["object"]["user_id"]) for each in events]
    assert told == [
        ("user.updated", user_id),
        ("user.deleted", other),
        ("user.updated", user_id),
        ("user.updated", user_id),
        ("user.created", other),
        ("user.deleted", user_id),
    ]
    assert events[0]["data"]["offset"] == events[0]["id"]
    assert "cust_" not in json.dumps(events)


def test_a_stream_is_resumed(tenant: Emulation, api: Api) -> None:
    """Who comes back with the last id, in the header or as `from`, misses nothing; the header wins."""
    tenant.add_users("partner", 1)
    with stream(api) as opened:
        tenant.add_users("partner", 3)
        first = opened.event()
    with stream(api, mark=first["id"]) as opened:
        second = opened.event()
    with stream(api, mark=first["id"], **{"from": second["id"]}) as opened:
        assert opened.event()["id"] == second["id"]
    with stream(api, **{"from": second["id"]}) as opened:
        third = opened.event()
    assert len({first["id"], second["id"], third["id"]}) == 3


def test_an_offset_too_old(tenant: Emulation, api: Api) -> None:
    """An offset beyond the retention is gone; one that is none is a bad request."""
    tenant.set_events(retention=3600)
    with stream(api) as opened:
        tenant.add_users("partner", 2)
        mark = opened.event()["id"]
    tenant.advance(3601)
    gone = api.get("/events", **{"from": mark})
    assert (gone.status_code, gone.json()["error"]) == (410, "Gone")
    assert api.get("/events", **{"from": "nonsense"}).status_code == 400
    assert api.get("/events", event_type="user.flew").status_code == 400


def test_streams_end(tenant: Emulation, api: Api) -> None:
    """A stream shows signs of life by the clock, carries its offset past other events, and is recycled."""
    with stream(api, event_type="user.deleted") as opened:
        assert opened.message() == {"": "connected"}
        opened.message()
        tenant.advance(15)
        assert opened.message() == {"": "keep-alive"}
        tenant.add_users("partner", 1)
        tenant.advance(16)
        message = opened.event()
        assert (message["event"], message["data"]["type"]) == ("offset-only", "offset-only")
        tenant.advance(300)
        while opened.message():
            pass
    with stream(api) as opened:
        tenant.close_event_streams()
        assert opened.event() == {}


def test_duplicates_and_disorder(tenant: Emulation, api: Api) -> None:
    """Events can come twice and out of order, under new offsets, and none is lost."""
    tenant.set_events(duplicates=0.5, disorder=0.5)
    with stream(api) as opened:
        opened.message()
        made = tenant.add_users("partner", 20)
        tenant.close_event_streams()
        first = opened.event()
    with stream(api, mark=first["id"]) as opened:
        tenant.advance(1)
        told = [first] + [opened.event() for _ in range(19)]
    names = [each["data"]["event"]["data"]["object"]["user_id"] for each in told]
    assert len({each["id"] for each in told}) == 20
    assert len(set(names)) < 20
    unique = list(dict.fromkeys(names))
    assert unique != sorted(unique, key=made.index)


# The export


def order(api: Api, **body: Any) -> httpx.Response:
    return api.tenant.http.post("/api/v2/jobs/users-exports", json=body, headers=api.headers)


def test_an_export(tenant: Emulation, api: Api) -> None:
    """A job becomes a file of all users as they were when it was ordered, without tokens."""
    [first, second] = tenant.add_users("partner", 2)
    job = order(api, format="json", fields=[{"name": "user_id"}, {"name": "identities[0].connection"}]).json()
    assert (job["status"], job["type"]) == ("pending", "users_export")
    tenant.delete_user(second)
    tenant.advance(6)
    assert api.get(f"/jobs/{job['id']}").json()["status"] == "processing"
    tenant.advance(5)
    done = api.get(f"/jobs/{job['id']}").json()
    assert done["status"] == "completed"
    file = tenant.http.get(done["location"])
    lines = [json.loads(line) for line in gzip.decompress(file.content).splitlines()]
    assert [line["user_id"] for line in lines] == [first, second]
    assert lines[0]["identities[0].connection"] == "partner"
    assert tenant.http.get(done["location"], headers=api.headers).status_code == 400
    tenant.advance(61)
    assert tenant.http.get(done["location"]).status_code == 403
    fresh = api.get(f"/jobs/{job['id']}").json()["location"]
    tenant.set_export(encoding="header")
    assert tenant.http.get(fresh).text.count("\n") == 2
    tenant.advance(DAY)
    assert api.get(f"/jobs/{job['id']}").status_code == 404


def test_exports_of_a_connection(tenant: Emulation, api: Api) -> None:
    """An export can be of one connection, and shows identities without their tokens."""
    tenant.add_users("partner", 1)
    [user_id] = tenant.add_users("google-oauth2", 1)
    tenant.set_export(seconds=0)
    job = order(api, connection_id=tenant.connection("google-oauth2")["id"]).json()
    file = tenant.http.get(api.get(f"/jobs/{job['id']}").json()["location"])
    [line] = gzip.decompress(file.content).splitlines()
    user = json.loads(line)
    assert user["user_id"] == user_id
    assert user["identities"][0]["connection"] == "google-oauth2"
    assert "token" not in line.decode()


def test_exports_fail(tenant: Emulation, api: Api) -> None:
    """A job can fail; an order that makes no sense is refused."""
    tenant.set_export(seconds=0, fails=True)
    job = order(api).json()
    assert api.get(f"/jobs/{job['id']}").json()["status"] == "failed"
    assert order(api, colour="blue").status_code == 400
    assert order(api, connection_id="con_0000000000000000").status_code == 404
    assert api.get("/jobs/job_0").status_code == 404
