"""``POST …/rejected`` and ``…/refresh``: whose token is meant, and who may say so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api_server import ApiClient
from tests.support.readers import Rows, Sql
from worker.consumer_rules import hash_api_key, make_api_key

USER = "/v1/users/oauth2%7Cu1/tokens/custom"
REJECTED = {"access_token": "token-of-u1"}


@pytest.fixture
def stranger(sql: Sql, api_key: str) -> str:  # its row comes first
    """The key of another consumer, which may refresh, and reads another connection."""
    key = make_api_key()
    sql(
        "INSERT INTO consumers (name, api_key_hash, connections, users, admins, refresh)"
        " VALUES ('mail', %s, '{other}', true, true, true)",
        hash_api_key(key),
    )
    sql("UPDATE consumers SET refresh = true")  # api_key's too
    return key


def post(api: ApiClient, path: str, key: str) -> tuple[int, object]:
    """Status of a post, and its body or the problem's code."""
    body = REJECTED if path.endswith("rejected") else None
    answer = api.call(path, key, method="POST", body=body)
    document = answer.json()
    return answer.status_code, document.get("type", "").rpartition(":")[2] or document


def requests(sql: Sql) -> list[int]:
    return [row["grant_id"] for row in sql("DELETE FROM refresh_requests RETURNING grant_id")]


@pytest.mark.usefixtures("stranger")
async def test_an_encoded_user_id_is_that_user(api: ApiClient, api_key: str, rows: Rows, sql: Sql) -> None:
    """``|`` is read encoded and as it is, and a slash is a part of the id: nobody else's token is replaced."""
    written = {
        "oauth2%7cu1": "oauth2|u1",
        "oauth2|u2": "oauth2|u2",
        "waad%7Ca%2Fu3": "waad|a/u3",
        "waad%7Ca/u4": "waad|a/u4",
    }
    for path, user_id in written.items():
        grant = await rows.add(user_id, subject=user_id.partition("|")[2])
        answer = post(api, f"/v1/users/{path}/tokens/custom/rejected", api_key)
        assert answer == (202, {"replacing": True}), path
        assert requests(sql) == [grant]
        # It was rejected, and nobody makes another.
        assert post(api, f"/v1/users/{path}/tokens/custom/refresh?wait=0", api_key)[0] == 503
        assert requests(sql) == [grant]
    for path in ("oauth2%257Cu1", "oauth2%7Cu1%20", "u1", "oauth2", "oauth2%7CU1", "waad%7Ca", "a%2Fu3"):
        for suffix in ("rejected", "refresh?wait=0"):
            answer = post(api, f"/v1/users/{path}/tokens/custom/{suffix}", api_key)
            assert answer == (404, "not-connected"), path
        assert requests(sql) == []


async def test_another_consumer_replaces_nothing(
    api: ApiClient, api_key: str, stranger: str, rows: Rows, sql: Sql
) -> None:
    """A consumer without the connection learns nothing of it, and causes no call."""
    await rows.add()
    await rows.add(user_id="", subject="")
    for path in (USER, "/v1/connections/custom/token"):
        for suffix in ("/rejected", "/refresh"):
            assert post(api, path + suffix, stranger) == (403, "not-allowed")
    # Nor where it exists for neither: the answer is the same.
    assert post(api, f"{USER.replace('u1', 'nobody')}/refresh", stranger) == (403, "not-allowed")
    # One that reads users' tokens alone replaces no admin token.
    assert post(api, "/v1/connections/custom/token/refresh", api_key) == (403, "not-allowed")
    assert post(api, USER + "/rejected", make_api_key()) == (401, "invalid-token")
    assert requests(sql) == []
    refused = sql("SELECT consumer, outcome FROM audit_records WHERE consumer = 'mail'")
    assert all(row["outcome"] == "AccessDenied" for row in refused)


@pytest.mark.usefixtures("stranger")
async def test_what_is_no_post_to_a_token_is_refused(
    api: ApiClient, api_key: str, rows: Rows, sql: Sql
) -> None:
    """A body that names no token, an unknown parameter, another method."""
    await rows.add()
    bodies: list[Any] = [
        None,
        [],
        {},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": None},
        "x",
        7,
    ]
    for body in bodies:
        answer = api.call(f"{USER}/rejected", api_key, method="POST", body=body)
        assert answer.status_code == 400, body
    for path in (f"{USER}/rejected?nope=1", f"{USER}/refresh?min_ttl=x", "/v1/users//tokens/custom/refresh"):
        assert post(api, path, api_key)[0] == 400, path
    for suffix in ("/rejected", "/refresh"):
        assert api.call(USER + suffix, api_key).status_code in (404, 405)
        assert api.call(USER + suffix, api_key, method="DELETE").status_code == 405
    assert requests(sql) == []
