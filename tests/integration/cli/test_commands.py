"""The commands against real servers and an emulated tenant, with DATABASE_URL as in production."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from emulators.client import Emulation
from tests.support.command_log import log_as_commands
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.wait import WAIT_SECONDS, until
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker import __version__, embedded
from worker.cli import list_grants, main
from worker.settings import Settings

Sql = Callable[..., list[dict[str, Any]]]


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(
    settings: Callable[[], Settings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Run a command in this process; at the end, nothing any command said may hold a secret."""
    log_as_commands(monkeypatch)
    monkeypatch.delenv("COLUMNS", raising=False)
    said: list[str] = []

    def ran(*arguments: str) -> Ran:
        settings()
        code = main(arguments)
        captured = capsys.readouterr()
        if arguments[0] != "get":
            said.append(captured.out)
        said.append(captured.err)
        return Ran(code, captured.out, captured.err)

    yield ran
    for secret in (ACCESS_KEY.reveal(), REFRESH_KEY.reveal()):
        assert not any(secret in each for each in said)


@pytest.fixture
def company(tenant: Emulation) -> Emulation:
    """Two connections with users, and one with an admin's grant."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_connection("corp-google", "google-apps", "google", admin=True)
    tenant.add_user("google-oauth2|1111", [{"connection": "google-oauth2"}])
    tenant.add_users("bitbucket", 3)
    return tenant


def tokens(company: Emulation) -> list[str]:
    """Every secret that the emulation knows and the vault has seen."""
    found = [company.client_secret]
    users = [("google-oauth2|1111", "google-oauth2")] + [
        (f"bitbucket|bitbucket-{n}", "bitbucket") for n in range(3)
    ]
    for user_id, connection in users:
        found += filter(None, company.live(user_id, connection).values())
    found += filter(None, company.admin_live("corp-google").values())
    return [*found, *(company.connection(name)["options"]["client_secret"] for _, name in users)]


def test_help_loads_nothing_heavy() -> None:
    """The help is shown without loading Celery, SQLAlchemy, Alembic or an HTTP client."""
    program = (
        "import sys\nfrom worker.cli import main\ncode = main(['--help'])\n"
        "heavy = {'celery', 'sqlalchemy', 'alembic', 'httpx', 'psycopg', 'rich', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(
        command in done.stdout
        for command in ("up", "migrate", "sync", "renew", "get", "list", "show", "status", "doctor", "keys")
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["get"],
        ["get", "--user", "u", "--admin", "c"],
        ["get", "--admin", "c", "--connection", "c"],
        ["get", "--admin", "c", "--account", "a"],
        ["get", "--user", ""],
        ["get", "--user", "\udcff"],
        ["list", "--connection", "\udcff"],
        ["events", "--since", "999999999d"],
        ["get", "--user", "u", "--min-ttl", "-1"],
        ["renew", "--account", "a"],
        ["show"],
        ["list", "--state", "nonsense"],
        ["list", "--limit", "0"],
        ["list", "--limit", "9" * 20],
        ["events", "--limit", "9" * 20],
        ["sync", "--user", "u", "--connection", "c"],
        ["sync", "--user", "u", "--erase"],
        ["sync", "--connection", "c", "--erase"],
        ["renew", "--force"],
        ["renew", "--min-ttl", "5"],
        ["renew", "--due", "--admin", "c"],
        ["renew", "--user", "u"],
        ["renew", "--user", "", "--connection", "c"],
        ["status", "--tenant", "nobody"],
    ],
)
def test_wrong_usage_is_code_2_and_one_line(run: Run, arguments: list[str]) -> None:
    """Wrong arguments are refused in one line, with ``--json`` in a document."""
    ran = run(*arguments, "--json")
    assert ran.code == 2
    assert ran.err.startswith("token-vault: ")
    assert len(ran.err.splitlines()) == 1
    assert ran.json["error"]["message"] in ran.err


def test_keys_generate(run: Run) -> None:
    """New keys come as lines for the environment, bare, or as a document, and are never the same."""
    both = run("keys", "generate").out.splitlines()
    bare = run("keys", "generate", "--ring", "refresh").out.strip()
    document = run("keys", "generate", "--json").json
    assert [line.partition("=")[0] for line in both] == ["VAULT_ACCESS_KEYS", "VAULT_REFRESH_KEYS"]
    made = [line.partition("=")[2] for line in both] + [bare, document["access"], document["refresh"]]
    assert len(set(made)) == 5
    for key in made:
        KeyRing("access", [Secret(key)])


def test_sync_and_renew(run: Run, company: Emulation, sql: Sql) -> None:
    """A sync brings everything, a second one nothing new; a renewal renews what is due and then finds nothing."""
    first = run("sync", "--json")
    assert (first.code, first.json["ok"]) == (0, True)
    (report,) = first.json["tenants"]
    assert {name: report[name] for name in ("tenant", "seen", "new", "connections", "failed", "problems")} == {
        "tenant": "default", "seen": 4, "new": 5, "connections": 3, "failed": 0, "problems": [],
    }  # fmt: skip
    assert "4 users; grants: 0 new, 0 changed, 5 unchanged" in run("sync", "--full").out
    assert run("sync", "--full", "--connection", "google-oauth2").code == 0
    sql("UPDATE grants SET due_at = now()")
    renewed = run("renew", "--json")
    assert (renewed.code, renewed.json) == (0, {"ok": True, "outcomes": {"renewed": 5}})
    assert run("renew", "--due").out == "nothing is due\n"
    assert company.double_spends() == 0


def test_sync_of_one(run: Run, company: Emulation) -> None:
    """One user, or one connection, is synced alone; what Auth0 does not have is said."""
    assert run("sync", "--user", "google-oauth2|1111", "--json").json["tenants"][0]["seen"] == 1
    assert run("sync", "--connection", "bitbucket", "--json").json["tenants"][0]["new"] == 3
    assert "3 connections" in run("sync").out
    for wanted in (("--user", "google-oauth2|nobody"), ("--connection", "nothing")):
        ran = run("sync", *wanted, "--json")
        assert (ran.code, ran.json["error"]["type"]) == (1, "Auth0NotFound")


def test_sync_tells_its_problems(run: Run, company: Emulation) -> None:
    """Where something was not read, the exit code is 1 and the fix is named."""
    company.set_scopes(["read:users", "read:user_idp_tokens", "read:connections"])
    ran = run("sync", "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert "read:connections_options" in ran.json["tenants"][0]["problems"][0]
    assert "read:connections_options" in run("sync").err


def test_sync_beside_another(run: Run, company: Emulation, database_url: Secret) -> None:
    """A sync while another process syncs does nothing, says so and is no success."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as other:
        other.execute("INSERT INTO leases VALUES ('sync of default', 'another', now() + interval '1 hour')")
        ran = run("sync")
        assert run("sync", "--json").json["tenants"][0]["skipped"] is True
    assert ran.code == 1
    assert "another process is at this sync" in ran.out


def test_renew_one(run: Run, company: Emulation) -> None:
    """One grant is renewed on request; one whose user withdrew the consent is reported as dead."""
    run("sync")
    one = ("--user", "google-oauth2|1111", "--connection", "google-oauth2")
    forced = run("renew", *one, "--force", "--json")
    assert (forced.code, forced.json["outcome"], forced.json["renewed"]) == (0, "renewed", True)
    fresh = run("renew", *one, "--json")
    assert (fresh.code, fresh.json["outcome"]) == (0, "fresh")
    assert run("renew", "--admin", "corp-google", "--force").code == 0
    company.revoke("google-oauth2|1111", "google-oauth2")
    dead = run("renew", *one, "--force", "--json")
    assert (dead.code, dead.json["outcome"], dead.json["ok"]) == (4, "reauthorization_required", False)
    missing = run("renew", "--user", "x", "--connection", "google-oauth2", "--json")
    assert (missing.code, missing.json["error"]["type"]) == (3, "TokenNotFound")


def test_renew_fails_with_a_summary(run: Run, company: Emulation, sql: Sql) -> None:
    """A renewal that leaves something to fix has exit code 1 and says how many came to what."""
    run("sync")
    company.revoke("bitbucket|bitbucket-0", "bitbucket")
    sql("UPDATE grants SET due_at = now()")
    ran = run("renew")
    assert (ran.code, ran.out) == (1, "reauthorization_required 1, renewed 4\n")


def test_get_prints_the_token_alone(run: Run, company: Emulation) -> None:
    """What is printed is the live token and nothing else, and its one connection need not be named."""
    run("sync")
    live = company.live("google-oauth2|1111", "google-oauth2")["access_token"]
    ran = run("get", "--user", "google-oauth2|1111", "--min-ttl", "0")
    assert (ran.code, ran.out, ran.err) == (0, f"{live}\n", "")
    document = run(
        "get", "--user", "google-oauth2|1111", "--connection", "google-oauth2", "--json", "--min-ttl", "0"
    ).json
    assert document["token"] == live
    assert set(document) == {"token", "expires_at", "scopes"}
    admin = run("get", "--admin", "corp-google", "--min-ttl", "0").out
    assert admin.strip() == company.admin_live("corp-google")["access_token"]


def test_get_renews_here_where_nobody_else_does(
    run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a Redis to ask over, a token that is about to end is renewed by the command itself."""
    run("sync")
    monkeypatch.delenv("REDIS_URL")
    before = run("get", "--user", "google-oauth2|1111", "--min-ttl", "0").out
    asked_too_much = run("get", "--user", "google-oauth2|1111", "--min-ttl", "7000", "--json")
    # A new one was got, which shows that this provider's never live for so long.
    assert (asked_too_much.code, asked_too_much.json["error"]["type"]) == (5, "TokenExpired")
    after = company.live("google-oauth2|1111", "google-oauth2")["access_token"]
    assert after != before.strip()
    assert run("get", "--user", "google-oauth2|1111", "--min-ttl", "0").out == f"{after}\n"


def test_get_names_what_the_token_is_for(
    run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token for a resource is another than the grant's own; scopes that were not granted are told."""
    company.add_connection("azure", "waad", "entra")
    (user,) = company.add_users("azure", 1)
    run("sync")
    monkeypatch.delenv("REDIS_URL")  # so that the command renews by itself
    own = run("get", "--user", user, "--min-ttl", "0").out
    for_graph = ("get", "--user", user, "--resource", "https://graph.microsoft.com", "--json")
    graph = run(*for_graph).json
    assert graph["token"] != own.strip() != ""
    by_scopes = run("get", "--user", user, "--scopes", "https://graph.microsoft.com/.default")
    assert (by_scopes.code, by_scopes.out.strip() not in ("", own.strip(), graph["token"])) == (0, True)
    missing = run(*for_graph, "--needs", "Everything.Write")
    assert missing.json["error"]["type"] == "MissingScopes"
    assert run("get", "--user", user, "--scopes", "a\tü").code == 2


def test_get_says_what_there_is(run: Run, company: Emulation) -> None:
    """A user of several connections is told to name one; a user of none, that there is none."""
    company.link("google-oauth2|1111", "bitbucket|bitbucket-0")
    run("sync")
    several = run("get", "--user", "google-oauth2|1111", "--json")
    assert several.code == 2
    assert "bitbucket | google-oauth2" in several.json["error"]["message"]
    none = run("get", "--user", "google-oauth2|2222", "--json")
    assert (none.code, none.json["error"]["type"]) == (3, "TokenNotFound")
    assert run("get", "--user", "google-oauth2|1111", "--connection", "other").code == 3
    assert run("get", "--admin", "bitbucket").code == 3


def test_accounts_of_one_connection(
    run: Run, company: Emulation, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several linked accounts the primary one is meant, another is named; where none is meant, all are listed."""
    company.add_user("google-oauth2|2222", [{"connection": "google-oauth2"}])
    company.add_user("google-oauth2|3333", [{"connection": "google-oauth2"}])
    for other in ("google-oauth2|2222", "google-oauth2|3333"):
        company.link("google-oauth2|1111", other)
    run("sync")
    monkeypatch.delenv("REDIS_URL")  # so that each command renews by itself
    mine = ("--user", "google-oauth2|1111", "--connection", "google-oauth2")

    def token(*more: str) -> str:
        ran = run("get", *mine, "--min-ttl", "0", *more)
        assert ran.code == 0, ran.err
        return ran.out

    accounts = ("1111", "2222", "3333")
    assert len({token("--account", account) for account in accounts}) == 3
    assert token() == token("--account", "1111")
    before = [token("--account", account) for account in accounts]
    assert run("renew", *mine, "--account", "2222", "--force").code == 0
    changed = [token("--account", account) != was for account, was in zip(accounts, before, strict=True)]
    assert changed == [False, True, False]
    sql("DELETE FROM grants WHERE provider_user_id = '1111'")
    for command in ("get", "renew"):
        error = run(command, *mine, "--json").json["error"]
        assert error["type"] == "AmbiguousAccount"
        assert "2222, 3333" in error["message"]


def test_get_of_a_dead_grant_names_the_reason(run: Run, company: Emulation) -> None:
    """A program that asks for a dead grant's token learns why there is none, and since when."""
    run("sync")
    company.revoke("google-oauth2|1111", "google-oauth2")
    run("renew", "--user", "google-oauth2|1111", "--connection", "google-oauth2", "--force")
    error = run("get", "--user", "google-oauth2|1111", "--min-ttl", "9999", "--json").json["error"]
    assert (error["type"], error["reason"]) == ("ReauthorizationRequired", "invalid_grant")
    assert error["since"].endswith("+00:00")


def test_list(run: Run, company: Emulation) -> None:
    """Grants are listed by user, connection and state, as many as are asked for."""
    run("sync")
    assert len(run("list", "--json").json["grants"]) == 5
    some = run("list", "--connection", "bitbucket", "--limit", "2", "--json").json
    assert ([row["connection"] for row in some["grants"]], some["more"]) == (["bitbucket", "bitbucket"], True)
    (one,) = run("list", "--user", "google-oauth2|1111", "--json").json["grants"]
    assert (one["state"], one["has_refresh_token"]) == ("active", True)
    assert run("list", "--state", "blocked", "--json").json == {
        "grants": [],
        "more": False,
        "total": 0,
        "next": None,
    }
    exact = run("list", "--limit", "5", "--json").json
    assert (len(exact["grants"]), exact["more"], exact["next"]) == (5, False, None)
    table = run("list", "--limit", "2")
    assert [len(table.out.splitlines()), "first 2 of 5" in table.err] == [3, True]
    after = run("list", "--limit", "2", "--json").json["next"]
    rest = run("list", "--limit", "1", "--after", after).err
    assert "shown: the first 1 after the cursor, of 5; --limit shows more, and --after " in rest
    assert run("list", "--state", "blocked").out.startswith("connection ")


@pytest.mark.parametrize("order", ["id", "expires", "user"])
def test_a_list_goes_on_where_it_ended(
    run: Run, company: Emulation, sql: Sql, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """In each order the pages after each other are the whole list, also in pages of one and where ends are unknown."""
    run("sync")
    sql("UPDATE grants SET expires_at = NULL WHERE user_id = 'bitbucket|bitbucket-0'")
    whole = run("list", "--sort", order, "--json").json
    ids = [row["id"] for row in whole["grants"]]
    assert (len(set(ids)), whole["total"], whole["next"]) == (5, 5, None)
    ends = [row["expires_at"] or "9999" for row in whole["grants"]]
    assert order != "expires" or ends == sorted(ends)
    monkeypatch.setattr(list_grants, "PAGE_ROWS", 1)
    lines = run("list", "--sort", order, "--json-lines").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids
    assert len(run("list", "--sort", order).out.splitlines()) == 6
    found: list[int] = []
    after: list[str] = []
    while True:
        page = run("list", "--sort", order, "--limit", "2", "--json", *after).json
        found += [row["id"] for row in page["grants"]]
        assert page["total"] == 5
        if not page["more"]:
            break
        after = ["--after", page["next"]]
    assert found == ids
    assert run("list", "--sort", "expires", "--after", "nonsense").code == 2


def test_a_list_of_some(run: Run, company: Emulation, sql: Sql) -> None:
    """Grants are found by provider and by the end of their token; `show` takes the id that logs name."""
    run("sync")
    sql("UPDATE grants SET expires_at = '2020-01-01' WHERE user_id = 'bitbucket|bitbucket-0'")
    (one,) = run("list", "--expires-before", "2020-01-02", "--json").json["grants"]
    assert one["user_id"] == "bitbucket|bitbucket-0"
    assert run("list", "--provider", "bitbucket", "--json").json["total"] == 3
    assert run("list", "--expires-before", "soon").code == 2
    assert run("show", "--grant", str(one["id"]), "--json").json["grants"] == [one]
    assert run("show", "--grant", "999999").code == 3
    assert run("show", "--grant", "1", "--user", "u").code == 2


def test_show(run: Run, company: Emulation) -> None:
    """All status columns of a user's grants are shown, by connection too, and of an admin's."""
    run("sync")
    (grant,) = run("show", "--user", "google-oauth2|1111", "--json").json["grants"]
    assert (grant["provider"], grant["kind"], grant["attempts"]) == ("google", "user", 0)
    assert run("show", "--admin", "corp-google", "--json").json["grants"][0]["kind"] == "admin"
    assert (
        "google-oauth2|1111"
        in run("show", "--user", "google-oauth2|1111", "--connection", "google-oauth2").out
    )
    assert run("show", "--user", "google-oauth2|1111", "--connection", "bitbucket").code == 3


def test_show_parts_grants(run: Run, tenant: Emulation) -> None:
    """Several grants of a user are shown with an empty line between."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    linked = {"connection": "bitbucket", "user_id": "bitbucket-1"}
    tenant.add_user("google-oauth2|1111", [{"connection": "google-oauth2"}, linked])
    run("sync")
    shown = run("show", "--user", "google-oauth2|1111").out.split("\n\n")
    assert [each.count("\nconnection ") for each in shown] == [1, 1]


def test_status(run: Run, company: Emulation, sql: Sql) -> None:
    """The status counts grants by state, names connections, the last sync and renewals."""
    assert run("status", "--json").json["grants"] == {}
    assert "last sync: none yet" in run("status").out
    run("sync")
    sql("UPDATE grants SET due_at = now()")
    run("renew")
    status = run("status", "--json").json
    assert status["grants"] == {"active": 5}
    assert {row["name"] for row in status["connections"]} == {"google-oauth2", "bitbucket", "corp-google"}
    assert status["last_sync"][0]["finished_at"].endswith("+00:00")
    assert status["renewals"]["last_hour"] == {"renewed": 5}
    assert "grants: active 5" in run("status").out
    assert (status["last_changes"], "look for changes" in run("status").out) == ([], False)
    sql("UPDATE sync_runs SET scope = 'changes' WHERE scope = 'all'")
    assert "last look for changes at default: ended" in run("status").out


def test_status_counts_ended_tokens_as_the_alerts_do(run: Run, company: Emulation, sql: Sql) -> None:
    """Ended tokens are not counted as active, and the lag of renewals is shown, as by the monitoring page's queries."""
    run("sync")
    assert "renewal is on time" in run("status").out
    assert run("status", "--json").json["late"] == {"grants": 0, "behind": None}
    sql("UPDATE grants SET expires_at = now() - interval '1 s' WHERE connection = 'bitbucket'")
    sql("UPDATE grants SET due_at = now() - interval '90 s' WHERE user_id = 'bitbucket|bitbucket-0'")
    sql("UPDATE grants SET due_at = now() - interval '1 h' WHERE user_id = 'bitbucket|bitbucket-1'")
    # What cannot be renewed is not late.
    sql("UPDATE grants SET due_at = now() - interval '1 d' WHERE connection = 'corp-google'")
    sql("UPDATE connections SET problem = 'development_keys' WHERE name = 'corp-google'")
    status = run("status", "--json").json
    assert status["grants"] == {"active": 1, "ended": 3, "unrenewable": 1}
    assert {row["name"]: row["grants"] for row in status["connections"]}["bitbucket"] == {"ended": 3}
    assert len(run("list", "--state", "ended", "--json").json["grants"]) == 3
    assert len(run("list", "--state", "active", "--json").json["grants"]) == 1
    guide = (Path(__file__).parents[3] / "docs/operating.md").read_text(encoding="utf-8")
    alerts = re.findall(r"^-- Alert .*\n(SELECT [^;]*);", guide, re.M)
    [ended], [late] = sql(alerts[0]), sql(alerts[1])
    assert (ended["connection"], ended["count"]) == ("bitbucket", status["grants"]["ended"])
    assert (late["count"], status["late"]["grants"]) == (2, 2)
    assert late["behind"].total_seconds() >= status["late"]["behind"] >= 3600
    assert "2 grants are late, by up to 36" in run("status").out


def test_consents_that_end_are_counted_by_week(run: Run, company: Emulation, sql: Sql) -> None:
    """Living grants with a known hard end are counted, by the week in which that is."""
    assert "no consent has a known end" in run("plan", "--reconsent").out
    run("sync")
    sql("UPDATE grants SET consent_expires_at = '2100-01-06 12:00Z' WHERE connection = 'bitbucket'")
    sql("UPDATE grants SET consent_expires_at = '2000-01-06' WHERE connection = 'google-oauth2'")
    [bitbucket] = sql("SELECT count(*) FROM grants WHERE connection = 'bitbucket'")
    week = {
        "tenant": "default",
        "connection": "bitbucket",
        "week": "2100-01-04",
        "grants": bitbucket["count"],
    }
    assert run("plan", "--reconsent", "--json").json == [week]
    assert "2100-01-04" in run("plan", "--reconsent").out


def test_answers_without_access_token_are_told(run: Run, company: Emulation, sql: Sql) -> None:
    """The operator is told which connection's answers lack what, and the remedy."""
    run("sync")
    sql("UPDATE grants SET last_error = 'no_access_token', attempts = 3 WHERE connection = 'bitbucket'")
    assert (
        "grants: the answers bring a refresh token, which is kept, and no access token" in run("status").out
    )
    [found] = [row for row in run("status", "--json").json["connections"] if row["without_access_token"]]
    assert found["name"] == "bitbucket"


def test_several_tenants_are_told_apart(
    run: Run, company: Emulation, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are several tenants, each row of a table begins with its own: connections may have one name."""
    run("sync")
    assert run("status").out.count("\nbitbucket ") == 1
    sql("INSERT INTO connections (tenant, name, strategy) VALUES ('second', 'bitbucket', 'bitbucket')")
    sql("UPDATE grants SET tenant = 'second' WHERE user_id = 'bitbucket|bitbucket-0'")
    for name in ("AUTH0_DOMAIN", "AUTH0_CLIENT_ID", "AUTH0_CLIENT_SECRET"):
        monkeypatch.delenv(name)  # what the vault holds is shown
    for command in (["status"], ["list"]):
        said = run(*command).out
        assert "\ntenant   connection " in f"\n{said}"
        assert "\ndefault  bitbucket " in said
        assert "\nsecond   bitbucket " in said
    assert run("list", "--tenant", "second").out.startswith("connection ")
    assert run("events").out.startswith("tenant  time ")


def test_nothing_but_get_shows_a_token(run: Run, company: Emulation, sql: Sql) -> None:
    """No token, client secret or key stands in what any other command says, in either form, well or failing."""
    before = tokens(company)
    said = []
    for command in (
        ["sync"], ["renew", "--admin", "corp-google", "--force"], ["list"], ["show", "--user", "google-oauth2|1111"],
        ["show", "--admin", "corp-google"], ["status"], ["doctor"], ["get", "--user", "nobody"], ["migrate"],
    ):  # fmt: skip
        for ran in (run(*command), run(*command, "--json")):
            said.append(ran.out + ran.err)
    company.set_client_secret("bitbucket", "bitbucket", "another")
    sql("UPDATE grants SET due_at = now()")
    said += [run("renew").out, run("list", "--state", "blocked").out, run("doctor").out, run("status").out]
    everything = "\n".join(said)
    for secret in (*before, *tokens(company)):
        assert secret not in everything


def test_what_steers_a_terminal_is_not_printed(run: Run, tenant: Emulation) -> None:
    """An id with control characters in it cannot move the operator's cursor."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_user("google-oauth2|\x9b2J\x07evil", [{"connection": "google-oauth2", "user_id": "evil"}])
    run("sync")
    assert not {"\x9b", "\x07"} & set(run("list").out)
    assert "evil" in run("list").out


def test_an_unforeseen_failure_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, company: Emulation
) -> None:
    """What nobody foresaw is named with its place, without its text, which might hold a token."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("canary-token")

    monkeypatch.setattr("worker.vault.status.status.load_status", fail)
    ran = run("status", "--json")
    assert ran.code == 1
    assert "unforeseen ValueError" in ran.json["error"]["message"]
    assert "canary-token" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("number", "ignored"),
    [
        (signal.SIGINT, None),
        (signal.SIGTERM, None),
        (signal.SIGHUP, None),
        (signal.SIGTERM, signal.SIGINT),  # what a script starts in the background
    ],
)
@pytest.mark.parametrize(
    "which", [[], ["--user", "google-oauth2|1111", "--connection", "google-oauth2", "--force"]]
)
def test_an_interrupted_renewal_is_seen_to_its_end(
    run: Run,
    company: Emulation,
    sql: Sql,
    number: signal.Signals,
    ignored: signal.Signals | None,
    which: list[str],
) -> None:
    """A signal in the middle of a call ends the command when the answer is stored: it may be the only one."""
    run("sync")
    sql("UPDATE grants SET due_at = now() - interval '1 s' WHERE user_id = 'google-oauth2|1111'")
    before = company.live("google-oauth2|1111", "google-oauth2")["access_token"]
    company.fail_next("/idp/google", 1, "hang")
    # Whatever these tests themselves were started with.
    program = f"""
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, signal.SIG_IGN if number == {ignored and int(ignored)} else usual)
from worker.cli import main
sys.exit(main())
"""
    command = subprocess.Popen([sys.executable, "-c", program, "renew", *which], stderr=subprocess.PIPE)
    until(
        lambda: company.live("google-oauth2|1111", "google-oauth2")["access_token"] != before,
        what="the provider has carried it out, and holds its answer back",
    )
    command.send_signal(number)
    time.sleep(0.5)  # it has heard by now
    company.release()
    said = command.communicate(timeout=WAIT_SECONDS)[1]
    assert (command.returncode, said) == (130, b"")
    (row,) = sql("SELECT claim_owner, obtained_from FROM grants WHERE user_id = 'google-oauth2|1111'")
    assert (row["claim_owner"], row["obtained_from"]) == (None, "renewal")


def test_an_interrupted_command_says_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command quietly, with exit code 130."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.vault.status.status.load_status", interrupt)
    assert run("status") == Ran(130, "", "")


@pytest.mark.parametrize("command", [["status"], ["sync"], ["renew"], ["list"], ["get", "--user", "u"]])
def test_no_database(run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """A database that does not answer is named as such, in one line and with time to wait."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:canary-password@127.0.0.1:1/vault")
    ran = run(*command, "--json")
    assert (ran.code, ran.json["error"]["type"]) == (6, "TemporarilyUnavailable")
    assert "canary-password" not in ran.out + ran.err


def test_production_keys_are_never_made_up(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With DATABASE_URL and a ring without keys, the variable is named and nothing is made; `get` needs one ring."""
    monkeypatch.delenv("VAULT_REFRESH_KEYS")
    ran = run("status", "--json")
    assert (ran.code, ran.json["error"]["type"]) == (2, "ConfigurationError")
    assert "VAULT_REFRESH_KEYS" in ran.err
    assert "VAULT_ACCESS_KEYS" not in ran.err
    assert run("get", "--user", "nobody", "--json").json["error"]["type"] == "TokenNotFound"
    assert not (tmp_path / "home").exists()


def test_no_tenant(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a tenant, a command that needs one says which variables to set."""
    for name in ("AUTH0_DOMAIN", "AUTH0_CLIENT_ID", "AUTH0_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    ran = run("sync")
    assert ran.code == 2
    assert "AUTH0_DOMAIN" in ran.err


@pytest.fixture
def empty_database(servers: embedded.Servers, monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[str]:
    """A database without tables, which DATABASE_URL names."""
    owner = servers.database_url.reveal()
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_vault")
        monkeypatch.setenv("DATABASE_URL", owner.rpartition("/")[0] + "/empty_vault")
        yield "empty_vault"
        connection.execute("DROP DATABASE empty_vault WITH (FORCE)")


def test_migrate(run: Run, empty_database: str) -> None:
    """A production database is migrated when asked, and not before; a second time changes nothing."""
    before = run("status", "--json")
    assert (before.code, "token-vault migrate" in before.err) == (2, True)
    first = run("migrate", "--json").json
    assert (first["from"], bool(first["to"])) == (None, True)
    assert run("migrate", "--json").json == {"from": first["to"], "to": first["to"], "left_to_run": []}
    assert run("status").code == 0


def test_migrate_goes_past_a_pooler(run: Run, database_url: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a direct address the other one is not used: its time-outs and its lock need a session."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://pooler@127.0.0.1:1/nobody")
    assert run("migrate").code == 6  # the pooler does not answer
    monkeypatch.setenv("DATABASE_DIRECT_URL", database_url.reveal())
    assert run("migrate").code == 0
    monkeypatch.setenv("DATABASE_DIRECT_URL", "postgresql://owner@127.0.0.1:1/nobody")
    ran = run("migrate")
    assert (ran.code, "DATABASE_DIRECT_URL" in ran.err, "DATABASE_URL" in ran.err) == (6, True, False)


def test_a_newer_vault(run: Run, empty_database: str) -> None:
    """After a downgrade of the program, it says that the database is ahead, and does not ask to migrate or report it."""
    assert run("migrate").code == 0
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in ("migrate", "doctor"):
        ran = run(command)
        said = ran.out + ran.err
        assert ran.code != 0
        assert "revision 9999, which a newer version" in said
        assert "token-vault migrate" not in said


def test_doctor_finds_nothing_wrong(run: Run, company: Emulation) -> None:
    """Where all is well but that no worker runs, the doctor passes with one warning."""
    run("sync")
    ran = run("doctor", "--json")
    found = {check["name"]: check["result"] for check in ran.json["checks"]}
    assert (ran.code, ran.json["ok"]) == (0, True), ran.out
    assert found.pop("workers") == "warn"
    assert {name for name, result in found.items() if result != "ok"} == {
        "scope read:logs",
        "scope read:events",
    }
    assert {"database", "Redis", "spool", "key rings", "Auth0 default", "scope read:user_idp_tokens"} <= set(
        found
    )


def results(ran: Ran) -> dict[str, tuple[str, str]]:
    """What the doctor found, by check."""
    return {check["name"]: (check["result"], check["message"]) for check in ran.json["checks"]}


def test_doctor_names_each_mend(run: Run, company: Emulation, sql: Sql) -> None:
    """A missing scope and a refused client each fail, with the fix; an optional scope that is missing is mentioned."""
    company.add_connection("dev", "google-oauth2", "google", client_id="", client_secret="")
    company.add_users("dev", 1)
    run("sync")
    company.set_client_secret("bitbucket", "bitbucket", "another")
    company.set_scopes(["read:users", "read:connections", "read:connections_options"])
    sql("UPDATE grants SET due_at = now()")
    run("renew")
    ran = run("doctor", "--json")
    found = results(ran)
    assert ran.code == 1
    assert found["scope read:user_idp_tokens"][0] == "fail"
    assert "without their tokens" in found["scope read:user_idp_tokens"][1]
    assert found["scope read:users"][0] == "ok"
    assert found["scope read:logs"][0] == "hint"
    assert "scans the users by their last update" in found["scope read:logs"][1]
    assert found["scope read:events"][0] == "hint"
    assert found["connection bitbucket"][0] == "fail"
    assert "invalid_client" in found["connection bitbucket"][1]
    assert found["connection dev"][0] == "warn"


def test_doctor_sees_a_key_in_both_rings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in both rings would let readers open refresh tokens: that fails, and the key is not shown."""
    monkeypatch.setenv("VAULT_ACCESS_KEYS", f"{ACCESS_KEY.reveal()},{REFRESH_KEY.reveal()}")
    ran = run("doctor", "--json")
    assert (ran.code, results(ran)["keys"][0]) == (1, "fail")


def test_doctor_sees_keys_of_another_vault(
    run: Run, monkeypatch: pytest.MonkeyPatch, company: Emulation
) -> None:
    """Keys that do not open this vault fail, naming the ring."""
    run("sync")
    monkeypatch.setenv("VAULT_ACCESS_KEYS", KeyRing.generate().reveal())
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "access ring does not open this vault" in ran.out


def test_doctor_sees_servers_that_are_down(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that does not answer and credentials that Auth0 refuses are told side by side."""
    monkeypatch.setenv("REDIS_URL", "redis://:canary-password@127.0.0.1:1/0")
    monkeypatch.setenv("AUTH0_CLIENT_SECRET", "canary-secret")
    ran = run("doctor", "--json")
    found = results(ran)
    assert ran.code == 1
    assert (found["Redis"][0], found["Auth0 default"][0]) == ("fail", "fail")
    assert "canary" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("postgresql://nobody:canary-password@127.0.0.1:1/vault", "the connection was refused"),
        ("postgresql://nobody:canary-password@host.invalid/vault?sslmode=disable", "has no address"),
    ],
)
def test_doctor_goes_on_without_a_database(
    run: Run, monkeypatch: pytest.MonkeyPatch, database: str, says: str
) -> None:
    """What is wrong with Postgres is said with its host, and the other checks are made all the same."""
    monkeypatch.setenv("DATABASE_URL", database)
    ran = run("doctor", "--json")
    found = results(ran)
    assert ran.code == 1
    assert (found["database"][0], found["Redis"][0], found["vault"][0]) == ("fail", "ok", "fail")
    assert {found[name][0] for name in ("Auth0 default", "scope read:users", "spool")} == {"ok"}
    assert says in found["database"][1]
    assert "host " in found["database"][1]
    assert "canary" not in ran.out + ran.err


def test_doctor_makes_no_spool(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that the operator's own account has made the workers could not write: they make it."""
    monkeypatch.setenv("TOKEN_VAULT_SPOOL", str(tmp_path / "absent" / "spool"))
    found = results(run("doctor", "--json"))
    assert found["spool"][0] == "ok"
    assert not (tmp_path / "absent").exists()


def test_doctor_sees_a_spool_without_room(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A spool that cannot be written fails, and one whose disk is nearly full is told."""
    monkeypatch.setattr("worker.cli.doctor.MIN_SPOOL_BYTES", 1 << 60)
    found = results(run("doctor", "--json"))
    assert (found["spool"][0], "MB are free" in found["spool"][1]) == ("warn", True)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOKEN_VAULT_SPOOL", str(tmp_path / "file" / "spool"))
    found = results(run("doctor", "--json"))
    assert (found["spool"][0], "cannot be written" in found["spool"][1]) == ("fail", True)
    assert found["database"][0] == "ok"


def test_doctor_outlives_a_check_that_breaks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen failure of one check is that check's, by its type alone."""

    def broken(*_: object) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr("worker.vault.heartbeats.list_alive", broken)
    ran = run("doctor", "--json")
    found = results(ran)
    assert found["workers"][0] == "fail"
    assert "RuntimeError" in found["workers"][1]
    assert {"Auth0 default", "location", "ciphertexts", "Redis"} <= found.keys()
    assert "canary" not in ran.out + ran.err


def test_doctor_sees_a_read_only_database(run: Run, sql: Callable[..., list[dict[str, Any]]]) -> None:
    """A Postgres that takes no writes is named as read-only; what can be read is."""
    run("sync")
    [row] = sql("SELECT current_database() AS name")
    sql(f"ALTER DATABASE {row['name']} SET default_transaction_read_only = on")
    try:
        found = results(run("doctor", "--json"))
        assert run("status", "--json").json["read_only"] is True
    finally:
        sql("SET default_transaction_read_only = off")
        sql(f"ALTER DATABASE {row['name']} RESET default_transaction_read_only")
    assert found["database writes"][0] == "fail"
    assert "read-only" in found["database writes"][1]
    assert found["database"][0] == "ok"


def test_doctor_sees_a_redis_that_is_full(run: Run, redis_url: Secret) -> None:
    """A Redis that answers and takes no message is of no use, and is told as full."""
    with redis.Redis.from_url(redis_url.reveal()) as broker:
        broker.config_set("maxmemory", "1")
        try:
            found = results(run("doctor", "--json"))
        finally:
            broker.config_set("maxmemory", "0")
    assert found["Redis"][0] == "fail"
    assert "memory is full" in found["Redis"][1]


def test_doctor_sees_a_redis_that_would_drop_tasks(run: Run, redis_url: Secret) -> None:
    """A Redis that evicts queues is told, and a replica is of no use though it takes writes."""
    with redis.Redis.from_url(redis_url.reveal()) as broker:
        broker.config_set("maxmemory-policy", "allkeys-lru")
        try:
            evicting = results(run("doctor", "--json"))
        finally:
            broker.config_set("maxmemory-policy", "noeviction")
        broker.config_set("replica-read-only", "no")
        broker.replicaof("127.0.0.1", "1")
        try:
            replica = results(run("doctor", "--json"))
        finally:
            broker.replicaof("NO", "ONE")
            broker.config_set("replica-read-only", "yes")
    assert evicting["Redis memory"] == (
        "warn", "maxmemory-policy is allkeys-lru, so a full Redis drops queued tasks: set it to noeviction",
    )  # fmt: skip
    assert (replica["Redis"][0], "name the primary" in replica["Redis"][1]) == ("fail", True)


def test_doctor_tells_how_far_renewal_is_behind(run: Run, company: Emulation, sql: Sql) -> None:
    """Late renewals are reported together with ended tokens; ended tokens that are not due are a hint."""
    run("sync")
    assert results(run("doctor", "--json"))["renewal"][0] == "ok"
    sql("UPDATE grants SET expires_at = now() - interval '1 second' WHERE connection = 'bitbucket'")
    result, said = results(run("doctor", "--json"))["renewal"]
    assert (result, "3 tokens that could be renewed have ended" in said) == ("hint", True)
    sql("UPDATE grants SET due_at = now() - interval '10 minutes' WHERE connection = 'bitbucket'")
    result, said = results(run("doctor", "--json"))["renewal"]
    assert (result, "3 grants are late" in said, "beat runs" in said) == ("warn", True, True)


def test_doctor_names_what_only_one_side_knows(
    run: Run, company: Emulation, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that Auth0 does not have is named, with the near one, and a tenant that only the vault has."""
    run("sync")
    sql("INSERT INTO connections (tenant, name, strategy) VALUES ('acme', 'c', 'google-oauth2')")
    toml = f'{company.config_toml()}\n[connections.bitbuckt]\nrenew = "eager"\n'
    monkeypatch.setattr(company, "config_toml", lambda: toml)
    found = results(run("doctor", "--json"))
    assert found["connection bitbuckt"][0] == "warn"
    assert "did you mean bitbucket? Correct the name" in found["connection bitbuckt"][1]
    assert "connection bitbucket" not in found
    result, said = found["tenant acme"]
    assert (result, "renews none of its grants" in said) == ("warn", True)
    assert "tenant default" not in found


def test_doctor_asks_for_a_new_management_token(run: Run, company: Emulation) -> None:
    """Scopes taken away since the shared token was minted are told, though that token has them."""
    run("sync")
    company.set_scopes(["read:users", "read:connections", "read:connections_options"])
    found = results(run("doctor", "--json"))
    assert (found["scope read:user_idp_tokens"][0], found["scope read:users"][0]) == ("fail", "ok")


def test_doctor_sees_a_wrong_clock(run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is wrong is told so, by the database's and by Auth0's."""
    run("sync")
    monkeypatch.setattr("worker.cli.clock_checks.utc_now", lambda: datetime.now(UTC) + timedelta(minutes=10))
    clocks = {name: found for name, found in results(run("doctor", "--json")).items() if "clock" in name}
    assert len(clocks) == 2
    assert "clock of database" in clocks
    for result, said in clocks.values():
        assert (result, "s ahead of it" in said) == ("warn", True)


def test_doctor_names_workers_of_another_version(run: Run, company: Emulation, sql: Sql) -> None:
    """A worker that runs another version than this program is named; one of this version is alive."""
    run("sync")
    statement = (
        "INSERT INTO worker_heartbeats (worker, queues, version, started_at, seen_at)"
        f" VALUES ('old@host', '{{interactive,renew,sync}}', '{__version__}', now(), now())"
    )
    sql(statement)
    assert results(run("doctor", "--json"))["workers"][0] == "ok"
    sql("UPDATE worker_heartbeats SET version = '0.0.7'")
    found = results(run("doctor", "--json"))
    assert found["worker old@host"][0] == "warn"
    assert "version 0.0.7" in found["worker old@host"][1]
    assert run("doctor", "--worker", "old@host").code == 0
    assert run("doctor", "--worker", "other@host").code == 1


def test_doctor_sees_a_database_without_tables(run: Run, empty_database: str) -> None:
    """A database that is not migrated fails with the command that does it."""
    ran = run("doctor", "--json")
    assert (ran.code, results(ran)["database"][0]) == (1, "fail")
    assert "token-vault migrate" in results(ran)["database"][1]
