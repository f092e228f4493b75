"""The steps of docs/leaks.md, as an operator takes them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from emulators.client import Emulation
from tests.integration.cli.test_commands import Run, Sql, company, run
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.reader_roles import reader_roles
from tests.support.wait import until
from token_vault import ReauthorizationRequired, TokenVault, VaultError
from token_vault.keyring import KeyRing
from token_vault.secret import Secret

__all__ = ["company", "run"]  # the fixtures of the commands' tests

GOOGLE = ("google-oauth2|1111", "google-oauth2")
BITBUCKET = [(f"bitbucket|bitbucket-{n}", "bitbucket") for n in range(3)]


def set_revocation_url(company: Emulation, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Write the connections' revocation_url into the TOML file."""
    toml = company.config_toml()
    for name in names:
        setting = f'revocation_url = "{company.revocation_url(name)}"'
        table = re.search(rf'^\[connections\."?{name}"?\]$', toml, re.MULTILINE)
        if table:
            toml = f"{toml[: table.end()]}\n{setting}{toml[table.end() :]}"
        else:
            toml = f'{toml}\n[connections."{name}"]\n{setting}\n'
    monkeypatch.setattr(company, "config_toml", lambda: toml)


def refresh_tokens(company: Emulation) -> dict[str, str | None]:
    """The refresh token that the provider takes of each user."""
    return {user: company.live(user, name)["refresh_token"] for user, name in (GOOGLE, *BITBUCKET)}


def test_after_a_dump_and_its_ring(run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the provider rotates, a renewal of all ends the leaked tokens; the others are named, and revoked."""
    run("sync")
    leaked = refresh_tokens(company)
    renewed = run("renew", "--all", "--force", "--json")
    assert (renewed.code, renewed.json["ordered"], renewed.json["left"]) == (0, 5, 0)
    now = refresh_tokens(company)
    assert not any(now[user] == leaked[user] for user, _ in BITBUCKET)
    assert now[GOOGLE[0]] == leaked[GOOGLE[0]]
    assert "google-oauth2" in renewed.json["not_rotated"]
    assert "bitbucket" not in renewed.json["not_rotated"]

    set_revocation_url(company, monkeypatch, "google-oauth2")
    revoked = run("revoke", "--connection", "google-oauth2", "--json")
    assert (revoked.code, revoked.json["revoked"], revoked.json["not_revoked"]) == (0, 1, [])
    assert not any(company.live(*GOOGLE).values())


def test_a_renewal_of_all_goes_on(run: Run, company: Emulation, sql: Sql) -> None:
    """What a killed command had ordered is carried out by the next one, and nothing is ordered twice."""
    run("sync")
    sql("UPDATE grants SET renewal_ordered_at = now(), due_at = now() WHERE connection = 'bitbucket'")
    sql("UPDATE grants SET due_at = now() + interval '1 h' WHERE connection <> 'bitbucket'")
    ran = run("renew", "--all", "--force", "--json")
    assert (ran.code, ran.json["resumed"], ran.json["ordered"]) == (0, True, 3)
    assert ran.json["outcomes"] == {"renewed": 3}


def test_a_killed_revocation_goes_on(
    run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch, sql: Sql
) -> None:
    """After SIGKILL in the middle of a call the same command ends the rest, that call's token among it."""
    set_revocation_url(company, monkeypatch, "bitbucket")
    run("sync")
    company.fail_next("/idp/bitbucket/revoke", 1, "hang")
    arguments = ["revoke", "--connection", "bitbucket"]
    program = str(Path(sys.executable).with_name("token-vault"))
    with subprocess.Popen([program, *arguments], stderr=subprocess.DEVNULL) as killed:
        until(lambda: bool(company.call_log("/idp/bitbucket/revoke")), "the provider is called")
        killed.kill()
    company.release()
    assert sql(
        "SELECT count(*) FROM grants WHERE access_ciphertext IS NOT NULL AND connection = 'bitbucket'"
    ) == [{"count": 0}]
    sql("UPDATE revocations SET claimed_until = now()")  # what the next run would wait for
    ran = run(*arguments, "--json")
    assert (ran.code, ran.json["requested"], ran.json["revoked"]) == (0, 0, 3)
    assert not any(token for user, name in BITBUCKET for token in company.live(user, name).values())


def test_what_cannot_be_revoked_is_listed(run: Run, company: Emulation) -> None:
    """Readers are refused all the same; the exit code is 1, and the fix is named."""
    run("sync")
    ran = run("revoke", "--user", GOOGLE[0])
    assert ran.code == 1
    assert "no_revocation_url" in ran.out
    assert "set revocation_url for the connection and run this again" in ran.err
    refused = run("get", "--user", GOOGLE[0], "--json")
    assert (refused.code != 0, refused.json["error"]["reason"]) == (True, "revoked")
    assert run("get", "--user", BITBUCKET[0][0], "--min-ttl", "0").code == 0


def test_everything_is_revoked(
    run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch, database_url: Secret
) -> None:
    """With --all each user's and each administrator's tokens are dead, and readers say why."""
    run("sync")
    set_revocation_url(company, monkeypatch, "google-oauth2", "bitbucket", "corp-google")
    ran = run("revoke", "--all")
    assert (ran.code, ran.out) == (0, "5 grants revoked at their provider; 0 not proven dead\n")
    assert not any(
        token for user, name in (GOOGLE, *BITBUCKET) for token in company.live(user, name).values()
    )
    assert not any(company.admin_live("corp-google").values())
    with TokenVault(database_url, [ACCESS_KEY]) as reader, pytest.raises(ReauthorizationRequired):
        reader.user_token(*GOOGLE)


@pytest.mark.parametrize(
    "arguments",
    [
        ["revoke"],
        ["revoke", "--all", "--user", "u"],
        ["revoke", "--user", ""],
        ["renew", "--all"],
        ["renew", "--all", "--force", "--user", "u"],
        ["renew", "--all", "--force", "--min-ttl", "5"],
    ],
)
def test_a_scope_is_named(run: Run, company: Emulation, arguments: list[str]) -> None:
    """An unset variable in a script never revokes more than was meant."""
    assert run(*arguments).code == 2


def test_an_unknown_name_is_told(run: Run, company: Emulation) -> None:
    """A mistyped user or connection is no leak that was dealt with."""
    run("sync")
    for arguments in (["revoke"], ["renew", "--all", "--force"]):
        ran = run(*arguments, "--connection", "gogle")
        assert (ran.code, "no connection is called gogle" in ran.err) == (2, True)
    ran = run("revoke", "--user", "google-oauth2|nobody")
    assert (ran.code, "the vault has no grant of user" in ran.err) == (3, True)


def test_after_a_readers_credentials(run: Run, company: Emulation, database_url: Secret, sql: Sql) -> None:
    """A role that may not log in any more, and whose sessions are ended, reads nothing."""
    run("sync")
    run("renew", "--all", "--force")
    with reader_roles(database_url) as new_role:
        url = new_role()
        role = psycopg.conninfo.conninfo_to_dict(url.reveal())["user"]
        with TokenVault(url, [ACCESS_KEY]) as stolen:
            assert stolen.user_token(*GOOGLE).value
            sql(f'ALTER ROLE "{role}" NOLOGIN')
            sql(f'GRANT "{role}" TO CURRENT_USER')  # who made it may end its sessions once a member
            sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", role)
            with pytest.raises(VaultError):
                stolen.user_token(*GOOGLE)


def test_after_the_broker(run: Run, company: Emulation, redis_url: Secret, sql: Sql) -> None:
    """An emptied Redis loses nothing that counts."""
    run("sync")
    with redis.Redis.from_url(redis_url.reveal()) as broker:
        broker.flushdb()
    sql("UPDATE grants SET due_at = now()")
    assert run("renew", "--json").json["outcomes"] == {"renewed": 5}


def test_after_a_key_ring(
    run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch, database_url: Secret, sql: Sql
) -> None:
    """Rotated away, the leaked ring decrypts no row any more, and the vault works on without it."""
    run("sync")
    fresh = {"ACCESS": KeyRing.generate(), "REFRESH": KeyRing.generate()}
    leaked = {"ACCESS": ACCESS_KEY, "REFRESH": REFRESH_KEY}
    for name, key in fresh.items():
        monkeypatch.setenv(f"VAULT_{name}_KEYS", f"{key.reveal()},{leaked[name].reveal()}")
    assert run("keys", "rotate").code == 0
    for name, key in fresh.items():
        monkeypatch.setenv(f"VAULT_{name}_KEYS", key.reveal())
    assert run("renew", "--all", "--force").code == 0
    with TokenVault(database_url, [fresh["ACCESS"]]) as reader:
        assert company.holder(reader.user_token(*GOOGLE).value) is not None
    rows = sql("SELECT access_ciphertext, refresh_ciphertext FROM grants")
    rows += sql("SELECT options_ciphertext FROM connections")
    ciphertexts = [bytes(value) for row in rows for value in row.values() if value is not None]
    assert len(ciphertexts) >= 2 * 5 + 2
    stolen = MultiFernet([Fernet(key.reveal()) for key in leaked.values()])
    for ciphertext in ciphertexts:
        with pytest.raises(InvalidToken):
            stolen.decrypt(ciphertext)


def test_after_a_log(run: Run, company: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's token from a log is ended alone; after a client's secret, all of its connection."""
    set_revocation_url(company, monkeypatch, "google-oauth2", "bitbucket")
    run("sync")
    (user, _), *others = BITBUCKET
    ran = run("revoke", "--user", user, "--json")
    assert (ran.code, ran.json["revoked"], ran.json["not_revoked"]) == (0, 1, [])
    assert not any(company.live(user, "bitbucket").values())
    assert all(token for each in (*others, GOOGLE) for token in company.live(*each).values())

    company.set_client_secret("bitbucket", "bitbucket", "the-new-secret")
    company.set_connection_options("bitbucket", client_secret="the-new-secret")
    assert run("sync").code == 0
    ran = run("revoke", "--connection", "bitbucket", "--json")
    assert (ran.code, ran.json["revoked"], ran.json["not_revoked"]) == (0, len(others), [])
    assert not any(token for each in others for token in company.live(*each).values())
    assert all(company.live(*GOOGLE).values())
