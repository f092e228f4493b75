"""Reads over HTTP: tokens, their errors, lists, and what the audit keeps."""

from __future__ import annotations

from typing import Any

from tests.support.api_server import ApiClient, ApiProcess
from tests.support.readers import Rows, Sql, requested
from tests.support.wait import until

USER = "/v1/users/oauth2%7Cu1/tokens"


async def test_a_token_and_what_is_told_of_it(api: ApiClient, api_key: str, rows: Rows) -> None:
    """The document is the one that the contract names, and no cache keeps it."""
    await rows.add()
    response = api.call(f"{USER}/custom?min_ttl=60&needs=read", api_key, headers={"x-request-id": "r-1"})
    document: dict[str, Any] = response.json()
    assert response.status_code == 200, document
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"] == "r-1"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert 3500 < document.pop("expires_in") <= 3600
    assert document.pop("expires_at")
    assert document == {
        "token_type": "Bearer", "access_token": "token-of-u1", "scopes": ["read", "write"], "connection": "custom",
        "user_id": "oauth2|u1", "account": "u1", "extra": {},
    }  # fmt: skip


async def test_errors_are_problem_documents(api: ApiClient, api_key: str, rows: Rows) -> None:
    """Each error of a reader has its type and its status."""
    await rows.add("oauth2|u1", reason="invalid_grant", state="reauthorization_required", expires_in=-10)
    await rows.add("oauth2|u2", subject="u2", refresh=None, state="unrenewable", expires_in=-10)
    await rows.add("oauth2|u3", subject="a")
    await rows.add("oauth2|u3", subject="b")
    await rows.add("oauth2|u4", subject="u4", scopes=("read",))
    await rows.add("oauth2|u5", subject="u5", expires_in=5)
    wanted = {
        "u1": (409, "consent-needed"), "u2": (409, "token-expired"), "u3": (409, "ambiguous-account"),
        "u4": (409, "consent-needed"), "u5": (503, "temporarily-unavailable"), "u6": (404, "not-connected"),
    }  # fmt: skip
    for user, problem in wanted.items():
        assert (
            api.problem(f"/v1/users/oauth2%7C{user}/tokens/custom?wait=0&needs=write", api_key)[:2] == problem
        )
    response = api.call(f"{USER}/custom", api_key).json()
    assert (response["reason"], response["connection"]) == ("invalid_grant", "custom")
    assert api.call("/v1/users/oauth2%7Cu3/tokens/custom", api_key).json()["accounts"] == ["a", "b"]
    assert api.call("/v1/users/oauth2%7Cu3/tokens/custom?account=a", api_key).status_code == 200
    assert int(api.call("/v1/users/oauth2%7Cu5/tokens/custom?wait=0", api_key).headers["retry-after"]) > 0


async def test_odd_requests_are_refused(api: ApiClient, api_key: str, rows: Rows) -> None:
    """Nothing that is not understood is read as something else."""
    await rows.add(user_id="", subject="")
    queries = ("min_ttl=x", "min_ttl=-1", "min_ttl=nan", "min_ttl=inf", "wait=31", "nope=1", "account=",
               "wait=1&wait=2", "tenant=other", "account=%00", "resource=%1f")  # fmt: skip
    for query in queries:
        assert api.problem(f"{USER}/custom?{query}", api_key)[:2] == (400, "bad-request"), query
    assert api.problem("/v1/users//tokens/custom", api_key)[:2] == (400, "bad-request")
    assert api.problem("/v1/users//tokens", api_key)[:2] == (400, "bad-request")
    for path in (
        "/v1/users/x",
        "/v1/users/x/tokens/custom/",
        "/healthz/",
    ):  # no redirect, which would carry the key
        assert api.problem(path, api_key)[:2] == (404, "not-found")
    assert api.problem(f"{USER}/custom", api_key, method="DELETE")[:2] == (405, "method-not-allowed")
    assert api.problem(f"{USER}/custom/rejected", api_key, method="POST")[:2] == (400, "bad-request")
    long = {"access_token": "x" * 100_000}
    assert api.problem(f"{USER}/custom/rejected", api_key, method="POST", body=long)[:2] == (413, "too-large")


async def test_lists_show_no_token_and_no_other_connection(api: ApiClient, api_key: str, rows: Rows) -> None:
    """A user's grants are listed as far as the consumer may read them."""
    await rows.add()
    await rows.add(connection="secret", subject="s1")
    response = api.call(USER, api_key)
    (grant,) = response.json()["grants"]
    assert (grant["connection"], grant["account"], grant["state"]) == ("custom", "u1", "active")
    assert "token-of" not in response.text


async def test_rejected_tokens_are_replaced(api: ApiClient, api_key: str, rows: Rows, sql: Sql) -> None:
    """The report of a token that is still the current one asks for a renewal, however often; any other one does not."""
    grant = await rows.add()
    for other in ("another", "token", "token-of-u1-and-more"):
        old = api.call(f"{USER}/custom/rejected", api_key, method="POST", body={"access_token": other})
        assert (old.status_code, old.json()) == (202, {"replacing": False})
    now = api.call(f"{USER}/custom/rejected", api_key, method="POST", body={"access_token": "token-of-u1"})
    assert (now.status_code, now.json()) == (202, {"replacing": True})
    again = api.call(f"{USER}/custom/rejected", api_key, method="POST", body={"access_token": "token-of-u1"})
    assert (again.status_code, again.json()) == (202, {"replacing": True})
    assert (await requested(sql))["grant_id"] == grant
    recorded = "SELECT consumer, account FROM audit_records WHERE outcome = 'rejected'"
    until(lambda: len(sql(recorded)) == 2, "the reports are recorded")
    assert sql(recorded) == [{"consumer": "calendar", "account": "u1"}] * 2


async def test_who_may_not_refresh_gets_no_younger_token(
    api: ApiClient, api_key: str, rows: Rows, sql: Sql
) -> None:
    """Without ``refresh``, ``min_ttl`` replaces no token in the first half of its life."""
    await rows.add(expires_in=3000)
    assert api.problem(f"{USER}/custom?min_ttl=3300&wait=0", api_key)[1] == "not-allowed"
    assert api.call(f"{USER}/custom?min_ttl=2900", api_key).status_code == 200
    assert sql("SELECT * FROM refresh_requests WHERE min_ttl > 1800") == []


async def test_reads_are_recorded(api: ApiClient, api_key: str, rows: Rows, sql: Sql) -> None:
    """The audit knows consumer, user, request and outcome; of refused reads as well."""
    await rows.add()
    api.call(f"{USER}/custom?reason=export", api_key, headers={"x-request-id": "r-7"})
    api.call(f"{USER}/other", api_key)
    api.call("/v1/users/nobody/tokens/custom", api_key)
    until(lambda: len(sql("SELECT * FROM audit_records")) == 3, "the reads are recorded")
    served, failed, refused = sql("SELECT * FROM audit_records ORDER BY outcome DESC")
    assert (served["consumer"], served["source"], served["outcome"]) == ("calendar", "api", "served")
    assert (served["request_id"], served["reason"], served["account"]) == ("r-7", "export", "u1")
    assert (refused["connection"], refused["outcome"]) == ("other", "AccessDenied")
    assert (failed["user_id"], failed["outcome"]) == ("nobody", "TokenNotFound")


async def test_no_secret_is_logged_or_measured(api_process: ApiProcess, api_key: str, rows: Rows) -> None:
    """Logs and metrics hold neither token, key nor user."""
    await rows.add()
    api_process.call(f"{USER}/custom", api_key)
    api_process.call(f"{USER}/nope", api_key)
    shown = api_process.call("/metrics").text + api_process.process.log
    assert 'route="/v1/users/{user_id:path}/tokens/{connection}",status="200"} 1.0' in shown
    assert not [each for each in ("token-of-u1", api_key, "oauth2|u1", "oauth2%7Cu1") if each in shown]


async def test_a_server_stops_in_order(api_process: ApiProcess, api_key: str, rows: Rows, sql: Sql) -> None:
    """SIGTERM lets what is under way be answered, and ends with 0."""
    assert api_process.call("/healthz").json() == {"status": "ok"}
    assert api_process.call("/readyz").status_code == 200
    assert api_process.process.terminate() == 0
