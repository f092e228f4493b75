"""Claim, call and commit, in any order.

The functions are the real ones, on a real Postgres; only time and the provider are the test's own.
``make soak`` explores more: ``PROTOCOL_EXAMPLES=2000 pytest tests/faults/test_protocol.py``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import dict_row

from tests.support.histories import EPOCH
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.renewals import opened
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker import providers
from worker.providers import RefusalBlame, Refused
from worker.renewal.commit import AnswerCommitter
from worker.renewal.engine import CLAIM_TIME
from worker.renewal.evidence import Judgement, suspicion_of
from worker.renewal.http import CALL_SECONDS
from worker.renewal.outcome import NOTHING_TO_SPEND, Outcome, decide, wait_in_doubt
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import Claim
from worker.vault.claims.spool import Spool
from worker.vault.ingest import ingest
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.schedule import EAGER
from worker.vault.vault import Vault, open_vault

T = TypeVar("T")
LIFE = timedelta(hours=1)
STRICT = providers.get("bitbucket")  # rotates, forgives nothing
INVALID = Refused(RefusalBlame.USER, "invalid_grant")
NO_ANSWER = Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True)


@dataclass
class StrictProvider:
    """Takes each refresh token once; reuse ends its family."""

    now: datetime = EPOCH
    families: int = 0
    live: set[str] = field(default_factory=set)
    known: dict[str, int] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    double_spends: int = 0

    def login(self) -> TokenPair:
        """Begin a family."""
        self.families += 1
        return self._issue(self.families, 0)

    def redeem(self, refresh: str, *, in_doubt: bool) -> TokenPair | Refused:
        """Renew, by the strictest rules."""
        if refresh in self.spent:
            self.double_spends += not in_doubt
            self.live = {token for token in self.live if self.known[token] != self.known[refresh]}
            return INVALID
        if refresh not in self.live:
            return INVALID
        self.live.discard(refresh)
        self.spent.add(refresh)
        _, family, renewal = refresh.split("-")
        return self._issue(int(family), int(renewal) + 1)

    def _issue(self, family: int, renewal: int) -> TokenPair:
        refresh = f"refresh-{family}-{renewal}"
        self.live.add(refresh)
        self.known[refresh] = family
        access = Secret(f"access-{family}-{renewal}")
        return TokenPair(access, Secret(refresh), expires_at=self.now + LIFE)


@dataclass
class Attempt:
    """One worker's work on one claim."""

    claim: Claim
    sent_at: datetime | None = None
    answer: TokenPair | Refused | None = None


class Protocol(RuleBasedStateMachine):
    """One grant, and everything that can happen to it."""

    vault: ClassVar[Vault]
    runner: ClassVar[asyncio.Runner]
    connection: ClassVar[psycopg.Connection[dict[str, Any]]]
    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.provider, self.now, self.user = StrictProvider(), EPOCH, "u|1"
        self.attempts: list[Attempt] = []
        self.erased = False
        self.versions, self.age = (0, 0), (0, 0)
        self.spool = Spool(self.folder / uuid4().hex, self.vault.refresh)
        self.spool.check()
        self.storing = AnswerCommitter(self.vault, self.spool, lambda: 0.5)
        self.connection.execute("TRUNCATE grants, connections RESTART IDENTITY CASCADE")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one of the vault's functions to its end."""
        return self.runner.run(work)

    def row(self) -> dict[str, Any]:
        """Read the grant."""
        [row] = self.connection.execute("SELECT * FROM grants").fetchall()
        return row

    @initialize()
    def first_login(self) -> None:
        """The user signs in for the first time."""
        self.show(self.login())

    def show(self, pair: TokenPair) -> None:
        """Let Auth0 show this, and the vault look."""
        shown = IncomingGrant(
            GrantKey("default", "c", self.user, "1"),
            "bitbucket",
            pair,
            updated_at=self.now,
            issued_at=self.now,
        )
        self.run(ingest.ingest(self.vault, [shown], now=self.now))

    # The rules are few, with much to choose in each: hypothesis leaves some rules out of every example.

    @rule(
        wait=st.sampled_from(["not at all", "until it is due", "until the claim runs out"]),
        who=st.sampled_from(
            ["a batch", "a batch", "an app", "an app by force", "the operator", "the operator"]
        ),
        call=st.sampled_from(["carried out", "carried out", "lost on its way", "not yet sent"]),
    )
    def a_worker_comes(self, wait: str, who: str, call: str) -> None:
        """A worker claims the grant, and presents its token or stalls."""
        row = self.row()
        moment = row["due_at"] if wait == "until it is due" else row["claim_until"]
        if wait != "not at all" and moment is not None:
            self.move(max(self.now, moment))
        for attempt in self.claimed(who):
            if call != "not yet sent":
                self.send(attempt, carried_out=call == "carried out")

    @precondition(lambda self: bool(self.attempts))
    @rule(
        number=st.integers(0, 9),
        carried_out=st.sampled_from([True, True, False]),
        end=st.sampled_from(["answered", "answered", "answered", "lost", "spooled", "dead"]),
    )
    def a_call_goes_on(self, number: int, carried_out: bool, end: str) -> None:
        """A call proceeds: its answer comes, is lost or is spooled."""
        attempt = self.attempts[number % len(self.attempts)]
        if end == "dead":
            self.attempts.remove(attempt)
        elif attempt.sent_at is None:
            self.send(attempt, carried_out=carried_out)
        elif end == "spooled" and isinstance(attempt.answer, TokenPair):
            self.attempts.remove(attempt)
            due_at = attempt.sent_at + LIFE / 2
            self.spool.save(attempt.claim, attempt.answer, obtained_at=attempt.sent_at, due_at=due_at)
        else:
            self.answer(attempt, lost=end == "lost")

    @rule(seconds=st.sampled_from([1, 30, 100, 161, 600, 3500]))
    def time_passes(self, seconds: int) -> None:
        self.move(self.now + timedelta(seconds=seconds))

    @precondition(lambda self: bool(self.spool.list_answers()))
    @rule()
    def spool_is_replayed(self) -> None:
        self.run(self.storing.replay())

    @rule(what=st.sampled_from(["login", "silent login", "old copy", "link", "forgotten"]))
    def something_happens_at_auth0(self, what: str) -> None:
        self.move(self.now + timedelta(seconds=1))
        match what:
            case "login":
                self.erased = False
                self.show(self.login())
            case "silent login":
                access = Secret(f"silent-{self.now.timestamp()}")
                self.show(TokenPair(access, None, expires_at=self.now + LIFE))
            case "old copy":
                self.show(self.shown)
            case "link":
                self.user = "u|2" if self.user == "u|1" else "u|1"
                self.show(self.shown)
            case "forgotten":
                self.forget()

    # What they are made of

    def move(self, at: datetime) -> None:
        """Let the time be this one."""
        self.now = self.provider.now = at

    def login(self) -> TokenPair:
        """Let the user sign in, which Auth0 then shows."""
        self.shown = self.provider.login()
        return self.shown

    def claimed(self, who: str) -> list[Attempt]:
        """Claim as the engine does, waiting with a token in doubt."""
        until, owner, by_operator = self.now + CLAIM_TIME, uuid4(), who == "the operator"
        if who == "a batch":
            quotas = {("default", "c"): 5}
            found = self.run(
                claims.claim_due(self.vault, quotas, owner=owner, now=self.now, until=until, limit=5)
            )
        else:
            one = claims.claim_one(
                self.vault, self.row()["id"], owner=owner, now=self.now, until=until,
                force=who != "an app", by_operator=by_operator,
            )  # fmt: skip
            found = [claim] if (claim := self.run(one)) else []
        begun = []
        for claim in found:
            waiting = None if by_operator else wait_in_doubt(claim, STRICT, now=self.now)
            if waiting:
                self.run(claims.release(self.vault, claim, **waiting.columns))
            else:
                begun.append(Attempt(claim))
        self.attempts += begun
        return begun

    def send(self, attempt: Attempt, *, carried_out: bool) -> None:
        """Present the token as the engine does, if in time."""
        claim = attempt.claim
        doubted = claim.in_doubt_since is not None
        late = self.now + timedelta(seconds=CALL_SECONDS) >= claim.until
        if late or (doubted and not self.run(claims.is_held(self.vault, claim))):
            self.attempts.remove(attempt)
            self.run(claims.release_unspent(self.vault, [claim], due_at=self.now))
            return
        refresh = claims.decrypt_refresh_token(self.vault, claim)
        if refresh is None:  # a silent login after an erasure
            self.attempts.remove(attempt)
            self.run(claims.release(self.vault, claim, **NOTHING_TO_SPEND.columns))
            return
        attempt.sent_at = self.now
        attempt.answer = NO_ANSWER
        if carried_out:
            # A dead grant's token is presented by force alone, after its loss was told.
            told = doubted or claim.state == "reauthorization_required"
            attempt.answer = self.provider.redeem(refresh.reveal(), in_doubt=told)

    def answer(self, attempt: Attempt, *, lost: bool) -> None:
        """Commit the answer, or its loss, as the engine does."""
        self.attempts.remove(attempt)
        answer = NO_ANSWER if lost or attempt.answer is None else attempt.answer
        if isinstance(answer, TokenPair):
            assert attempt.sent_at is not None
            self.run(self.storing.store(attempt.claim, answer, sent_at=attempt.sent_at, policy=EAGER))
            return
        judgement = Judgement(suspicion_of(answer, client_is_proven=True))
        decision = decide(
            answer, attempt.claim, STRICT, judgement=judgement, client=None, now=self.now, jitter=0.5
        )
        released = self.run(claims.release(self.vault, attempt.claim, **decision.columns))
        if not released and decision.outcome is Outcome.LOST:
            self.run(claims.mark_reused(self.vault, attempt.claim, now=self.now))

    def forget(self) -> None:
        """Erase the user."""
        self.erased = True
        self.connection.execute(
            "UPDATE grants SET state = 'erased', reason = NULL, access_ciphertext = NULL, refresh_ciphertext = NULL,"
            " due_at = NULL, claim_owner = NULL, claimed_at = NULL, claim_until = NULL, in_doubt_since = NULL"
        )
        self.age = (self.provider.families, 0)

    @invariant()
    def each_token_is_presented_once(self) -> None:
        """A spent refresh token comes again only in doubt."""
        assert self.provider.double_spends == 0

    @invariant()
    def nothing_gets_older_or_lost(self) -> None:
        """Versions rise; a stored token is live or in doubt."""
        if not self.provider.families:
            return
        row = self.row()
        versions = (row["access_version"], row["refresh_version"])
        assert versions[0] >= self.versions[0]
        assert versions[1] >= self.versions[1]
        self.versions = versions
        if self.erased:
            return
        held = opened(self.vault, row).refresh
        if held is None and row["state"] in ("erased", "unrenewable"):
            return  # a silent login after an erasure brings no refresh token
        assert held is not None
        _, family, renewal = held.split("-")
        assert (int(family), int(renewal)) >= self.age
        self.age = (int(family), int(renewal))
        told = (
            row["state"] in ("in_doubt", "reauthorization_required")
            or row["in_doubt_since"]
            or row["claim_owner"]
        )
        if not told and not self.attempts and not self.spool.list_answers():
            assert held in self.provider.live, f"a silent loss: {held}"
        if row["state"] == "reauthorization_required" and not self.attempts and not self.spool.list_answers():
            assert held not in self.provider.live, f"given up though it lives: {held}"
            assert row["reason"] == "lost_in_rotation", "nobody withdrew it"


@pytest.fixture
def model(database_url: Secret, tmp_path: Path) -> Iterator[type[Protocol]]:
    """The model, with a vault under it."""
    with (
        psycopg.connect(database_url.reveal(), autocommit=True, row_factory=dict_row) as connection,
        asyncio.Runner() as runner,
    ):
        opening = open_vault(database_url, [ACCESS_KEY], [REFRESH_KEY])
        Protocol.vault = runner.run(opening.__aenter__())
        Protocol.runner, Protocol.connection, Protocol.folder = runner, connection, tmp_path
        try:
            yield Protocol
        finally:
            runner.run(opening.__aexit__(None, None, None))


def test_no_interleaving_loses_a_grant_in_silence(model: type[Protocol]) -> None:
    """Whatever the order: each token is presented once unless in doubt, none gets older, and no loss is silent."""
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=int(os.environ.get("PROTOCOL_EXAMPLES", "30")), stateful_step_count=30,
            deadline=None, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


FIRST = {"wait": "until it is due", "who": "a batch", "call": "carried out"}
SECOND = {"wait": "until the claim runs out", "who": "the operator", "call": "carried out"}
LOGIN = {"what": "login"}


def ends(number: int, end: str) -> Mapping[str, Any]:
    """How one of the calls under way goes on."""
    return {"number": number, "carried_out": True, "end": end}


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([FIRST, SECOND, ends(1, "dead"), ends(0, "answered")], id="who took over dies"),
        pytest.param([FIRST, SECOND, ends(1, "lost"), ends(0, "answered")], id="who took over hears nothing"),
        pytest.param(
            [FIRST, SECOND, ends(1, "answered"), ends(0, "answered")], id="who took over is refused"
        ),
        pytest.param([FIRST, SECOND, ends(0, "answered"), ends(0, "answered")], id="a refusal comes last"),
        pytest.param([FIRST, SECOND, ends(0, "spooled"), ends(0, "dead"), {}], id="the answer is on disk"),
        pytest.param([FIRST, LOGIN, ends(0, "answered")], id="a login is first"),
        pytest.param([FIRST, ends(0, "spooled"), LOGIN, {}], id="a login is before the disk"),
        pytest.param(
            [FIRST, SECOND, LOGIN, ends(1, "answered"), ends(0, "answered")], id="a login ends both"
        ),
    ],
)
def test_known_interleavings(model: type[Protocol], steps: list[Mapping[str, Any]]) -> None:
    """Orders in which two workers meet over one token: what the vault holds then lives, or is known to be in doubt."""
    protocol = model()
    protocol.first_login()
    for step in steps:
        for names, rule_ in (
            ({"wait"}, protocol.a_worker_comes), ({"end"}, protocol.a_call_goes_on),
            ({"what"}, protocol.something_happens_at_auth0),
        ):  # fmt: skip
            if names <= step.keys():
                rule_(**step)
        if not step:
            protocol.spool_is_replayed()
        protocol.each_token_is_presented_once()
        protocol.nothing_gets_older_or_lost()
    assert protocol.attempts == []
