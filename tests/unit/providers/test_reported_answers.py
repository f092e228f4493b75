"""Answers as public reports have them, which lost a token or told nobody of a dead grant."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from token_vault.secret import Secret
from worker import providers
from worker.providers import RefusalBlame, Refused, Renewed
from worker.token_pair import TokenPair

SENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SPENT = Secret("the-spent-token")
ACCESS, REFRESH = "the-new-access", "the-new-refresh"
PAIR = {"access_token": ACCESS, "refresh_token": REFRESH, "expires_in": 7200}


def read(body: str | dict[str, Any], status: int = 200, kind: str = "application/json") -> Renewed | Refused:
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": kind}
    return providers.get("oauth2").read(status, headers, text.encode(), sent_at=SENT, spent=SPENT)


def pair_of(*given: Any, **named: Any) -> TokenPair:
    result = read(*given, **named)
    assert isinstance(result, Renewed)
    return result.pair


@pytest.mark.parametrize(
    "placeholder",
    ["null", "None", "undefined", "nil", "N/A", "false", "[REDACTED]", "<hidden>", "********", " null "],
)
def test_a_placeholder_replaces_no_token(placeholder: str) -> None:
    """What a program writes for nothing is no refresh token, and no access token either."""
    pair = pair_of({**PAIR, "refresh_token": placeholder})
    assert (pair.access, pair.refresh) == (Secret(ACCESS), None)
    assert pair_of({**PAIR, "access_token": placeholder}).access is None
    assert pair_of({**PAIR, "refresh_token": f"{placeholder}-1"}).refresh == Secret(f"{placeholder}-1")


def test_a_sentence_is_no_access_token() -> None:
    """Casdoor puts its error there: nobody is served it, and the grant's death is told."""
    casdoor = {"access_token": "error: token is expired by 23m58s", "refresh_token": "", "expires_in": 0}
    assert isinstance(read(casdoor), Refused)
    assert pair_of({**PAIR, "access_token": f"Bearer {ACCESS}"}).access == Secret(ACCESS)


def test_no_reader_is_handed_a_refresh_token() -> None:
    """What describes itself as a refresh token, or stands behind another separator, is part of no access token."""
    listed = [{"kind": "refresh", "token": REFRESH}, {"kind": "access", "token": ACCESS}]
    bodies: list[Any] = [{"tokens": listed}, {"tokens": listed[::-1]}, {"tokens": listed[:1]}]
    pairs = [pair_of(body) for body in bodies]
    for joint in (";", "\n", "\r\n"):
        form = joint.join(f"{name}={value}" for name, value in PAIR.items())
        pairs.append(pair_of(form, kind="text/plain"))
    assert [pair.refresh for pair in pairs] == [Secret(REFRESH)] * len(pairs)
    assert [pair.access for pair in pairs] == [Secret(ACCESS)] * 2 + [None] + [Secret(ACCESS)] * 3


@pytest.mark.parametrize(
    "body",
    [
        '{"refresh_token": "the-new-refresh", "access_token": "the-new-access", "refresh_token": null}',
        '{"refresh_token": "the-new-refresh", "access_token": "the-new-access", "access_token": ""}',
        '{"refresh_token": "old", "access_token": "the-new-access", "refresh_token": "the-new-refresh"}',
        "{'refresh_token': 'the-new-refresh', 'access_token': 'the-new-access', 'scope': None}",
        '{refresh_token: "the-new-refresh", access_token: "the-new-access"}',
        '<token access_token="the-new-access" refresh_token="the-new-refresh"/>',
        "<r><refresh_token><![CDATA[the-new-refresh]]></refresh_token><access_token>the-new-access</access_token></r>",
        "<o:r><o:refresh_token>the-new-refresh</o:refresh_token><o:access_token>the-new-access</o:access_token></o:r>",
    ],
    ids=["null last", "empty last", "twice", "Python", "JavaScript", "attributes", "CDATA", "namespace"],
)
def test_a_pair_is_read_in_any_spelling(body: str) -> None:
    """A provider that rotates has spent the old refresh token, however it writes the new one."""
    pair = pair_of(body)
    assert (pair.access, pair.refresh) == (Secret(ACCESS), Secret(REFRESH))


@pytest.mark.parametrize("status", [302, 400, 500])
def test_a_new_pair_counts_more_than_its_status(status: int) -> None:
    """A whole new pair without an error is a success; what a refusal repeats, or has an error beside it, is none."""
    assert pair_of(PAIR, status).refresh == Secret(REFRESH)
    for refusal in (
        {**PAIR, "refresh_token": SPENT.reveal()},
        {**PAIR, "error": "invalid_grant"},
        {"access_token": ACCESS},
    ):
        assert isinstance(read(refusal, status), Refused)


def test_a_code_may_have_a_sentence_behind_it() -> None:
    """EVE Online's ``invalid_grant: …`` is a verdict."""
    refused = read({"error": "invalid_grant: Token is expired or invalid."}, 400)
    assert refused == Refused(RefusalBlame.USER, "invalid_grant")


@pytest.mark.parametrize("status", [421, 449])
def test_a_wrong_connection_says_nothing_of_the_grant(status: int) -> None:
    """A server that asks for the same request again is asked again, whatever it says beside that."""
    refused = read({"error": "invalid_grant"}, status)
    assert isinstance(refused, Refused)
    assert refused.blame is RefusalBlame.NOBODY


def test_an_end_is_known_all_the_same() -> None:
    """Neither spelling nor separator costs the end of the token."""
    form = ";".join(f"{name}={value}" for name, value in PAIR.items())
    assert pair_of(form, kind="text/plain").expires_at == SENT + timedelta(hours=2)
