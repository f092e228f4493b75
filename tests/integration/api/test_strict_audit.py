"""Reads over HTTP that have to be recorded, or not happen."""

from __future__ import annotations

from tests.support.api_server import ApiClient
from tests.support.readers import Rows, Sql

USER, ADMIN = "/v1/users/oauth2%7Cu1/tokens/custom", "/v1/connections/custom/token"


async def test_a_read_that_cannot_be_recorded_is_refused(
    api: ApiClient, api_key: str, rows: Rows, sql: Sql
) -> None:
    """A strict consumer's read is recorded before it is answered; without the record there is a problem document."""
    sql("UPDATE consumers SET audit = 'strict', admins = true")
    await rows.add()
    await rows.add(user_id="", subject="", value="token-of-admin")
    assert api.call(ADMIN, api_key).json()["access_token"] == "token-of-admin"
    assert api.problem(f"{ADMIN}?needs=other", api_key)[1] == "consent-needed"
    assert api.call(USER, api_key).json()["access_token"] == "token-of-u1"
    columns = ("user_id", "consumer", "source", "outcome")
    expected = [
        dict(zip(columns, (user, "calendar", "api", "served"), strict=True)) for user in ("", "oauth2|u1")
    ]
    # Not waited for: strict records are there before the answer is.
    assert (
        sql(f"SELECT {', '.join(columns)} FROM audit_records WHERE outcome = 'served' ORDER BY id")
        == expected
    )
    sql("ALTER TABLE audit_records RENAME TO hidden_records")
    try:
        for path in (ADMIN, USER):
            status, code, detail = api.problem(path, api_key)
            assert (status, code) == (503, "temporarily-unavailable")
            assert "audit is strict" in detail
            assert "token-of" not in api.call(path, api_key).text
    finally:
        sql("ALTER TABLE hidden_records RENAME TO audit_records")
    assert api.call(USER, api_key).status_code == 200


async def test_an_admin_token_needs_its_right(api: ApiClient, api_key: str, rows: Rows) -> None:
    """Without ``admins = true`` the admin token is refused in words, though users' tokens are read."""
    await rows.add()
    await rows.add(user_id="", subject="")
    assert api.call(USER, api_key).status_code == 200
    status, code, detail = api.problem(ADMIN, api_key)
    assert (status, code) == (403, "not-allowed")
    assert "does not allow admin tokens" in detail
