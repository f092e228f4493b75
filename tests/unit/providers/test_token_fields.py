"""No new refresh token is dropped, and ends are read, whatever a success calls them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emulators.scripted import LIBRARY, Exchange, Shape, Trouble, invent
from token_vault.secret import Secret
from worker.providers import Provider, Refused, Renewed, get, token_fields
from worker.token_pair import TokenPair

SENT = datetime(2026, 3, 15, 7, 14, 32, tzinfo=UTC)
LIFE = 3600.0
GENERIC = get("oauth2")
SUCCESSES = [shape for shape in LIBRARY.values() if shape.trouble is Trouble.NONE and shape.carried_out]
UNENCODED = [shape for shape in SUCCESSES if shape.name != "gzip"]


def exchange(access: str = "new-access") -> Exchange:
    """What an emulated provider may tell at SENT."""
    return Exchange(
        now=SENT.timestamp(),
        access_token=access,
        refresh_token="new-refresh",
        presented="old-refresh",
        client_id="app",
        life=LIFE,
        scopes=("files.read", "files.write"),
        idle_life=86_400,
        hard_life=864_000,
        random=Random(7),
    )


def read(shape: Shape, provider: Provider = GENERIC) -> TokenPair:
    """Read a shape's answer as a renewal."""
    jwt_end = int(SENT.timestamp() + LIFE)
    access = jwt.encode({"exp": jwt_end}, "k" * 32, "HS256") if shape.access_token == "jwt" else "new-access"
    script = shape.write(exchange(access))
    headers = {"content-type": script.content_type} if script.content_type else {}
    outcome = provider.read(script.status, headers, script.body, sent_at=SENT, spent=Secret("old-refresh"))
    assert isinstance(outcome, Renewed), (shape.name, outcome, script.body)
    return outcome.pair


def pair(answer: object, **how: Any) -> TokenPair:
    """Read an answer that is JSON already, or bytes."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    provider = how.pop("provider", GENERIC)
    headers = {"content-type": how.pop("content_type", "application/json")}
    outcome = provider.read(200, headers, body, sent_at=SENT, spent=Secret("old-refresh"))
    assert isinstance(outcome, Renewed), outcome
    return outcome.pair


@pytest.mark.parametrize("shape", UNENCODED, ids=lambda shape: shape.name)
def test_every_known_success_is_read(shape: Shape) -> None:
    """The new refresh token of every known shape is kept, with all that the shape says beside it."""
    got = read(shape)
    if "refresh_token" not in shape.omits:
        assert got.refresh == Secret("new-refresh")
    assert (got.access is None) == ("access_token" in shape.omits)
    if not shape.omits & {"end", "access_token"}:
        assert got.expires_at is not None
        assert abs(got.expires_at - (SENT + timedelta(seconds=LIFE))) < timedelta(seconds=1)


@given(st.integers(0, 2**32))
def test_no_invented_success_loses_its_refresh_token(seed: int) -> None:
    """A success below names that nobody knows keeps its refresh token."""
    got = read(invent(Trouble.NONE, Random(seed)))
    assert got.refresh == Secret("new-refresh")


names = st.sampled_from(
    [
        *(
            "refresh_token",
            "refreshToken",
            "RefreshToken",
            "refresh-token",
            "REFRESH_TOKEN",
            "new_refresh_token",
        ),
        *("newRefreshToken", "refresh", "oauth_refresh_token", "user_refresh_token", "refresh_token_value"),
        *("offlineRefreshToken", "x_refresh_token", "rotated_refresh_token"),
    ]
)
words = st.text("abcdefgh_", min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers() | words
noise = st.dictionaries(words, scalars, max_size=3)


def wrap(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nest an object once more: under a name, in a list, or as text."""
    return st.builds(
        lambda beside, name, value: {**beside, name: value},
        noise,
        words,
        inner
        | inner.map(lambda value: [value])
        | inner.map(lambda value: [7, "x", value])
        | inner.map(json.dumps),
    )


tokens = st.one_of(
    st.builds(lambda beside, name: {**beside, name: "new-refresh"}, noise, names),
    st.builds(lambda name: {name: {"token": "new-refresh", "expires_in": 7}}, names),
    st.builds(lambda name: {name: {"value": "new-refresh"}}, names),
    st.just({"type": "refresh_token", "value": "new-refresh"}),
    st.just({"tokens": {"access": "new-access", "refresh": "new-refresh"}}),
)
nested = st.one_of(tokens, wrap(tokens), wrap(wrap(tokens)), wrap(wrap(wrap(tokens))))


@given(nested, st.sampled_from(["", "access_token", "data", "error"]), st.booleans())
def test_no_nesting_loses_the_refresh_token(answer: dict[str, Any], beside: str, listed: bool) -> None:
    """At any depth, in lists and in texts, under any reasonable name, the new refresh token is found."""
    said = {"access_token": "new-access", "data": {"access_token": "new-access"}, "error": "none"}
    whole: Any = answer | ({beside: said[beside]} if beside and beside not in answer else {})
    assert pair([whole] if listed else whole).refresh == Secret("new-refresh")


@given(names, noise, st.sampled_from(["application/x-www-form-urlencoded", "text/plain", "text/html"]))
def test_no_form_loses_the_refresh_token(name: str, beside: dict[str, Any], content_type: str) -> None:
    """A form is read under any content type, as PHP sends HTML's where nobody says another."""
    body = urlencode({**beside, name: "new-refresh"}).encode()
    assert pair(body, content_type=content_type).refresh == Secret("new-refresh")


@pytest.mark.parametrize("length", range(1, 40))
def test_a_cut_answer_keeps_a_whole_refresh_token(length: int) -> None:
    """A body that ends too early gives the refresh token where that is complete, and no half of one ever."""
    body = b'{"refresh_token":"new\\u002drefresh","access_token":"new-access","expires_in":3600}'
    outcome = GENERIC.read(200, {}, body[:-length], sent_at=SENT)
    assert isinstance(outcome, Renewed)
    assert outcome.pair.refresh == Secret("new-refresh")
    assert outcome.pair.access in (Secret("new-access"), None)
    cut = GENERIC.read(200, {}, b'{"access_token":"new-access","refresh_token":"new-ref', sent_at=SENT)
    assert isinstance(cut, Refused)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
def test_other_encodings_cost_no_refresh_token(encoding: str) -> None:
    """JSON in whatever Unicode encoding, and a token that is the only one of a list, are read."""
    body = json.dumps({"access_token": "new-access", "refresh_token": ["new-refresh"]}).encode(encoding)
    assert pair(body).refresh == Secret("new-refresh")


@pytest.mark.parametrize(
    "body",
    [
        "<br />\n<b>Warning</b>: date(): in <b>/srv/token.php</b> on line <b>7</b><br />\n%s",
        ")]}',\n%s",
        "while(1);%s",
        "callback(%s);",
        "%s\n<!-- served in 12 ms -->",
        "%s{}",
        '{"status": "ok"}\n%s',
        "<OAuth><access_token>new-access</access_token><refresh_token>new-refresh</refresh_token></OAuth>",
    ],
)
def test_what_stands_around_the_answer_costs_no_refresh_token(body: str) -> None:
    """A server's warning, a guard, a call around the JSON, or XML: the pair is read all the same."""
    pair = '{"access_token": "new-access", "refresh_token": "new-refresh"}'
    outcome = GENERIC.read(
        200, {"content-type": "text/html"}, body.replace("%s", pair).encode(), sent_at=SENT
    )
    assert isinstance(outcome, Renewed)
    assert (outcome.pair.access, outcome.pair.refresh) == (Secret("new-access"), Secret("new-refresh"))


@pytest.mark.parametrize(
    "answer",
    [
        {"refresh_token": "old-refresh", "error": "invalid_grant"},
        {
            "error": "invalid_grant",
            "request": {"grant_type": "refresh_token", "refresh_token": "old-refresh"},
        },
        {"refresh_token_expires_in": "86400", "refresh_token_type": "offline"},
        {"old_refresh_token": "older", "has_refresh_token": "true", "last_refresh_token": "older"},
        {"message": "refresh token", "grant_type": "refresh_token"},
    ],
)
def test_what_is_no_new_refresh_token(answer: object) -> None:
    """The refresh token that was sent, and what is said about refresh tokens, is not taken for a new one."""
    outcome = GENERIC.read(200, {}, json.dumps(answer).encode(), sent_at=SENT, spent=Secret("old-refresh"))
    assert isinstance(outcome, Refused)


@pytest.mark.parametrize(
    ("answer", "is_found"),
    [
        ({"accessToken": "new-access", "expires_in": 60}, True),
        ({"data": {"access_token": "new-access", "expires_in": 60}, "success": True}, True),
        ({"result": {"credentials": [{"AccessToken": "new-access"}]}, "expires_in": 60}, True),
        ({"token": "new-access", "token_type": "Bearer", "expires_in": 60}, True),
        ({"user": {"access_token": "new-access"}, "bot": {"access_token": "another"}}, False),
        ({"error": "not_now", "request": {"access_token": "new-access"}}, False),
        ({"success": False, "accessToken": "new-access"}, False),
        ({"access": "read", "token": "new-access"}, False),
        ({"data": {"access_token": None}, "accessToken": 7}, False),
    ],
)
def test_an_access_token_alone(answer: object, is_found: bool) -> None:
    """Where the refresh token stays, the only access token is read wherever it is, and none that may be another's."""
    outcome = GENERIC.read(200, {}, json.dumps(answer).encode(), sent_at=SENT)
    if not is_found:
        assert isinstance(outcome, Refused)
        return
    assert isinstance(outcome, Renewed)
    assert (outcome.pair.access, outcome.pair.refresh) == (Secret("new-access"), None)
    assert outcome.pair.expires_at == SENT + timedelta(seconds=60)


VALUES = st.sampled_from(
    ["a", "r", "Bearer", "refresh_token", "null", "", None, 3600, ["r"], {"token": "r"}, '{"refresh_token": "r"}',
     ' ["r"]', {"refresh_token": "r", "access_token": "b"}]
)  # fmt: skip
STANDARD = st.fixed_dictionaries(
    {"access_token": st.sampled_from(["a", "r", None])},
    optional=dict.fromkeys(("token_type", "expires_in", "refresh_token", "scope", "id_token"), VALUES),
)


@given(STANDARD, st.sampled_from(["refresh_token", "id_token", "rt"]))
@example({"access_token": "a", "id_token": {"refresh_token": "r", "access_token": "b"}}, "refresh_token")
@example({"access_token": "a", "scope": '{"refresh_token": "r", "access_token": "b"}'}, "refresh_token")
@example({"access_token": "a", "refresh_token": "r"}, "rt")
def test_a_standard_answer_is_read_as_any_other(fields: dict[str, Any], declared: str) -> None:
    """It is not searched, and a search would have found no more."""
    found = token_fields.find(fields, (), refresh_token=declared)
    searched = token_fields.find({**fields, "x": 1}, (), refresh_token=declared)
    if found is None or searched is None:
        assert found is searched
        return
    assert (found.access, found.refresh) == (searched.access, searched.refresh)
    assert {**found.beside, "x": 1} == {**searched.beside, "x": 1}


def test_the_pair_of_another_is_left_alone() -> None:
    """The bot's refresh token beside a user's access token is not the user's."""
    answer = {"access_token": "bot", "refresh_token": "bots", "authed_user": {"access_token": "user"}}
    got = pair(answer, provider=get("slack"))
    assert (got.access, got.refresh) == (Secret("user"), None)
    lives = pair(answer | {"expires_in": 60}, provider=get("slack"))
    assert lives.expires_at is None  # the bot's life, too


def test_a_refresh_token_outside_of_the_declared_object_is_kept() -> None:
    """It is the user's where no access token stands beside it, and what is nearer to the token says more of it."""
    provider = Provider(name="p", within=("data",))
    answer = {
        "data": {"access_token": "new", "expires_in": 3600, "scope": "a"},
        "refresh_token": "new-refresh",
        "expires_in": 9,
        "scope": "b",
    }
    got = pair(answer, provider=provider)
    assert (got.access, got.refresh) == (Secret("new"), Secret("new-refresh"))
    assert (got.expires_at, got.scopes) == (SENT + timedelta(hours=1), ("a",))
    again = pair(answer | {"refresh_token": "old-refresh"}, provider=provider)
    assert again.refresh is None


@pytest.mark.parametrize(
    "said",
    [
        {"expires_in": 3600},
        {"expires_at": 1773562472},
        {"expires_at": 1773562472000},
        {"expires_at": "2026-03-15T08:14:32Z"},
        {"expiresAt": "1773562472"},
        {"expiry_date": 1773562472000},
        {"expires_in": 3_600_000, "expires_in_sec": 3600},
        {"expires_in": 7200, "expires_at": 1773562472},
        {"expires": 3600},
        {"expires": 1773562472},
        {"expires_in": 3600, "expires_at": 1773500000},
    ],
)
def test_ends(said: dict[str, object]) -> None:
    """A life and an end are read in all units; the earliest that lies ahead counts."""
    assert pair({"access_token": "at", **said}).expires_at == SENT + timedelta(hours=1)


@pytest.mark.parametrize(
    ("exp", "life", "seconds"),
    [
        (1800, None, 1800),
        (1800, 3600, 1800),
        (7200, 3600, 3600),
        (-60, 3600, 3600),
        (-60, None, None),
        ("soon", 3600, 3600),
    ],
)
def test_a_jwt_never_lengthens(exp: object, life: int | None, seconds: int | None) -> None:
    """A JWT's exp gives an end or an earlier one, never a later one than the answer says."""
    claims = {"exp": int(SENT.timestamp()) + exp} if isinstance(exp, int) else {}
    token = jwt.encode(claims, "k" * 32, "HS256")
    got = pair({"access_token": token, **({"expires_in": life} if life else {})})
    assert got.expires_at == (SENT + timedelta(seconds=seconds) if seconds else None)


@pytest.mark.parametrize("name", ["a", "ab", "abc", "abcd"])
def test_a_jwt_of_any_length_is_read(name: str) -> None:
    """Its payload is base64 without padding, whatever padding that would be."""
    token = jwt.encode({"exp": int(SENT.timestamp()) + 60, "sub": name}, "k" * 32, "HS256")
    assert pair({"access_token": token}).expires_at == SENT + timedelta(seconds=60)


def test_both_ends_of_consent() -> None:
    """The sliding end and the hard one are kept apart, under each provider's names."""
    for sliding, hard in (
        ("x_refresh_token_expires_in", "x_refresh_token_hard_expires_in"),
        ("refresh_token_timeout", "authorization_expires_in"),
        ("refresh_expires_in", "authorization_expires_in"),
    ):
        got = pair({"access_token": "at", sliding: 86_400, hard: 864_000})
        assert got.refresh_expires_at == SENT + timedelta(days=1)
        assert got.consent_expires_at == SENT + timedelta(days=10)


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("a,b", ("a", "b")),
        ("a+b", ("a", "b")),
        ("a, b", ("a", "b")),
        ("a b+c", ("a", "b+c")),
        ("a,b+c", ("a", "b+c")),
        (["a+b"], ("a+b",)),
    ],
)
def test_scopes_in_any_notation(scope: object, scopes: tuple[str, ...]) -> None:
    """Commas and plus signs separate scopes where no blank does."""
    assert pair({"access_token": "at", "scope": scope}).scopes == scopes


def test_values_beside_the_token() -> None:
    """What the declaration names is kept where it is a short text or a number, and nothing else is."""
    provider = Provider(name="p", keeps=("instance_url", "shard", "long", "nested", "empty"))
    answer = {
        "access_token": "at",
        "instance_url": "https://x",
        "shard": 7,
        "long": "x" * 3000,
        "nested": {},
        "id": 1,
        "empty": "",
    }
    assert pair(answer, provider=provider).extra == {"instance_url": "https://x", "shard": "7"}
    assert pair(answer).extra == {}
