from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from tests.support.rows import Sql

INSERT = """
INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, observed_updated_at, due_at)
VALUES ('default', 'google-oauth2', %s, '1111', 'active', 'auth0', 'access', 3, 'refresh', 5, '2026-03-15', '2026-03-16')
"""


@pytest.fixture
def grant(sql: Sql) -> Callable[[str], None]:
    """One grant with both tokens, and a way to change its columns."""
    sql(
        "INSERT INTO connections (tenant, name, strategy) VALUES ('default', 'google-oauth2', 'google-oauth2')"
    )
    sql(INSERT, "google-oauth2|1111")

    def change(columns: str) -> None:
        sql(f"UPDATE grants SET {columns}")

    return change


@pytest.mark.parametrize(
    "columns",
    [
        "refresh_ciphertext = NULL",
        "refresh_ciphertext = NULL, refresh_version = 6",
        "refresh_ciphertext = NULL, state = 'unrenewable'",
        "refresh_ciphertext = NULL, state = 'reauthorization_required', reason = 'x', due_at = NULL",
        "refresh_version = 4",
        "refresh_version = 4, refresh_ciphertext = 'older'",
        "access_version = 2",
        "observed_updated_at = observed_updated_at - interval '1 ms'",
        "observed_updated_at = NULL",
        "state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL, refresh_version = 4",
    ],
)
def test_the_database_refuses_to_go_backwards(grant: Callable[[str], None], sql: Sql, columns: str) -> None:
    """Whatever code asks for it, no refresh token is lost and nothing newer replaced by something older."""
    before = sql("SELECT * FROM grants")
    with pytest.raises(errors.IntegrityConstraintViolation, match="may not go backwards"):
        grant(columns)
    assert sql("SELECT * FROM grants") == before


@pytest.mark.parametrize(
    "columns",
    [
        "refresh_ciphertext = 'newer', refresh_version = 6",
        "refresh_ciphertext = 'the same under another key'",
        "access_ciphertext = NULL",
        "access_ciphertext = 'newer', access_version = 4, observed_updated_at = '2026-03-17'",
        "state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL",
        "state = 'reauthorization_required', reason = 'invalid_grant', due_at = NULL",
        "state = 'in_doubt', in_doubt_since = now()",
        "claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now()",
    ],
)
def test_the_database_lets_a_grant_go_on(grant: Callable[[str], None], columns: str) -> None:
    """Renewal, erasure, rotation of keys and death are steps forward."""
    grant(columns)


def test_the_database_gives_a_live_claim_to_nobody_else(grant: Callable[[str], None], sql: Sql) -> None:
    """Whatever code asks for it, also that of an earlier version, which takes what is due for unclaimed."""
    claim = "claim_owner = '{}', claimed_at = timestamptz '2026-03-16 12:00Z' + interval '{}', claim_until = '2026-03-16 12:02Z'"
    first, second = UUID(int=1), UUID(int=2)
    grant(claim.format(first, "0 s"))
    grant(claim.format(second, "119 s"))
    assert sql("SELECT claim_owner FROM grants") == [{"claim_owner": first}]
    grant("claim_until = claim_until + interval '1 s'")
    grant(claim.format(second, "120 s"))
    assert sql("SELECT claim_owner FROM grants") == [{"claim_owner": first}]
    grant(claim.format(second, "121 s"))
    assert sql("SELECT claim_owner FROM grants") == [{"claim_owner": second}]


@pytest.mark.parametrize(
    ("due_at", "claim_until", "expected"),
    [
        ("2026-03-16", None, "2026-03-16"),
        ("2026-03-16", "2026-03-15", "2026-03-16"),
        ("2026-03-16", "2026-03-17", "2026-03-17"),
        (None, "2026-03-17", None),
    ],
)
def test_the_status_says_when_a_grant_is_next_renewed(
    grant: Callable[[str], None], sql: Sql, due_at: str | None, claim_until: str | None, expected: str | None
) -> None:
    """It is not before the end of a call that is under way."""
    sql("UPDATE grants SET due_at = %s", due_at)
    if claim_until:
        grant(f"claim_owner = '{UUID(int=1)}', claimed_at = '2026-03-14', claim_until = '{claim_until}'")
    [row] = sql("SELECT next_renewal_at::date::text FROM token_status")
    assert row["next_renewal_at"] == expected


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ("state = 'fresh'", "grants_state_check"),
        ("obtained_from = 'elsewhere'", "grants_obtained_from_check"),
        ("user_id = ''", "grants_subject_check"),
        ("provider_user_id = ''", "grants_subject_check"),
        ("state = 'erased', refresh_ciphertext = NULL, due_at = NULL", "grants_erased_is_empty_check"),
        ("state = 'erased', access_ciphertext = NULL, due_at = NULL", "grants_erased_is_empty_check"),
        (
            "state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL",
            "grants_erased_is_empty_check",
        ),
        ("state = 'reauthorization_required', due_at = NULL", "grants_dead_has_reason_check"),
        ("state = 'in_doubt'", "grants_doubt_has_time_check"),
        ("claim_owner = gen_random_uuid()", "grants_claim_whole_check"),
        ("claim_until = now()", "grants_claim_whole_check"),
        ("claim_owner = gen_random_uuid(), claim_until = now()", "grants_claim_whole_check"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(
    grant: Callable[[str], None], columns: str, constraint: str
) -> None:
    """Each state brings along what it needs, and nothing that it excludes."""
    with pytest.raises(errors.CheckViolation) as caught:
        grant(columns)
    assert caught.value.diag.constraint_name == constraint


def test_negative_versions_are_refused(grant: Callable[[str], None], sql: Sql) -> None:
    """A version counts from nothing upwards."""
    with pytest.raises(errors.CheckViolation):
        sql(INSERT.replace("'access', 3", "'access', -1"), "google-oauth2|2222")


def test_an_identity_has_one_grant(grant: Callable[[str], None], sql: Sql) -> None:
    """The same identity cannot be stored twice, at the same tenant."""
    with pytest.raises(errors.UniqueViolation):
        sql(INSERT, "google-oauth2|1111")
    with pytest.raises(errors.ForeignKeyViolation):
        sql(INSERT.replace("'default'", "'other'"), "google-oauth2|1111")


def test_a_connection_with_grants_is_not_deleted(grant: Callable[[str], None], sql: Sql) -> None:
    """What renewal needs cannot be taken away from under the grants."""
    with pytest.raises(errors.ForeignKeyViolation):
        sql("DELETE FROM connections")


@pytest.mark.parametrize(
    "columns",
    [
        "circuit_opened_at = now()",
        "circuit_until = now()",
        "circuit_code = 'invalid_client', circuit_blame = 'operator'",
        "circuit_opened_at = now(), circuit_until = now()",
    ],
)
def test_a_circuit_is_open_as_a_whole(grant: Callable[[str], None], sql: Sql, columns: str) -> None:
    """An open circuit has a beginning, an end and a code, or it is not open."""
    with pytest.raises(errors.CheckViolation):
        sql(f"UPDATE connections SET {columns}")


@pytest.mark.parametrize(
    ("columns", "connection", "state", "reason"),
    [
        ("state = 'active'", "problem = NULL", "active", None),
        ("expires_at = now() - interval '1 h'", "problem = NULL", "active", None),
        ("state = 'unrenewable', reason = 'no_refresh_token', expires_at = now() + interval '1 h'", "problem = NULL",
         "unrenewable", "no_refresh_token"),
        ("state = 'unrenewable', reason = 'no_refresh_token', expires_at = now()", "problem = NULL",
         "expired", "no_refresh_token"),
        ("state = 'unrenewable', reason = 'no_refresh_token', expires_at = NULL", "problem = NULL",
         "unrenewable", "no_refresh_token"),
        ("state = 'in_doubt', in_doubt_since = now(), reason = 'read_timeout'", "problem = NULL",
         "in_doubt", "read_timeout"),
        ("expires_at = now() + interval '1 h'", "problem = 'development_keys'", "unrenewable", "development_keys"),
        ("expires_at = now()", "problem = 'development_keys'", "expired", "development_keys"),
        ("state = 'active'", "circuit_opened_at = now(), circuit_until = now(), circuit_code = 'invalid_client', circuit_blame = 'operator'",
         "blocked", "invalid_client"),
        ("state = 'in_doubt', in_doubt_since = now()",
         "circuit_opened_at = now(), circuit_until = now(), circuit_code = 'invalid_client', circuit_blame = 'operator'",
         "blocked", "invalid_client"),
        ("state = 'reauthorization_required', reason = 'lost_in_rotation', due_at = NULL",
         "circuit_opened_at = now(), circuit_until = now(), circuit_code = 'invalid_client', circuit_blame = 'operator'",
         "reauthorization_required", "lost_in_rotation"),
        ("state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL", "problem = 'not_shown'",
         "erased", None),
    ],
)  # fmt: skip
def test_the_state_that_is_shown(
    grant: Callable[[str], None], sql: Sql, columns: str, connection: str, state: str, reason: str | None
) -> None:
    """token_status derives what follows from the connection, and keeps what is the grant's own."""
    grant(columns)
    sql(f"UPDATE connections SET {connection}")
    assert sql("SELECT state, reason FROM token_status") == [{"state": state, "reason": reason}]


def test_the_database_stores_an_identity_once(grant: Callable[[str], None], sql: Sql) -> None:
    """Under two users, or in two statements, it would have two refresh tokens that end each other."""
    del grant
    with pytest.raises(errors.UniqueViolation):
        sql(INSERT, "auth0|another")


def test_an_admin_grant_is_shown_as_one(grant: Callable[[str], None], sql: Sql) -> None:
    """In token_status an admin grant has no user, and is told from a user's."""
    sql("UPDATE grants SET user_id = '', provider_user_id = ''")
    assert sql("SELECT kind, user_id, provider_user_id, has_refresh_token FROM token_status") == [
        {"kind": "admin", "user_id": None, "provider_user_id": None, "has_refresh_token": True}
    ]


def test_the_views_show_no_ciphertext_and_no_refresh_token(sql: Sql) -> None:
    """token_status has no bytes at all; served_tokens has what is sealed under the access ring and nothing of the refresh token."""
    columns = sql(
        "SELECT table_name AS view, column_name AS name, data_type AS type FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name IN ('token_status', 'served_tokens')"
    )
    sealed = {(column["view"], column["name"]) for column in columns if column["type"] == "bytea"}
    assert sealed == {("served_tokens", "access_ciphertext"), ("served_tokens", "extra_ciphertext")}
    for column in columns:
        assert "shown" not in column["name"]
        assert "refresh" not in column["name"] or column["view"] == "token_status"
    refresh = {column["name"] for column in columns if "refresh" in column["name"]}
    assert refresh == {"has_refresh_token", "refresh_expires_at"}


def test_the_views_cannot_be_written_through(grant: Callable[[str], None], sql: Sql) -> None:
    """The joined view takes no update, and an update through the plain one still meets the trigger."""
    with pytest.raises(psycopg.Error):
        sql("UPDATE token_status SET state = 'active'")
    with pytest.raises(errors.IntegrityConstraintViolation):
        sql("UPDATE served_tokens SET access_version = 0")
