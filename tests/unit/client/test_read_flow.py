"""A read step by step: what is asked of the vault, in which order, and what comes of each answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.keys import ACCESS_KEY
from token_vault import read_flow
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import (
    AccessDenied,
    AmbiguousAccount,
    ConfigurationError,
    MissingScopes,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    TokenNotFound,
    VaultError,
)
from token_vault.keyring import KeyRing
from token_vault.read_flow import MAX_REJECTED_GRANTS, ReadFlow
from token_vault.read_model import (
    OF_REQUEST,
    REPORT_REJECTED,
    REQUEST_REFRESH,
    REQUEST_REFRESH_TARGET,
    SELECT_SERVED,
    SELECT_SERVED_HASHED,
    SELECT_SERVED_TARGET,
    SELECT_STATUS,
    GrantStatus,
    Served,
)
from token_vault.read_steps import Flow, Listen, NoteRead, Query, RecordRead, Step, Wait
from token_vault.secret import Secret
from token_vault.token import Token
from token_vault.token_cache import TokenCache
from token_vault.token_query import TokenQuery
from token_vault.token_target import DEFAULT_TARGET, TokenTarget

RING = KeyRing("access", [ACCESS_KEY])
NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BEGAN = 1000.0  # by the monotonic clock
QUERY = TokenQuery("c|1", "c", None, None, wait=5.0, request_id="r-1", reason="why")
RESOURCE = TokenTarget("https://x.example")
ACTIVE = GrantStatus("active", None, 0.0, 0.0, 0, False)
ASKED = Query(SELECT_SERVED, ("c|1", "c"))
ASKED_STATUS = Query(SELECT_STATUS, (7,))


def served(**changes: Any) -> Served:
    """A row with an hour of life; ``token`` None for one without."""
    values: dict[str, Any] = {
        "id": 7, "tenant": "default", "connection": "c", "user_id": "c|1", "provider_user_id": "1", "state": "active",
        "reason": None, "reason_since": None, "access_ciphertext": b"", "access_version": 3, "expires_at": NOW + HOUR,
        "scopes": ["read"], "obtained_at": NOW - HOUR, "obtained_from": "renewal", "last_read_at": None,
        "extra_ciphertext": None, "now": NOW, "resource": "", "scope": "", "refusal": None, "refusal_blame": None,
        "refused_at": None, "row_hash": None,
    } | changes  # fmt: skip
    row = Served(**values)
    if row.access_ciphertext is not None:
        row = row._replace(access_ciphertext=RING.encrypt(row.context, Secret("token")))
    return row


STALE = served(obtained_at=NOW - 4 * HOUR, expires_at=NOW - HOUR)


@dataclass
class World:
    """Answers a flow's steps, and keeps them.

    Attributes:
        rows, status: what the vault answers.
        on_wait: what happens while the flow waits, for a second at the most.
    """

    rows: Sequence[Served] = field(default_factory=lambda: [served()])
    status: GrantStatus | None = ACTIVE
    on_wait: Callable[[], object] | None = None
    on_listen: Callable[[], object] | None = None
    now: float = BEGAN
    steps: list[Step] = field(default_factory=list)

    def monotonic(self) -> float:
        """Tell this world's time."""
        return self.now

    def play(self, flow: Flow) -> Token:
        """Answer each step until there is a token."""
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                token: Token = end.value
                return token
            self.steps.append(step)
            answer = self._answer(step)

    def _answer(self, step: Step) -> Any:
        match step:
            case Query(statement=statement) if statement == SELECT_STATUS:
                return [] if self.status is None else [self.status]
            case Query(statement=statement) if "FROM served_tokens" in statement:
                return self.rows
            case Listen():
                if self.on_listen:
                    self.on_listen()
                return "wakeup"
            case Wait(seconds=seconds):
                self.now += seconds
                if self.on_wait:
                    self.on_wait()
        return None

    def asked(self) -> list[Step]:
        """All steps but the record."""
        return [step for step in self.steps if not isinstance(step, RecordRead)]

    def record(self) -> Any:
        """The record, which comes last."""
        [record] = [step.record for step in self.steps if isinstance(step, RecordRead)]
        return record


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(read_flow, "time", made)
    return made


def read(world: World, query: TokenQuery = QUERY, tenant: str | None = None) -> Token:
    return world.play(ReadFlow(RING, tenant).token(query))


# A token that is fresh


def test_a_fresh_token_takes_one_question(world: World) -> None:
    """The row is read, its token decrypted, and the read recorded."""
    token = read(world)
    assert (token.value, token.expires_at, token.scopes, token.extra) == ("token", NOW + HOUR, ("read",), {})
    assert (token.tenant, token.account, token.grant_id, token.access_version) == ("default", "1", 7, 3)
    assert token.target == DEFAULT_TARGET
    assert world.asked() == [ASKED]
    record = world.record()
    assert (record.user_id, record.connection, record.outcome) == ("c|1", "c", "served")
    assert (record.tenant, record.account, record.at) == ("default", "1", BEGAN)
    assert (record.request_id, record.reason) == ("r-1", "why")


@pytest.mark.parametrize(("days", "is_noted"), [(None, False), (0, False), (30, True)])
def test_a_read_is_noted_now_and_then(world: World, days: int | None, is_noted: bool) -> None:
    """If grants are renewed on read, a note of the read is made again once the last one is old."""
    world.rows = [served(last_read_at=None if days is None else NOW - timedelta(days=days))]
    read(world)
    assert world.asked() == [ASKED, NoteRead(7)] if is_noted else [ASKED]


def test_values_beside_the_token_are_decrypted(world: World) -> None:
    """What an API call needs beside the token comes with it."""
    row = served()
    extra = RING.encrypt(EncryptionContext.of_extra(row.key), Secret('{"instance_url": "https://x.example"}'))
    world.rows = [row._replace(extra_ciphertext=extra)]
    assert read(world).extra == {"instance_url": "https://x.example"}


def test_a_token_for_another_resource_is_asked_for_by_it(world: World) -> None:
    """The resource and the scopes are part of the query, and of the token."""
    target = TokenTarget("https://x.example", "a b")
    world.rows = [served(resource=target.resource, scope=target.scope)]
    token = read(world, QUERY._replace(target=target))
    assert token.target == target
    assert world.asked() == [Query(SELECT_SERVED_TARGET, (target.resource, target.scope, "c|1", "c"))]


@pytest.mark.parametrize(("scopes", "needs", "missing"), [
    (["a", "b"], ("b",), None), (["a"], ("b", "a", "c"), ("b", "c")), (None, ("b",), None), ([], (), None),
])  # fmt: skip
def test_missing_scopes_are_named(
    world: World, scopes: list[str] | None, needs: tuple[str, ...], missing: tuple[str, ...] | None
) -> None:
    """A token that lacks a needed scope is not served; where nobody said what it may do, it is."""
    world.rows = [served(scopes=scopes)]
    query = QUERY._replace(needs=needs)
    if missing is None:
        assert read(world, query).scopes == (None if scopes is None else tuple(scopes))
        return
    with pytest.raises(MissingScopes) as error:
        read(world, query)
    assert (error.value.granted, error.value.missing) == (tuple(scopes or ()), missing)
    assert world.record().outcome == "MissingScopes"


def test_a_token_is_kept_with_all_its_rows(world: World) -> None:
    """Where the reader has a cache the rows come with their hashes, and a later check compares all of them."""
    flow = ReadFlow(RING, None)
    flow.cache = TokenCache()
    world.rows = [served(row_hash=11), served(row_hash=12, id=8, provider_user_id="2")]
    world.play(flow.token(QUERY))
    assert world.asked() == [Query(SELECT_SERVED_HASHED, ("c|1", "c"))]
    check = flow.cache.begin_check()
    assert check is not None
    [(_, entry)] = check.entries
    assert (entry.token.value, sorted(map(str, entry.hashes))) == ("token", ["11", "12"])
    flow.record_rejected(entry.token)
    assert flow.cache.begin_check() is None


# Who is meant


def test_the_tenant_is_the_readers_own(world: World) -> None:
    """A reader of one tenant sees that tenant's rows; one of all of them has to be told which is meant."""
    world.rows = [served(tenant="a", id=8), served(tenant="b", id=9)]
    assert read(world, tenant="b").grant_id == 9
    with pytest.raises(ConfigurationError, match="name the tenant, by TokenVault"):
        read(world)
    with pytest.raises(TokenNotFound, match="the vault has no such token in tenant z"):
        read(world, tenant="z")


def test_the_account_is_the_one_that_was_named(world: World) -> None:
    """Of several accounts the named one is read, and its absence is told."""
    world.rows = [served(provider_user_id="1"), served(provider_user_id="2", id=8)]
    assert read(world, QUERY._replace(account="2")).grant_id == 8
    assert read(world).grant_id == 7
    with pytest.raises(TokenNotFound, match="no token of this account") as error:
        read(world, QUERY._replace(account="3"))
    assert (error.value.user_id, error.value.connection) == ("c|1", "c")


def test_an_account_that_only_ends_alike_is_not_the_primary_one(world: World) -> None:
    """The whole of what follows the bar names the primary identity's account."""
    query = QUERY._replace(user_id="c|21")
    world.rows = [served(provider_user_id="1"), served(provider_user_id="21", id=8)]
    assert read(world, query).grant_id == 8
    world.rows = [served(provider_user_id="1"), served(provider_user_id="3", id=8)]
    with pytest.raises(AmbiguousAccount) as error:
        read(world, query)
    assert error.value.accounts == ("1", "3")


@pytest.mark.parametrize("min_ttl", [-7200.0, 0.0])
def test_a_token_that_has_ended_is_served_to_nobody(world: World, min_ttl: float) -> None:
    """However little life is asked for, at the moment of its end too."""
    for row in (STALE, served(obtained_at=NOW - HOUR, expires_at=NOW)):
        world.rows = [row]
        with pytest.raises(TemporarilyUnavailable):
            read(world, QUERY._replace(min_ttl=min_ttl, wait=0.0))


def test_a_failed_read_is_recorded_too(world: World) -> None:
    """The record says which error it was, for whom, and what the caller gave."""
    world.rows = []
    with pytest.raises(TokenNotFound):
        read(world, QUERY._replace(account="3"), tenant="a")
    record = world.record()
    assert (record.outcome, record.tenant, record.account) == ("TokenNotFound", "a", "3")
    assert (record.request_id, record.reason) == ("r-1", "why")


def test_a_record_that_cannot_be_written_hides_no_error(world: World) -> None:
    """The caller gets the error that says why there is no token, not the audit's error."""
    flow = ReadFlow(RING, None).token(QUERY)
    flow.send(None)
    assert isinstance(flow.send([]), RecordRead)
    with pytest.raises(TokenNotFound):
        flow.throw(TemporarilyUnavailable("no audit", 1))


def test_a_token_is_not_served_unrecorded(world: World) -> None:
    """Where the record has to be written, its error is what the caller gets, with user and connection."""
    flow = ReadFlow(RING, None).token(QUERY)
    flow.send(None)
    assert isinstance(flow.send([served()]), RecordRead)
    with pytest.raises(TemporarilyUnavailable) as error:
        flow.throw(TemporarilyUnavailable("no audit", 1))
    assert (error.value.user_id, error.value.connection) == ("c|1", "c")


# A refresh


def test_a_refresh_is_asked_for_after_listening(world: World) -> None:
    """Nothing that happens between the first look and the request is missed."""
    world.rows = [STALE]
    world.on_wait = lambda: setattr(world, "rows", [served(access_version=4)])
    assert read(world).access_version == 4
    request = Query(REQUEST_REFRESH + OF_REQUEST, (7, None, 5.0, "r-1", None))
    assert world.asked() == [ASKED, ASKED_STATUS, Listen(7, 5.0), ASKED, request, Wait("wakeup", 2.0), ASKED]
    assert world.record().outcome == "served"


def test_a_refresh_that_has_just_ended_is_not_asked_for(world: World) -> None:
    """A token that came before the flow listened is served at once."""
    world.rows = [STALE]
    world.on_listen = lambda: setattr(world, "rows", [served(access_version=4)])
    assert read(world).access_version == 4
    assert world.asked() == [ASKED, ASKED_STATUS, Listen(7, 5.0), ASKED]


def test_a_request_without_a_name_has_no_more_than_it_needs(world: World) -> None:
    """Where the app gave no id the request is the plain statement."""
    world.rows = [STALE]
    with pytest.raises(TemporarilyUnavailable):
        read(world, QUERY._replace(request_id=None, min_ttl=60.0, wait=0.0))
    assert world.asked()[-1] == Query(REQUEST_REFRESH, (7, 60.0, 0.0))


def test_a_request_for_another_resource_names_it(world: World) -> None:
    """The resource follows the life and the wait."""
    world.rows = [served(resource=RESOURCE.resource, expires_at=NOW)]
    with pytest.raises(TemporarilyUnavailable):
        read(world, QUERY._replace(request_id=None, wait=0.0, target=RESOURCE))
    assert world.asked()[-1] == Query(REQUEST_REFRESH_TARGET, (7, None, 0.0, RESOURCE.resource, ""))


def test_the_rows_are_looked_at_until_the_wait_is_over(world: World) -> None:
    """A wakeup may get lost: each two seconds the rows are read, and the error says when to ask again."""
    world.rows, world.status = [STALE], ACTIVE._replace(next_renewal_in=30.0)
    with pytest.raises(TemporarilyUnavailable, match="no fresh token came in time") as error:
        read(world)
    waits = [step.seconds for step in world.steps if isinstance(step, Wait)]
    assert waits == [2.0, 2.0, 1.0]
    assert error.value.retry_after == 30.0


def test_without_a_wait_the_request_is_made_all_the_same(world: World) -> None:
    """Who does not wait is told to ask again soon."""
    world.rows = [STALE]
    with pytest.raises(TemporarilyUnavailable) as error:
        read(world, QUERY._replace(wait=0.0))
    assert not [step for step in world.steps if isinstance(step, Wait)]
    assert error.value.retry_after == 5.0


def test_an_endless_wait_is_a_day(world: World) -> None:
    """Statements and threads need a finite number."""
    world.rows, world.status = [STALE], ACTIVE._replace(attempts=1, next_renewal_in=9.0)
    with pytest.raises(TemporarilyUnavailable):
        read(world, QUERY._replace(wait=float("inf")))
    assert Listen(7, 86_400.0) in world.steps


@pytest.mark.parametrize("status", [
    ACTIVE._replace(attempts=1, next_renewal_in=9.0), ACTIVE._replace(blocked_for=9.0),
])  # fmt: skip
def test_nobody_waits_for_what_cannot_come(world: World, status: GrantStatus) -> None:
    """Once the attempt has failed, or its provider is away, the wait ends."""
    world.rows = [STALE]
    world.on_wait = lambda: setattr(world, "status", status)
    with pytest.raises(TemporarilyUnavailable) as error:
        read(world)
    assert world.now == BEGAN + 2.0
    assert error.value.retry_after == status.seconds_to_retry


def test_the_account_that_was_found_stays_the_one_that_is_meant(world: World) -> None:
    """A second account that comes while the flow waits makes nothing ambiguous."""
    query = QUERY._replace(user_id="auth0|9")
    other = served(provider_user_id="2", id=8, user_id="auth0|9")
    mine = STALE._replace(user_id="auth0|9")
    world.rows = [mine]
    world.on_wait = lambda: setattr(world, "rows", [other, served(user_id="auth0|9", access_version=4)])
    token = read(world, query)
    assert (token.grant_id, token.access_version) == (7, 4)


# What no refresh helps


@pytest.mark.parametrize("when", ["at first", "while it waits"])
@pytest.mark.parametrize(
    ("row", "status", "min_ttl", "error", "says"),
    [
        (
            STALE._replace(state="reauthorization_required", reason="gone", reason_since=NOW),
            ACTIVE._replace(state="reauthorization_required"), None, ReauthorizationRequired,
            r"consent again \(gone, since 2026-03-15",
        ),
        (
            STALE._replace(state="reauthorization_required"), ACTIVE._replace(state="reauthorization_required"), None,
            ReauthorizationRequired, r"consent again \(unknown\)",
        ),
        (STALE, ACTIVE._replace(state="unrenewable", reason="no_refresh_token"), None, TokenExpired, "no_refresh_token"),
        (STALE, ACTIVE._replace(state="expired"), None, TokenExpired, r"cannot be renewed \(expired\)"),
        (STALE, ACTIVE._replace(state="erased"), None, TokenNotFound, "no such token"),
        (STALE, ACTIVE._replace(state="paused", blocked_for=90.0), None, TemporarilyUnavailable, "token-vault resume"),
        (STALE, ACTIVE._replace(state="blocked", reason="invalid_client", blocked_for=90.0), None, TemporarilyUnavailable,
         r"blocked \(invalid_client\)"),
        (served(expires_at=None), ACTIVE, 60.0, TokenExpired, "nobody knows when this token ends"),
        (served(expires_at=None, obtained_from="auth0"), ACTIVE._replace(state="unrenewable"), 60.0, TokenExpired,
         "nobody knows when this token ends"),
        (served(), ACTIVE, 7200.0, TokenExpired, r"live 7200 s, no longer than the 7200 s asked for"),
        (STALE, None, None, TokenNotFound, "no such token"),
    ],
)  # fmt: skip
def test_what_no_refresh_helps_is_told(
    world: World,
    when: str,
    row: Served,
    status: GrantStatus | None,
    min_ttl: float | None,
    error: type[VaultError],
    says: str,
) -> None:
    """The error says who has to act, whether that was known before or is found while the flow waits."""

    def happen() -> None:
        world.rows, world.status = [row], status

    if when == "at first":
        happen()
    else:
        world.rows, world.on_wait = [STALE], happen
    with pytest.raises(error, match=says) as found:
        read(world, QUERY._replace(min_ttl=min_ttl))
    if isinstance(found.value, TemporarilyUnavailable):
        assert found.value.retry_after == 90.0
    assert world.now == (BEGAN if when == "at first" else BEGAN + 2.0)


@pytest.mark.parametrize(("state", "seconds"), [("paused", 60.0), ("blocked", 1.0)])
def test_a_stop_without_an_end_is_asked_about_again(world: World, state: str, seconds: float) -> None:
    """Where nobody knows when a pause or a circuit ends, the caller is told a time all the same."""
    world.rows, world.status = [STALE], ACTIVE._replace(state=state)
    with pytest.raises(TemporarilyUnavailable) as error:
        read(world)
    assert error.value.retry_after == seconds


@pytest.mark.parametrize(
    ("row", "min_ttl"),
    [
        (served(), 7199.0),  # lives 7200 s
        (served(obtained_from="auth0"), 7200.0),
        (served(obtained_at=None), 7200.0),
        (served(expires_at=None, obtained_from="auth0"), 60.0),
        (served(expires_at=None, obtained_from="auth0", state="in_doubt"), None),
    ],
)
def test_what_a_refresh_may_help_is_asked_for(world: World, row: Served, min_ttl: float | None) -> None:
    """A token that is too old, or of which nobody knows how old, is renewed."""
    world.rows = [row]
    with pytest.raises(TemporarilyUnavailable, match="in time"):
        read(world, QUERY._replace(min_ttl=min_ttl, wait=0.0))


@pytest.mark.parametrize("state", ["unrenewable", "expired"])
@pytest.mark.parametrize("min_ttl", [None, 0.0])
def test_a_token_without_an_end_is_served_where_nothing_renews_it(
    world: World, state: str, min_ttl: float | None
) -> None:
    """Better a token of unknown age than none; who wants a life of it is refused."""
    world.rows, world.status = [served(expires_at=None, obtained_from="auth0")], ACTIVE._replace(state=state)
    assert read(world, QUERY._replace(min_ttl=min_ttl)).expires_at is None
    with pytest.raises(TokenExpired):
        read(world, QUERY._replace(min_ttl=1.0))
    world.rows = [served(expires_at=None, obtained_from="auth0", access_ciphertext=None)]
    with pytest.raises(TokenExpired):
        read(world, QUERY._replace(min_ttl=min_ttl))


@pytest.mark.parametrize("when", ["at first", "while it waits"])
@pytest.mark.parametrize(
    ("refusal", "blame", "error", "says"),
    [
        (
            "consent_required",
            "user",
            ReauthorizationRequired,
            r"consent to .*x\.example.* \(consent_required\)",
        ),
        ("x", "denied", AccessDenied, r"setting resources does not name .*x\.example"),
        (
            "invalid_target",
            "operator",
            ConfigurationError,
            r"gives no token for .*x\.example.* \(invalid_target\)",
        ),
        (None, "operator", ConfigurationError, r"\(unknown\)"),
    ],
)
def test_a_refused_resource_is_told(
    world: World, when: str, refusal: str | None, blame: str, error: type[VaultError], says: str
) -> None:
    """For a minute after a refusal nobody asks again, and the error says who has to act."""
    row = served(resource=RESOURCE.resource, expires_at=NOW)
    refused = row._replace(refusal=refusal, refusal_blame=blame, refused_at=NOW - timedelta(seconds=59))
    if when == "at first":
        world.rows = [refused]
    else:
        world.rows, world.on_wait = [row], lambda: setattr(world, "rows", [refused])
    with pytest.raises(error, match=says):
        read(world, QUERY._replace(target=RESOURCE))
    assert world.now == (BEGAN if when == "at first" else BEGAN + 2.0)


# Rejected tokens


def token_of(row: Served) -> Token:
    return World([row]).play(ReadFlow(RING, None).token(QUERY))


def test_a_rejected_token_is_not_served_again_for_a_minute(world: World) -> None:
    """Whoever reads gets the next one, or waits for it; other tokens of the grant are as good as before."""
    flow = ReadFlow(RING, None)
    row = served()
    assert flow.record_rejected(token_of(row)) == Query(REPORT_REJECTED, (7, 3))
    with pytest.raises(TemporarilyUnavailable):
        world.play(flow.token(QUERY._replace(wait=0.0)))
    world.rows = [served(access_version=4)]
    assert world.play(flow.token(QUERY)).access_version == 4
    world.rows = [served(id=8)]
    assert world.play(flow.token(QUERY)).grant_id == 8
    world.rows = [served(resource=RESOURCE.resource)]
    assert world.play(flow.token(QUERY._replace(target=RESOURCE))).target == RESOURCE
    world.rows, world.now = [row], world.now + 59.9
    with pytest.raises(TemporarilyUnavailable):
        world.play(flow.token(QUERY._replace(wait=0.0)))
    world.now += 0.1
    assert world.play(flow.token(QUERY)).access_version == 3


def test_a_rejected_token_without_an_end_is_not_served_either(world: World) -> None:
    """Where nobody renews it there is none any more."""
    world.rows, world.status = (
        [served(expires_at=None, obtained_from="auth0")],
        ACTIVE._replace(state="unrenewable"),
    )
    flow = ReadFlow(RING, None)
    flow.record_rejected(world.play(flow.token(QUERY)))
    with pytest.raises(TokenExpired):
        world.play(flow.token(QUERY))


@pytest.mark.parametrize(("ends", "life"), [(None, 0.0), (-HOUR, 0.0), (HOUR, 3600.0)])
def test_a_rejected_token_for_a_resource_is_wished_for_anew(
    world: World, ends: timedelta | None, life: float
) -> None:
    """More life is asked for than the rejected token had left."""
    expires_at = None if ends is None else datetime.now(UTC) + ends
    token = Token(
        "t", expires_at, None, tenant="default", account="1", grant_id=7, access_version=3, target=RESOURCE
    )
    query = ReadFlow(RING, None).record_rejected(token, "r-2")
    assert query.statement == REQUEST_REFRESH_TARGET + OF_REQUEST
    assert query.values[1] == pytest.approx(life + 60.0, abs=30)
    assert (query.values[0], *query.values[2:]) == (7, 60.0, RESOURCE.resource, "", "r-2", None)


@pytest.mark.parametrize("missing", ["grant_id", "access_version"])
def test_only_a_readers_token_can_be_rejected(world: World, missing: str) -> None:
    """A token that was made by hand belongs to no grant."""
    known = {"grant_id": 7, "access_version": 3} | {missing: None}
    token = Token("t", None, None, tenant=None, account=None, **known)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not come from a reader"):
        ReadFlow(RING, None).record_rejected(token)


def test_rejected_tokens_take_no_memory_without_end(world: World) -> None:
    """Beyond ten thousand grants all are forgotten, and a rejection is remembered until then."""
    flow = ReadFlow(RING, None)
    token = token_of(served())
    for number in range(MAX_REJECTED_GRANTS):
        flow._rejected[number + 100, DEFAULT_TARGET] = (1, BEGAN)
    flow.record_rejected(token)
    assert [*flow._rejected] == [(7, DEFAULT_TARGET)]
    for number in range(MAX_REJECTED_GRANTS - 2):
        flow._rejected[number + 100, DEFAULT_TARGET] = (1, BEGAN)
    flow.record_rejected(token_of(served(id=8)))
    assert len(flow._rejected) == MAX_REJECTED_GRANTS
    assert MAX_REJECTED_GRANTS == 10_000
