"""``pause`` and ``resume``, and that nobody overlooks a pause."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import psycopg
import pytest

from emulators.client import Emulation
from tests.integration.cli.test_commands import Run, Sql, company, run
from token_vault.secret import Secret
from worker.cli import pause_scopes

__all__ = ["company", "run"]  # the fixtures of the commands' tests


def test_a_pause_is_shown_everywhere_until_it_is_ended(run: Run, company: Emulation, sql: Sql) -> None:
    """Since when, by whom and why is in `status`, `doctor`, `renew` and `audit`; grants are listed as paused."""
    run("sync")
    paused = run("pause", "--connection", "bitbucket", "--reason", "a move", "--by", "ann", "--json")
    assert paused.code == 0
    [scope] = paused.json["paused"]
    assert (scope["tenant"], scope["connection"]) == ("default", "bitbucket")
    assert [each["access_tokens"] for each in scope["ending"]][-1] == 3
    listed = run("list", "--state", "paused", "--json").json["grants"]
    assert {row["connection"] for row in listed} == {"bitbucket"}
    said, calls = "connection bitbucket of default", company.call_log("/idp/bitbucket/")
    sql("UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL")
    for command, code in (("status", 0), ("renew", 1)):
        ran = run(command)
        assert ran.code == code
        assert said in ran.err
        assert "by ann: a move" in ran.err
    [found] = [each for each in run("doctor", "--json").json["checks"] if each["name"] == "pause"]
    assert found["result"] == "warn"
    assert said in found["message"]
    assert "token-vault resume" in found["message"]
    refused = run(
        "renew", "--user", "bitbucket|bitbucket-0", "--connection", "bitbucket", "--force", "--json"
    )
    assert (refused.code, refused.json["state"]) == (1, "paused")
    assert company.call_log("/idp/bitbucket/") == calls
    resumed = run("resume", "--connection", "bitbucket")
    assert resumed.code == 0
    assert "by ann: a move" in resumed.out
    assert run("resume", "--all").out == "no such pause is in force\n"
    sql("UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL")
    assert run("renew").code == 0
    outcomes = [row["outcome"] for row in run("audit", "--json").json["reads"]]
    assert outcomes == ["Resumed", "Paused"]


def test_a_wider_pause_is_named(run: Run, company: Emulation) -> None:
    """`resume` of a connection fails while everything is paused, and says so."""
    run("sync")
    assert run("pause", "--all", "--reason", "a move").code == 0
    left = run("resume", "--connection", "bitbucket", "--json")
    assert (left.code, [each["tenant"] for each in left.json["left"]]) == (1, [""])
    assert run("sync").code == 6
    assert run("resume", "--all").code == 0
    assert run("sync").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause", "--all"], "--reason"),
        (["pause", "--all", "--reason", " "], "--reason is empty"),
        (["pause", "--reason", "r"], "say what"),
        (["pause", "--all", "--tenant", "default", "--reason", "r"], "say what"),
        (["pause", "--connection", "nothing", "--reason", "r"], "no connection is called nothing"),
        (["pause", "--tenant", "nobody", "--reason", "r"], "no tenant is called nobody"),
        (["pause", "--all", "--reason", "r", "--until", "2001-01-01"], "over already"),
        (["pause", "--all", "--reason", "r", "--until", "soon"], "a span like 30m"),
        (["resume"], "say what"),
    ],
)
def test_mistakes_pause_nothing(run: Run, sql: Sql, arguments: list[str], said: str) -> None:
    """What is not meant so exits 2, names the option, and pauses nothing."""
    ran = run(*arguments)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert sql("SELECT 1 FROM pauses") == []


@pytest.mark.parametrize("command", [["pause"], ["export", "--pause"]])
def test_when_a_pause_is_told_no_call_is_under_way(
    run: Run,
    company: Emulation,
    sql: Sql,
    database_url: Secret,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    """Who is just claiming a grant is waited for, and then its call: an export that follows misses no new token."""
    run("sync")
    seen = []
    claim = "UPDATE grants SET claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now() + interval '1 h'"

    with psycopg.connect(database_url.reveal()) as worker:
        worker.execute(f"{claim} WHERE user_id = 'bitbucket|bitbucket-0'")

        async def go_on(_seconds: float) -> None:
            seen.append(sql("SELECT count(*) FROM pauses")[0]["count"])
            if len(seen) == 1:
                worker.commit()  # its request is sent now
            else:
                sql("UPDATE grants SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL")

        monkeypatch.setattr(pause_scopes, "asyncio", SimpleNamespace(run=asyncio.run, sleep=go_on))
        ran = run(*command, "--connection", "bitbucket", "--reason", "a move")
    assert (ran.code, seen) == (0, [1, 1])
    assert "paused; 1 call under way is seen to its end" in ran.err
