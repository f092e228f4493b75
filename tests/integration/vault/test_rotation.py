"""Rotation of keys on a real vault: nothing newer is overwritten, nothing is left behind, and it may die anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import structlog
from sqlalchemy import LargeBinary

from emulators.client import Emulation
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.rows import opened
from tests.support.wait import WAIT_SECONDS
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.cli import main
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime
from worker.token_pair import TokenPair
from worker.vault import management_token
from worker.vault.claims import Claim, claim_one, store_pair
from worker.vault.claims.spool import Spool
from worker.vault.connections import connection as connections
from worker.vault.db.tables import Base
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.ingest.ingest import ingest
from worker.vault.rotation import rotate
from worker.vault.rotation.ciphertext_columns import CIPHERTEXT_COLUMNS, compare_and_swap
from worker.vault.vault import Vault, open_vault

Sql = Callable[..., list[dict[str, Any]]]
Ran = tuple[int, Any]
NEW_ACCESS, NEW_REFRESH, LOST = (KeyRing.generate() for _ in range(3))
CANARY = "canary"
OWNER = UUID(int=7)


def user(number: int) -> GrantKey:
    return GrantKey("default", "partner", f"auth0|{number}", str(number))


def rings(*, old: bool = True) -> dict[Any, KeyRing]:
    return {
        "access": KeyRing("access", [NEW_ACCESS, *([ACCESS_KEY] if old else [])]),
        "refresh": KeyRing("refresh", [NEW_REFRESH, *([REFRESH_KEY] if old else [])]),
    }


@pytest.fixture
async def filled(vault: Vault) -> Vault:
    """A vault with everything in it that is ever sealed, under the old keys."""
    now = await vault.now()
    for name in ("partner", "another"):
        await connections.store_connection(
            vault, tenant="default", name=name, auth0_id=f"con_{name}", strategy="oauth2",
            options={"client_secret": f"{CANARY}-client-secret"}, notes=[], now=now,
        )  # fmt: skip
    await management_token.store(
        vault, "default", b"credentials", token=Secret(f"{CANARY}-management"),
        expires_at=now + timedelta(hours=1), scopes=None,
    )  # fmt: skip
    shown = [
        IncomingGrant(
            key=user(number), strategy="oauth2",
            pair=TokenPair(
                Secret(f"{CANARY}-access-{number}"), Secret(f"{CANARY}-refresh-{number}"), now + timedelta(hours=1)
            ),
            updated_at=now, issued_at=now,
        )
        for number in range(7)
    ]  # fmt: skip
    await ingest(vault, shown, now=now)
    return vault


@pytest.fixture
def two_keys(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of an operator who has put a new key first in each ring."""
    monkeypatch.setenv("VAULT_ACCESS_KEYS", f"{NEW_ACCESS.reveal()},{ACCESS_KEY.reveal()}")
    monkeypatch.setenv("VAULT_REFRESH_KEYS", f"{NEW_REFRESH.reveal()},{REFRESH_KEY.reveal()}")


@pytest.fixture
async def run(
    two_keys: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Ran]]:
    """Run a command with ``--json``; nothing that any of them says may hold a token or a key."""
    # Other tests log too: what commands set is taken back.
    log_before = structlog.get_config()
    monkeypatch.setattr("worker.logs.configure", log_to_stderr)
    said: list[str] = []

    def ran(*arguments: str) -> Ran:
        code = main([*arguments, "--json"])
        captured = capsys.readouterr()
        said.extend(captured)
        main(arguments)  # for people
        said.extend(capsys.readouterr())
        return code, json.loads(captured.out)

    yield ran
    structlog.configure(**log_before)
    for secret in (CANARY, *(key.reveal() for key in (ACCESS_KEY, REFRESH_KEY, NEW_ACCESS, NEW_REFRESH))):
        assert not any(secret in each for each in said)


def log_to_stderr(**_: object) -> None:
    """Log as commands do, to where they do."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr), cache_logger_on_first_use=False
    )


def without_ciphertexts(sql: Sql) -> dict[str, list[dict[str, Any]]]:
    """All that the vault holds, but for what is sealed."""
    tables = ("grants", "connections", "management_tokens", "vault_secrets", "outbox")
    return {
        table: [
            {name: value for name, value in row.items() if not name.endswith("ciphertext")}
            for row in sql(f"SELECT * FROM {table} ORDER BY 1, 2")
        ]
        for table in tables
    }


def counts(document: dict[str, Any]) -> list[int]:
    """How many ciphertexts of each kind are under the first key, under others, and under none."""
    totals = [0, 0, 0]
    for each in document["ciphertexts"]:
        first, *others = each["by_key"].values()
        totals = [totals[0] + first, totals[1] + sum(others), totals[2] + each["none"]]
    return totals


ALL = 2 * 7 + 2 + 1 + 2


def test_every_column_of_ciphertexts_is_rotated() -> None:
    """No column that is added to a table can be forgotten by rotation: those of ciphertexts are named `ciphertext`."""
    sealed = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary) and column.name.endswith("ciphertext")
    }
    assert {(column.table, column.name) for column in CIPHERTEXT_COLUMNS} == sealed


async def test_all_is_put_under_the_first_keys_and_nothing_else_changes(
    filled: Vault, run: Callable[..., Ran], sql: Sql, database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rotation the old keys can go: every secret opens under the new ones, and no time or state has moved."""
    monkeypatch.setattr(rotate, "PAGE_SIZE", 2)
    before = without_ciphertexts(sql)
    code, shown = run("keys", "status")
    assert (code, counts(shown)) == (0, [0, ALL, 0])
    code, rotated = run("keys", "rotate")
    assert (code, counts(rotated)) == (0, [ALL, 0, 0])
    assert sum(each["re_encrypted"] for each in rotated["ciphertexts"]) == ALL
    assert all(ring["older_keys_removable"] for ring in rotated["rings"].values())
    assert without_ciphertexts(sql) == before
    async with open_vault(database_url, [NEW_ACCESS], [NEW_REFRESH]) as renewed:
        for number, row in enumerate(sql("SELECT * FROM grants ORDER BY user_id")):
            assert opened(renewed, row) == (f"{CANARY}-access-{number}", f"{CANARY}-refresh-{number}")
        for stored in await connections.load_connections(renewed, ["default"]):
            assert connections.decrypt_options(renewed, stored) == {
                "client_secret": f"{CANARY}-client-secret"
            }
        shared = await management_token.load(renewed, "default", b"credentials")
        assert shared is not None
        assert shared[0].reveal() == f"{CANARY}-management"
        assert renewed.fingerprints.of_secret(Secret("a")) == filled.fingerprints.of_secret(Secret("a"))
    code, again = run("keys", "rotate")
    assert (code, sum(each["re_encrypted"] for each in again["ciphertexts"])) == (0, 0)


async def test_a_renewal_between_reading_and_writing_wins(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Sql, two_keys: None,
    database_url: Secret, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What a worker commits after rotation has read the older ciphertext stays, and is the provider's live token."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_user("bitbucket|{1}", [{"connection": "bitbucket"}])
    with monkeypatch.context() as before:
        before.setenv("VAULT_ACCESS_KEYS", f"{ACCESS_KEY.reveal()},{NEW_ACCESS.reveal()}")
        before.setenv("VAULT_REFRESH_KEYS", f"{REFRESH_KEY.reveal()},{NEW_REFRESH.reveal()}")
        runtime = await open_worker()
    await (await runtime.tenant_sync("default")).sync_all()
    loop = asyncio.get_running_loop()
    renewed: list[Any] = []

    def late(connection: Any, column: Any, found: Any, fresh: Any) -> Any:
        if column.content == "refresh tokens" and not renewed:
            sql("UPDATE grants SET due_at = now()")
            renewing = runtime.engine.renew_due(runtime.tenants)
            renewed.append(asyncio.run_coroutine_threadsafe(renewing, loop).result(WAIT_SECONDS))
        return compare_and_swap(connection, column, found, fresh)

    monkeypatch.setattr(rotate, "compare_and_swap", late)
    await asyncio.to_thread(rotate.rotate, database_url, rings(), None)
    assert renewed == [{Outcome.RENEWED: 1}]
    [row] = sql("SELECT * FROM grants")
    async with open_vault(database_url, [NEW_ACCESS, ACCESS_KEY], [NEW_REFRESH]) as vault:
        live = tenant.live("bitbucket|{1}", "bitbucket")
        assert opened(vault, row) == (live["access_token"], live["refresh_token"])
    # The worker that still has the old key first has sealed an access token behind rotation's back: looking once more shows it.
    found = await asyncio.to_thread(rotate.inspect, database_url, rings(), None)
    assert {tally.content: tally.outdated for tally in found if tally.outdated} == {"access tokens": 1}


async def test_an_open_transaction_is_not_waited_for_and_its_token_is_kept(
    filled: Vault, sql: Sql, database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that another transaction is just writing is passed over, and looked at again as that has left it."""
    newer = filled.refresh.encrypt(EncryptionContext.of_grant(user(3), "refresh", 2), Secret("newer"))
    sizes = []
    with psycopg.connect(database_url.reveal()) as other:
        other.execute(
            "UPDATE grants SET refresh_ciphertext = %s, refresh_version = 2 WHERE user_id = 'auth0|3'",
            (newer,),
        )

        def watched(connection: Any, column: Any, found: Any, fresh: Any) -> Any:
            swapped = compare_and_swap(connection, column, found, fresh)
            if column.content == "refresh tokens":
                sizes.append((len(found), len(swapped)))
                other.commit()
            return swapped

        monkeypatch.setattr(rotate, "compare_and_swap", watched)
        tallies = await asyncio.to_thread(rotate.rotate, database_url, rings(), None)
    assert sizes == [(7, 6), (1, 1)]
    assert sum(tally.outdated for tally in tallies) == 1  # its access token was held as well, all the time
    [row] = sql("SELECT * FROM grants WHERE user_id = 'auth0|3'")
    async with open_vault(database_url, [NEW_ACCESS, ACCESS_KEY], [NEW_REFRESH]) as renewed:
        assert opened(renewed, row)[1] == "newer"


DYING = """
import os, signal, sys
from worker.cli import main
from worker.vault.rotation import rotate
rotate.PAGE_SIZE, swap, left = 2, rotate.compare_and_swap, int(sys.argv[1])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def dying(*arguments):
    global left
    left -= 1
    left or sys.argv[2] != "before" or die()
    swapped = swap(*arguments)
    left or die()
    return swapped
rotate.compare_and_swap = dying
sys.exit(main(["keys", "rotate"]))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("page", [1, 3, 9])
async def test_a_rotation_that_is_killed_is_gone_on_with(
    filled: Vault, run: Callable[..., Ran], page: int, moment: str
) -> None:
    """kill -9 before or after any page is written loses nothing, and the next run does what was left."""
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DYING, str(page), moment], capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL
    code, shown = run("keys", "status")
    first, older, none = counts(shown)
    assert (code, first + older, none) == (0, ALL, 0)
    assert older > 0
    code, rotated = run("keys", "rotate")
    assert (code, counts(rotated)) == (0, [ALL, 0, 0])
    assert sum(each["re_encrypted"] for each in rotated["ciphertexts"]) == older


async def test_a_swapped_ciphertext_is_reported_and_not_made_good(
    filled: Vault, run: Callable[..., Ran], sql: Sql
) -> None:
    """Another user's ciphertext in a row is named with both places, and stays as it is; the rest is rotated."""
    sql(
        "UPDATE grants SET refresh_ciphertext = (SELECT refresh_ciphertext FROM grants WHERE user_id = 'auth0|1') "
        "WHERE user_id = 'auth0|2'"
    )
    [before] = sql("SELECT refresh_ciphertext FROM grants WHERE user_id = 'auth0|2'")
    code, rotated = run("keys", "rotate")
    assert (code, counts(rotated)) == (1, [ALL - 1, 0, 1])
    assert sql("SELECT refresh_ciphertext FROM grants WHERE user_id = 'auth0|2'") == [before]
    [problem] = [problem for each in rotated["ciphertexts"] for problem in each["problems"]]
    assert "out of place" in problem
    assert "auth0|1" in problem
    assert "auth0|2" in problem
    assert [ring["older_keys_removable"] for ring in rotated["rings"].values()] == [True, False]


async def test_what_a_lost_key_sealed_is_named_and_keeps_the_old_keys(
    filled: Vault, run: Callable[..., Ran], sql: Sql
) -> None:
    """A ciphertext under a key that is in no ring is named by its user, and no key is called removable."""
    sealed = KeyRing("access", [LOST]).encrypt(
        EncryptionContext.of_grant(user(4), "access", 1), Secret("lost")
    )
    sql("UPDATE grants SET access_ciphertext = %s WHERE user_id = 'auth0|4'", sealed)
    code, rotated = run("keys", "rotate")
    assert (code, counts(rotated)) == (1, [ALL - 1, 0, 1])
    [problem] = [problem for each in rotated["ciphertexts"] for problem in each["problems"]]
    assert "auth0|4" in problem
    assert "VAULT_ACCESS_KEYS" in problem
    assert [ring["older_keys_removable"] for ring in rotated["rings"].values()] == [False, True]
    assert run("keys", "status")[0] == 1


async def test_problems_are_named_up_to_a_bound(filled: Vault, database_url: Secret) -> None:
    """With a wrong ring everything is counted, nothing changed, and not everything named."""
    wrong = KeyRing("refresh", [LOST])
    before = rotate.MAX_NAMED_PROBLEMS
    rotate.MAX_NAMED_PROBLEMS = 3
    try:
        tallies = await asyncio.to_thread(rotate.rotate, database_url, {"refresh": wrong}, None)
    finally:
        rotate.MAX_NAMED_PROBLEMS = before
    assert {tally.content: tally.undecryptable for tally in tallies}["refresh tokens"] == 7
    assert max(len(tally.problems) for tally in tallies) == 3
    assert sum(tally.reencrypted for tally in tallies) == 0


async def test_one_ring_is_rotated_alone(
    filled: Vault, run: Callable[..., Ran], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the access ring is at hand, it is rotated, and the other is said to have been left alone."""
    monkeypatch.delenv("VAULT_REFRESH_KEYS")
    before = sql("SELECT refresh_ciphertext FROM grants ORDER BY id")
    code, rotated = run("keys", "rotate")
    assert (code, counts(rotated), rotated["left_alone"]) == (0, [8, 0, 0], ["refresh"])
    assert sql("SELECT refresh_ciphertext FROM grants ORDER BY id") == before


@pytest.fixture
async def answer(filled: Vault, sql: Sql) -> tuple[Claim, TokenPair]:
    """A claim on a grant, and what its provider has answered."""
    [row] = sql("SELECT id FROM grants WHERE user_id = 'auth0|5'")
    now = await filled.now()
    claim = await claim_one(
        filled, row["id"], owner=OWNER, now=now, until=now + timedelta(minutes=1), by_operator=True
    )
    assert claim is not None
    return claim, TokenPair(Secret(f"{CANARY}-a"), Secret(f"{CANARY}-r"), now + timedelta(hours=1))


async def test_answers_in_the_spool_are_rotated(
    filled: Vault,
    answer: tuple[Claim, TokenPair],
    run: Callable[..., Ran],
    tmp_path: Path,
    database_url: Secret,
) -> None:
    """A spooled answer, a rejected one too, is put under the first key: as private and as old as before, and whole."""
    claim, pair = answer
    folder = tmp_path / "home" / "spool"
    spool = Spool(folder, filled.refresh)
    spool.check()
    now = await filled.now()
    path = spool.save(claim, pair, obtained_at=now, due_at=now)
    rejected = spool.reject(spool.save(claim, pair, obtained_at=now, due_at=now))
    for file in (path, rejected):
        os.utime(file, ns=(1_000_000_000, 1_000_000_000))
    (folder / f".{path.name}.{'0' * 32}.reencrypted").write_bytes(b"half of what a killed rotation wr")
    code, rotated = run("keys", "rotate")
    assert (code, counts(rotated)) == (0, [ALL + 2, 0, 0])
    assert sorted(folder.iterdir()) == sorted([path, rejected])
    for file in (path, rejected):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_mtime_ns == 1_000_000_000
    with pytest.raises(CannotDecrypt):
        spool.read(path)
    renewed = Spool(folder, KeyRing("refresh", [NEW_REFRESH])).read(path)
    assert renewed is not None
    assert renewed.pair == pair
    async with open_vault(database_url, [NEW_ACCESS], [NEW_REFRESH]) as vault:
        assert await store_pair(vault, renewed.claim, renewed.pair, obtained_at=now, due_at=now)


async def test_a_spooled_answer_is_whole_at_every_line(
    filled: Vault, answer: tuple[Claim, TokenPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation that dies before the rename leaves the old file, and one after it the new: never neither."""
    claim, pair = answer
    spool = Spool(tmp_path, filled.refresh)
    now = await filled.now()
    path = spool.save(claim, pair, obtained_at=now, due_at=now)
    rotating_spool = Spool(tmp_path, rings()["refresh"])

    def dead(*_: object) -> Path:
        written = [file for file in tmp_path.iterdir() if file != path]
        assert [stat.S_IMODE(file.stat().st_mode) for file in written] == [0o600]
        assert spool.read(path) is not None
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Spool, "_publish", dead)
        with pytest.raises(KeyboardInterrupt):
            rotating_spool.reencrypt(path)
    still = spool.read(path)
    assert still is not None
    assert still.pair == pair
    assert rotating_spool.reencrypt(path)
    assert rotating_spool.key_index(path) == 0
    spool.remove(path)
    assert not rotating_spool.reencrypt(path)
    assert rotating_spool.key_index(path) is None


async def test_a_reader_without_the_new_key_is_told_which_ring_lacks_it(
    filled: Vault, sql: Sql, database_url: Secret
) -> None:
    """A process that lacks the key which a rotation has put first learns the variable, and what to do."""
    await asyncio.to_thread(rotate.rotate, database_url, rings(), None)
    [row] = sql("SELECT * FROM grants WHERE user_id = 'auth0|1'")
    with pytest.raises(CannotDecrypt, match=r"VAULT_ACCESS_KEYS.*has to be in the ring of every process"):
        opened(filled, row)


async def test_the_doctor_warns_of_what_does_not_open(
    filled: Vault, run: Callable[..., Ran], sql: Sql
) -> None:
    """What is under an older key is well and named; what is under none is a warning that says where to look."""

    async def found() -> tuple[str, str]:
        _, said = await asyncio.to_thread(run, "doctor")
        [check] = [check for check in said["checks"] if check["name"] == "ciphertexts"]
        return check["result"], check["message"]

    result, message = await found()
    assert result == "ok"
    assert "under older keys, until `token-vault keys rotate`" in message
    sealed = KeyRing("access", [LOST]).encrypt(
        EncryptionContext.of_grant(user(4), "access", 1), Secret("lost")
    )
    sql("UPDATE grants SET access_ciphertext = %s WHERE user_id = 'auth0|4'", sealed)
    result, message = await found()
    assert result == "warn"
    assert "1 does not open: `token-vault keys status`" in message
