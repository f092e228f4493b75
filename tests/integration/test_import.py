"""Refresh tokens from another store: stored first, verified by one renewal each, never in place of newer ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emulators.client import Emulation
from tests.integration.cli.test_commands import Run, Sql, company, run
from tests.support.keys import REFRESH_KEY
from tests.support.renewals import Renewals
from tests.support.wait import until
from worker.runtime import Runtime
from worker.transfer.imports import Importer, ImportResult
from worker.transfer.lines import TransferLine, parse_line
from worker.vault import pauses
from worker.vault.pauses.pauses import PauseScope
from worker.vault.transfers import imported
from worker.vault.transfers.cipher import TransferCipher

__all__ = ["company", "run"]  # the fixtures of the commands' tests

Result = ImportResult


def lines_of(tenant: Emulation, users: Sequence[str], connection: str = "c") -> list[TransferLine]:
    """The living refresh tokens of users, as another store has them."""
    found = []
    for number, user in enumerate(users, start=1):
        token = tenant.live(user, connection)["refresh_token"]
        line = json.dumps({"user_id": user, "connection": connection, "refresh_token": token})
        parsed = parse_line(number, line, tenant="default")
        assert isinstance(parsed, TransferLine)
        found.append(parsed)
    return found


def importer(worker: Runtime, batch_size: int = 100) -> Importer:
    """What imports into a worker's vault."""
    cipher = TransferCipher([REFRESH_KEY])
    return Importer(worker.vault, worker.connections, worker.engine, cipher, batch_size)


async def import_lines(worker: Runtime, lines: Sequence[TransferLine], **options: Any) -> Counter[Result]:
    """Import lines without mistakes; count what became of them."""
    work = importer(worker)
    assert await work.find_mistakes(lines) == {}
    return Counter(each.result for each in await work.run(lines, **options))


async def with_connections(renewals: Renewals) -> Runtime:
    """A worker that knows the tenant's connections, and no user."""
    worker = await renewals.worker()
    await (await worker.tenant_sync("default")).sync_connections()
    return worker


async def renewed_elsewhere(renewals: Renewals) -> Runtime:
    """Tokens that another store has renewed since Auth0 got its copies; this vault has none of them."""
    other = await renewals.synced()
    renewals.make_due()
    await other.engine.renew_due(other.tenants)
    renewals.sql("DELETE FROM grants")
    return other


async def test_imported_grants_are_verified_and_stay(renewals: Renewals) -> None:
    """Each token is renewed once; Auth0's older copies, at a provider that ends reused families, replace none."""
    users = renewals.connect("c", users=4)
    worker = await renewed_elsewhere(renewals)
    before = len(renewals.token_calls("c"))
    lines = lines_of(renewals.tenant, users)
    assert await import_lines(worker, lines) == {Result.IMPORTED: 4}
    assert len(renewals.token_calls("c")) == before + 4
    await renewals.sync(worker)
    assert all(renewals.holds_what_lives(worker.vault, user, "c") for user in users)
    assert await import_lines(worker, lines) == {Result.PRESENT: 4}
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    assert all(renewals.holds_what_lives(worker.vault, user, "c") for user in users)
    for line in lines:
        assert line.refresh is not None
        row = renewals.row(line.key.user_id)
        await imported.forget_observed(worker.vault, row["id"], line.refresh)
    # These grants are alive, so Auth0's older copies stay known, and are not ingested.
    assert all(row["observed_refresh"] for row in renewals.rows())


async def test_a_login_after_the_import_is_ingested(renewals: Renewals) -> None:
    """What Auth0 shows first is no news unless the user has logged in since."""
    [user] = renewals.connect("c")
    worker = await renewed_elsewhere(renewals)
    await import_lines(worker, lines_of(renewals.tenant, [user]))
    renewals.sql("UPDATE grants SET imported_at = imported_at - interval '1 hour'")
    renewals.tenant.login(user, "c")
    await renewals.sync(worker)
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_a_refused_client_stops_after_the_first(renewals: Renewals) -> None:
    """One call shows that the client is wrong; the other tokens are neither sent nor stored."""
    users = renewals.connect("c", users=5)
    worker = await with_connections(renewals)
    renewals.tenant.fail_next("/idp/c", 100, "error:invalid_client")
    assert await import_lines(worker, lines_of(renewals.tenant, users)) == {
        Result.UNVERIFIED: 1,
        Result.STOPPED: 4,
    }
    assert len(renewals.token_calls("c")) == 1
    assert len(renewals.rows()) == 1


async def test_a_provider_that_fails_later_stops_the_rest(renewals: Renewals) -> None:
    """After a batch of which no renewal succeeds, the other tokens are neither sent nor stored."""
    users = renewals.connect("c", users=7)
    worker = await with_connections(renewals)
    work = importer(worker, batch_size=2)

    def fail_after_the_first(done: int, _: int) -> None:
        if done == 1:
            renewals.tenant.fail_next("/idp/c", 100, "error:invalid_client")

    work.progress = fail_after_the_first
    found = Counter(each.result for each in await work.run(lines_of(renewals.tenant, users)))
    assert found == {Result.IMPORTED: 1, Result.UNVERIFIED: 2, Result.STOPPED: 4}
    assert len(renewals.rows()) == 3


async def test_a_dead_grant_comes_back_to_its_readers(renewals: Renewals) -> None:
    """A grant whose user was taken for deleted is served again once an import has revived it."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    renewals.sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', reason_since = now(),"
        " due_at = NULL, missing_since = now(), withdrawn_at = now()"
    )
    assert await import_lines(worker, lines_of(renewals.tenant, [user])) == {Result.IMPORTED: 1}
    row = renewals.row(user)
    assert (row["state"], row["missing_since"], row["withdrawn_at"]) == ("active", None, None)


@pytest.mark.parametrize(
    ("scope", "paused"),
    [
        (PauseScope(), True),
        (PauseScope("default"), True),
        (PauseScope("default", "c"), True),
        (PauseScope("default", "other"), False),
    ],
)
async def test_nothing_is_imported_where_calls_are_paused(
    renewals: Renewals, scope: PauseScope, paused: bool
) -> None:
    """No token is stored that could not be verified: whatever pauses its connection is told before."""
    users = renewals.connect("c")
    worker = await with_connections(renewals)
    await pauses.start(
        worker.vault, scope, reason="a move", by="ann", until=None, now=await worker.vault.now()
    )
    mistakes = await importer(worker).find_mistakes(lines_of(renewals.tenant, users))
    assert list(mistakes) == ([1] if paused else [])


async def test_one_dead_token_stops_nobody(renewals: Renewals) -> None:
    """A refused token is named; the others are imported, and Auth0's copy of that grant is ingested by a sync."""
    users = renewals.connect("c", users=3)
    worker = await with_connections(renewals)
    lines = lines_of(renewals.tenant, users)
    wrong = json.dumps({"user_id": users[1], "connection": "c", "refresh_token": "no-such-token"})
    parsed = parse_line(2, wrong, tenant="default")
    assert isinstance(parsed, TransferLine)
    lines[1] = parsed
    found = await importer(worker).run(lines)
    assert [each.result for each in found] == [Result.IMPORTED, Result.REFUSED, Result.IMPORTED]
    assert found[1].reason == "invalid_grant"
    calls = len(renewals.token_calls("c"))
    assert await import_lines(worker, lines) == {Result.PRESENT: 2, Result.REFUSED: 1}
    assert len(renewals.token_calls("c")) == calls
    await renewals.sync(worker)
    assert renewals.holds_what_lives(worker.vault, users[1], "c")


async def test_what_lives_here_is_kept(renewals: Renewals) -> None:
    """The vault's newer tokens are not replaced by what another store still has."""
    users = renewals.connect("c", users=2)
    worker = await renewals.synced()
    older = lines_of(renewals.tenant, users)
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    renewals.sql("UPDATE grants SET observed_refresh = NULL WHERE user_id = %s", users[1])
    assert await import_lines(worker, older) == {Result.PRESENT: 1, Result.ALIVE: 1}
    assert all(renewals.holds_what_lives(worker.vault, user, "c") for user in users)


async def test_an_erased_user_stays_erased(renewals: Renewals) -> None:
    """A forgotten user comes back by a login, and by no import."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    lines = lines_of(renewals.tenant, [user])
    await (await worker.eraser("default")).forget(user)
    assert await import_lines(worker, lines) == {Result.ERASED: 1}


@pytest.mark.parametrize("dry_run", [False, True])
async def test_an_identity_of_another_user_is_not_imported(renewals: Renewals, dry_run: bool) -> None:
    """The other store may know a user from before accounts were linked: a second grant would end the first."""
    linked, user = renewals.connect("c", users=2)
    worker = await renewals.synced()
    first, second = lines_of(renewals.tenant, [linked, user])
    renewals.sql("UPDATE grants SET user_id = 'auth0|primary' WHERE user_id = %s", linked)
    renewals.sql("DELETE FROM grants WHERE user_id = %s", user)
    result = Result.WOULD_IMPORT if dry_run else Result.IMPORTED
    assert await import_lines(worker, [first, second], dry_run=dry_run) == {Result.ELSEWHERE: 1, result: 1}
    assert len(renewals.token_calls("c")) == (0 if dry_run else 1)
    assert [row["user_id"] for row in renewals.rows()].count(linked) == 0


async def test_an_identity_comes_once_in_a_file(renewals: Renewals) -> None:
    """Two users with one account at the provider are a mistake of the other store."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    [line] = lines_of(renewals.tenant, [user])
    other = replace(line, number=2, key=replace(line.key, user_id="auth0|another"))
    assert await importer(worker).find_mistakes([line, other]) == {2: ["the same grant as in line 1"]}


async def test_a_dry_run_stores_and_sends_nothing(renewals: Renewals) -> None:
    """A dry run says what would happen."""
    users = renewals.connect("c", users=2)
    worker = await with_connections(renewals)
    lines = lines_of(renewals.tenant, users)
    assert await import_lines(worker, lines, dry_run=True) == {Result.WOULD_IMPORT: 2}
    assert (renewals.rows(), renewals.token_calls("c")) == ([], [])


async def test_a_batch_is_stored_whole_or_not_at_all(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in the middle of a batch leaves none of it."""
    users = renewals.connect("c", users=3)
    worker = await with_connections(renewals)
    write: Callable[..., Any] = imported._write

    async def fail_at_the_second(*arguments: Any) -> int | None:
        if arguments[1].user_id == users[1]:
            raise OSError("the disk is full")
        row: int | None = await write(*arguments)
        return row

    monkeypatch.setattr(imported, "_write", fail_at_the_second)
    grants = [
        imported.ImportedGrant(line.key, line.refresh)
        for line in lines_of(renewals.tenant, users)
        if line.refresh
    ]
    with pytest.raises(OSError, match="the disk is full"):
        await imported.store(worker.vault, grants, now=await worker.vault.now())
    assert renewals.rows() == []


def test_mistakes_are_told_all_at_once(run: Run, company: Emulation, sql: Sql, tmp_path: Path) -> None:
    """Each mistake has its line, no message a token, and nothing is stored."""
    token = company.live("google-oauth2|1111", "google-oauth2")["refresh_token"]
    lines = [
        {"user_id": "google-oauth2|1111", "connection": "nothing", "refresh_token": token},
        {"user_id": "google-oauth2|1111", "connection": "google-oauth2", "refresh_token": token},
        {"user_id": "google-oauth2|1111", "connection": "google-oauth2", "refresh_token": token},
    ]
    file = tmp_path / "grants.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    known = run("import", str(file), "--json")
    assert known.code == 2
    assert [each["line"] for each in known.json["mistakes"]] == [1, 3]
    file.write_text(f'{{"{token}": 1}}\n"{token}"\n', encoding="utf-8")
    wrong = run("import", str(file))
    assert (wrong.code, "line 1: " in wrong.err, "line 2: " in wrong.err) == (2, True, True)
    assert str(token) not in known.out + known.err + wrong.out + wrong.err
    assert sql("SELECT 1 FROM grants WHERE user_id <> ''") == []


def test_a_dry_run_in_a_new_vault(run: Run, company: Emulation, sql: Sql, tmp_path: Path) -> None:
    """A dry run reads the connections, says what would happen, and leaves users alone."""
    token = company.live("google-oauth2|1111", "google-oauth2")["refresh_token"]
    file = tmp_path / "grants.jsonl"
    file.write_text(
        json.dumps({"user_id": "google-oauth2|1111", "connection": "google-oauth2", "refresh_token": token}),
        encoding="utf-8",
    )
    tried = run("import", str(file), "--dry-run", "--json")
    assert (tried.code, tried.json["results"]) == (0, {"would_import": 1})
    assert sql("SELECT 1 FROM grants WHERE user_id <> ''") == []
    assert company.call_log("/idp/google-oauth2") == []


def test_a_killed_import_goes_on(run: Run, company: Emulation, sql: Sql, tmp_path: Path) -> None:
    """After SIGKILL in the middle of a call the same command imports the rest, and no token is lost."""
    users = [f"bitbucket|bitbucket-{n}" for n in range(3)]
    file = tmp_path / "grants.jsonl"
    file.write_text(
        "\n".join(
            json.dumps({"user_id": user, "connection": "bitbucket",
                        "refresh_token": company.live(user, "bitbucket")["refresh_token"]})
            for user in users
        ), encoding="utf-8",
    )  # fmt: skip
    run("status")  # the fixture writes the settings that the process reads
    company.configure_provider("bitbucket", like="bitbucket", rotates=False)
    company.fail_next("/idp/bitbucket", 1, "delay:3")
    program = str(Path(sys.executable).with_name("token-vault"))
    with subprocess.Popen([program, "import", str(file)], stderr=subprocess.DEVNULL) as killed:
        until(lambda: bool(sql("SELECT 1 FROM grants WHERE claim_owner IS NOT NULL")), "a grant is claimed")
        killed.kill()
    [row] = sql("SELECT refresh_ciphertext IS NOT NULL AS is_stored FROM grants WHERE user_id <> ''")
    assert row["is_stored"]
    sql("UPDATE grants SET claim_until = now(), due_at = now() WHERE claim_owner IS NOT NULL")
    again = run("import", str(file), "--json")
    assert again.code == 0, again.err
    assert again.json["results"] == {"imported": 3}
