"""``export``: refresh tokens leave recorded and encrypted, and another vault goes on with them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from emulators.client import Emulation
from tests.integration.cli.test_commands import Run, Sql, company, run
from tests.support.database import cloned_database
from tests.support.keys import REFRESH_KEY
from token_vault.keyring import KeyRing

__all__ = ["company", "run"]  # the fixtures of the commands' tests

USERS = [
    ("google-oauth2|1111", "google-oauth2"),
    *((f"bitbucket|bitbucket-{n}", "bitbucket") for n in range(3)),
]


def living(company: Emulation) -> list[str]:
    """The refresh tokens that the providers take."""
    found = [company.live(*user)["refresh_token"] for user in USERS]
    return [*map(str, found), str(company.admin_live("corp-google")["refresh_token"])]


def test_a_move_to_another_vault(
    run: Run,
    company: Emulation,
    sql: Sql,
    tmp_path: Path,
    run_folder: Path,
    worker_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a paused vault has exported, a second one renews, and the first one sends nothing any more."""
    run("sync")
    sql("UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL")
    assert run("renew").code == 0
    key, file = tmp_path / "move.key", tmp_path / "grants.jsonl"
    key.write_text(KeyRing.generate().reveal(), encoding="utf-8")
    exported = run("export", "--all", "--pause", "--reason", "a move", "--key-file", str(key),
                   "--output", str(file), "--json")  # fmt: skip
    assert (exported.code, exported.json["exported"]) == (0, 5)
    written = file.read_text(encoding="utf-8")
    assert not any(token in written for token in living(company))
    assert file.stat().st_mode & 0o777 == 0o600
    with cloned_database(run_folder / "postgres", f"second_{worker_id}") as second:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("DATABASE_URL", second.reveal())
            assert run("import", str(file)).code == 2  # without the key
            imported = run("import", str(file), "--key-file", str(key), "--json")
            assert (imported.code, imported.json["results"]) == (0, {"imported": 4, "present": 1})
            assert run("sync").code == 0
            renewed = living(company)
            for user, connection in USERS:
                got = run("get", "--user", user, "--connection", connection)
                assert company.holder(got.out.strip()) is not None
        sql("UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL")
        assert run("renew").code == 1
        assert living(company) == renewed
    outcomes = sql("SELECT outcome, count(*) FROM audit_records GROUP BY outcome ORDER BY outcome")
    assert [tuple(row.values()) for row in outcomes] == [("Exported", 5), ("Paused", 1)]


def test_lines_are_of_one_connection_and_under_the_refresh_ring(
    run: Run, company: Emulation, sql: Sql
) -> None:
    """Standard output has the lines of what was named, with the time of the last login, and that renewal goes on."""
    run("sync")
    exported = run("export", "--connection", "bitbucket", "--reason", "a look")
    run("pause", "--connection", "bitbucket", "--reason", "a move")
    again = run("export", "--connection", "bitbucket", "--reason", "a look")
    assert "renewal goes on here" not in again.err
    lines = [json.loads(line) for line in exported.out.splitlines()]
    assert {line["connection"] for line in lines} == {"bitbucket"}
    assert all("refresh_token" not in line for line in lines)
    assert len(lines) == 3
    logins = sql("SELECT observed_updated_at AS at FROM grants WHERE connection = 'bitbucket'")
    assert {datetime.fromisoformat(line["consented_at"]) for line in lines} == {row["at"] for row in logins}
    assert "renewal goes on here" in exported.err
    assert REFRESH_KEY.reveal() not in exported.out


def test_plain_text_goes_to_a_new_file_alone(run: Run, company: Emulation, tmp_path: Path) -> None:
    """Refresh tokens in plain text are written for their owner alone, and over no file."""
    run("sync")
    file = tmp_path / "grants.jsonl"
    plain = ("export", "--all", "--plaintext", "--reason", "a move")
    refused = run(*plain)
    assert (refused.code, refused.out) == (2, "")
    assert run(*plain, "--output", str(file)).code == 0
    tokens = {json.loads(line)["refresh_token"] for line in file.read_text(encoding="utf-8").splitlines()}
    assert tokens == set(living(company))
    assert file.stat().st_mode & 0o777 == 0o600
    again = run(*plain, "--output", str(file))
    assert (again.code, "--output" in again.err) == (2, True)


def test_nothing_leaves_that_cannot_be_recorded(run: Run, company: Emulation, sql: Sql) -> None:
    """Where the audit takes no record, no line is written."""
    run("sync")
    sql("ALTER TABLE audit_records ADD CONSTRAINT full_disk CHECK (outcome <> 'Exported') NOT VALID")
    try:
        exported = run("export", "--all", "--reason", "a move")
    finally:
        sql("ALTER TABLE audit_records DROP CONSTRAINT full_disk")
    assert exported.code != 0
    assert exported.out == ""


def test_what_no_other_vault_can_renew_is_left_out_and_told(
    run: Run, company: Emulation, sql: Sql, tmp_path: Path
) -> None:
    """An import takes every line; what is not among them is told by why, and what it refuses until something is fixed."""
    company.add_connection("on-dev-keys", "google-oauth2", "google", client_id="")
    company.add_users("on-dev-keys", 2, prefix="dev-")
    company.add_users("google-oauth2", 1, prefix="online-", refresh=False)
    run("sync")
    sql("UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', due_at = NULL"
        " WHERE user_id = 'bitbucket|bitbucket-0'")  # fmt: skip
    file = tmp_path / "grants.jsonl"
    export = ("export", "--all", "--reason", "a move")
    exported = run(*export, "--output", str(file), "--json")
    left_out = {"development_keys": 2, "no_refresh_token": 1, "reauthorization_required": 1}
    assert (exported.code, exported.json["exported"], exported.json["left_out"]) == (0, 4, left_out)
    assert exported.json["troubled"] == []
    checked = run("import", "--dry-run", str(file))
    assert (checked.code, checked.out) == (0, "4 grants: present 4\n")
    sql(
        "UPDATE connections SET problem = 'no_client_secret', problem_message = 'enter it' WHERE name = 'bitbucket'"
    )
    told = run(*export).err
    assert "2 grants left out: on Auth0's development keys" in told
    assert "1 grant left out: there is no refresh token" in told
    assert (
        "2 grants of connection bitbucket exported, which an import refuses until this is put right: enter it"
        in told
    )
