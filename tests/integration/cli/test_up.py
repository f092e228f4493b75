"""`token-vault up` as an operator meets it: a process, its children, its home, and signals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from emulators.client import Emulation
from tests.support.wait import WAIT_SECONDS, until
from token_vault.errors import ConfigurationError
from token_vault.home import vault_home
from worker import embedded
from worker.cli.environment import with_keys
from worker.embedded.server import is_free
from worker.settings import Settings, load

KEEP = ("PATH", "HOME", "LANG")


def environment(home: Path, **more: str) -> dict[str, str]:
    """An operator's environment: no setting but the home."""
    kept = {name: os.environ[name] for name in KEEP if name in os.environ}
    return kept | {"TOKEN_VAULT_HOME": str(home), "PYTHONUNBUFFERED": "1"} | more


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-c", "import sys; from worker.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)


class Upright:
    """A running `up` with what it says."""

    def __init__(self, log: Path, env: dict[str, str], *arguments: str) -> None:
        self.log, self.env = log, env
        self.home = Path(env["TOKEN_VAULT_HOME"])
        command = [sys.executable, "-c", "import sys; from worker.cli import main; sys.exit(main())", "up"]
        with log.open("w") as output:
            self.process = subprocess.Popen([*command, *arguments], env=env, stdout=output, stderr=output)

    @property
    def said(self) -> str:
        """Everything it said so far."""
        return self.log.read_text()

    def until(self, what: Callable[[], Any]) -> Any:
        """Wait until something holds, and return it."""

        def found() -> Any:
            held = what()
            assert held or self.process.poll() is None, self.said
            return held

        return until(found)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement on the embedded database."""
        found = embedded.find(vault_home(self.home))
        assert found is not None
        with psycopg.connect(found.database_url.reveal(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description is not None else []

    def renewed(self) -> int:
        """How many renewals are counted."""
        ((count,),) = self.sql("SELECT coalesce(sum(count), 0) FROM renewal_counts WHERE outcome = 'renewed'")
        return int(count)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)


@contextmanager
def up(tmp: Path, env: dict[str, str], *arguments: str) -> Iterator[Upright]:
    """Run `up` within the block."""
    started = Upright(tmp / f"up-{time.monotonic_ns()}.log", env, *arguments)
    try:
        yield started
    finally:
        started.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.process.wait(WAIT_SECONDS)
        started.process.kill()
        started.process.wait()


def processes_of(home: Path) -> list[str]:
    """The command lines of all processes that were started for a home."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                mine = any(f"TOKEN_VAULT_HOME={each}".encode() in variables for each in (home, home / "demo"))
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if (mine or str(home) in words) and int(folder.name) != os.getpid() and words:
                    found.append(words)
    return found


def gone(home: Path) -> bool:
    """Whether no process of a home is left, within a while."""
    until(lambda: not processes_of(home), "all have ended")
    return not processes_of(home)


def userinfo(told: Emulation, token: str) -> int:
    """Ask the emulated Google whose token this is; the HTTP status."""
    answer = told.http.get("/idp/userinfo", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code


def over_http(said: str, home: Path) -> str:
    """Get a token from the API that `up` has started; the first one of port 8700 on that is free."""
    url = re.search(r"the API answers at (http://127\.0\.0\.1:87\d\d)", said)
    assert url, said
    until(lambda: not is_free(int(url[1][-4:])), "the API listens")
    key = (home / "demo/api-key").read_text().strip()
    path = "/v1/users/google-oauth2%7C1111/tokens/google-oauth2"
    answer = httpx.get(f"{url[1]}{path}", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    return str(answer.json()["access_token"])


def company(home: Path) -> Emulation:
    """The emulated company of a home's demo."""
    return Emulation.at(load(home / "demo/vault.toml").tenants["demo"].domain)


GET = ("get", "--user", "google-oauth2|1111", "--connection", "google-oauth2")


def test_demo_from_first_start_to_second(tmp_path: Path) -> None:
    """A first `up` runs an emulated company, starts dead children again, and is killed; a second one goes on."""
    home = tmp_path / "home"
    env = environment(home)
    with up(tmp_path, env) as first:
        first.until(lambda: "token, in another terminal" in first.said)
        assert "emulated Auth0 tenant (no AUTH0_DOMAIN is set)" in first.said.splitlines()[0]
        first.sql("UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL")
        first.until(lambda: first.renewed() > 100)
        with company(home) as told:
            token = run(*GET, env=env).stdout.strip()
            assert userinfo(told, token) == 200
            holder = told.holder(token) or {}
            assert (holder["subject"], holder["live"]) == ("1111", True)
            assert told.double_spends() == 0
            assert userinfo(told, over_http(first.said, home)) == 200

        second = run("up", env=env)
        assert (second.returncode, "already running" in second.stderr) == (2, True)
        assert str(first.process.pid) in second.stderr
        doctor = json.loads(run("doctor", "--json", env=env).stdout)
        results = {check["name"]: check["result"] for check in doctor["checks"]}
        assert (results["workers"], results["key rings"], results["Redis"]) == ("ok", "ok", "ok")
        status = json.loads(run("status", "--json", env=env).stdout)
        a_killed_worker_comes_back(first)
        nothing_outlives_its_end(first)
        assert "Traceback" not in first.said

    keys = (home / "demo/keys/refresh").read_text()
    logs = list((home / "demo/logs").iterdir())
    for secret in (token, keys.strip(), (home / "demo/client-secret").read_text()):
        assert not [log for log in logs if secret in log.read_text()]
        assert secret not in first.said
    assert {oct(log.stat().st_mode & 0o777) for log in logs} == {"0o600"}

    assert run("status", env=env).returncode == 0  # works after the kill, and cleans up
    with up(tmp_path, env, "--json") as again:
        again.until(lambda: "token, in another terminal" in again.said)
        assert again.sql("SELECT count(*) FROM grants") == [(sum(status["grants"].values()),)]
        renewed = again.renewed()
        again.sql("UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL")
        again.until(lambda: again.renewed() > renewed + 100)
        with company(home) as told:
            got = run(*GET, "--json", env=env)
            assert userinfo(told, json.loads(got.stdout)["token"]) == 200
        assert (home / "demo/keys/refresh").read_text() == keys
        assert not (home / "postgres").exists()
        lines = [json.loads(line) for line in again.said.splitlines()]
        assert {"at", "status", "processes"} in [set(line) for line in lines]
        assert again.stop(signal.SIGTERM) == 0
        assert gone(home), processes_of(home)
        assert "Traceback" not in again.said


def a_killed_worker_comes_back(running: Upright) -> None:
    """Kill a worker: `up` says that it ended, and starts another."""

    def workers() -> list[int]:
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit()
            and b"interactive@%h" in _read(folder / "cmdline")
            and f"TOKEN_VAULT_HOME={running.home}".encode() in _read(folder / "environ")
        ]

    (pid,) = running.until(workers)
    os.kill(pid, signal.SIGKILL)
    running.until(lambda: "interactive worker ended (SIGKILL); it starts again in 1 s" in running.said)
    running.until(lambda: workers() and workers() != [pid])


def nothing_outlives_its_end(running: Upright) -> None:
    """Kill `up` outright: its children end too."""
    running.process.kill()
    running.process.wait()
    until(
        lambda: (
            not [
                words for words in processes_of(running.home) if "celery" in words or "-m emulators" in words
            ]
        ),
        "its children have ended",
    )


def test_a_real_tenant_is_synced_at_once(
    settings: Callable[[], Settings], tenant: Emulation, tmp_path: Path, sql: Callable[..., list[Any]]
) -> None:
    """With a tenant and servers of one's own, `up` migrates, syncs at once, and serves refreshes asked for by name."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_users("bitbucket", 2)
    configured = settings()
    assert configured.redis_url is not None
    with up(tmp_path, dict(os.environ), "--no-demo") as running:
        running.until(lambda: sql("SELECT 1 FROM grants HAVING count(*) = 2"))
        assert running.said.splitlines()[0].endswith(f"starting with {tenant.auth0_domain}")
        before = tenant.live("bitbucket|bitbucket-0", "bitbucket")["access_token"]
        ran = run("get", "--user", "bitbucket|bitbucket-0", "--min-ttl", "7200", env=dict(os.environ))
        assert ran.returncode == 5  # no token of this provider lives for so long, but one was asked for
        running.until(lambda: tenant.live("bitbucket|bitbucket-0", "bitbucket")["access_token"] != before)
        assert running.stop() == 0
    assert not (tmp_path / "home/demo").exists()
    assert not (tmp_path / "home/postgres").exists()


def test_why_nothing_comes_is_told_without_a_terminal_too(tmp_path: Path) -> None:
    """Where a tenant cannot be synced, `up` repeats the worker's reason and does not just say that nothing is there."""
    tenant = {"AUTH0_DOMAIN": "http://127.0.0.1:9", "AUTH0_CLIENT_ID": "a", "AUTH0_CLIENT_SECRET": "canary"}
    with up(tmp_path, environment(tmp_path / "home", **tenant)) as running:
        running.until(lambda: "last of bulk worker: " in running.said)
        assert "at 127.0.0.1:9: no answer" in running.said
        assert "canary" not in running.said
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"AUTH0_DOMAIN": "http://tenant.example/x"}, "AUTH0_DOMAIN has to be the tenant's domain alone"),
        (
            {"AUTH0_DOMAIN": "http://tenant.example"},
            "AUTH0_DOMAIN has to be the tenant's domain alone: acme.eu.auth0.com; http:// is allowed towards loopback",
        ),
        (
            {"AUTH0_CLIENT_SECRET": "", "AUTH0_PRIVATE_KEY": "canary"},
            "tenant default: AUTH0_PRIVATE_KEY is not an unencrypted",
        ),
    ],
)
def test_credentials_that_do_not_read_are_refused_at_once(
    tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    """Nothing is started for a tenant whose domain or key cannot be one, and the value is not repeated."""
    tenant = {"AUTH0_DOMAIN": "tenant.example", "AUTH0_CLIENT_ID": "a", "AUTH0_CLIENT_SECRET": "canary"}
    ran = run("up", env=environment(tmp_path / "home", **tenant | wrong))
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"token-vault: {said}")
    assert "canary" not in ran.stderr + ran.stdout
    assert not (tmp_path / "home/postgres").exists()


@pytest.mark.parametrize("ends", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
def test_nobody_reads_what_it_says(
    settings: Callable[[], Settings], tenant: Emulation, tmp_path: Path, sql: Callable[..., list[Any]],
    ends: Callable[[], tuple[int, int]],
) -> None:  # fmt: skip
    """Where its pipe or terminal is closed, `up` goes on, and stops in order when it is told to."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_users("bitbucket", 2, expires_in=5)
    home, errors = settings().home, tmp_path / "errors"
    with Path(os.environ["TOKEN_VAULT_CONFIG"]).open("a") as config:
        config.write("\n[schedule]\nrenew = 1\n")
    reading, writing = ends()
    command = [sys.executable, "-c", "import sys; from worker.cli import main; sys.exit(main())", "up"]
    with errors.open("w") as log:
        running = subprocess.Popen(
            [*command, "--no-demo"], env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=writing, stderr=log
        )
    try:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        until(lambda: running.poll() is not None or sql("SELECT 1 FROM renewal_counts"), "it renews")
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.wait(WAIT_SECONDS) == 0
        assert errors.read_text() == ""
        assert gone(home)
    finally:
        running.kill()
        running.wait()


def test_the_demo_leaves_the_operator_s_servers_alone(tmp_path: Path) -> None:
    """Without a tenant, `up` does not put the demo into the database or the broker that the variables name."""
    for variables in (
        {"DATABASE_URL": "postgresql://u:canary@localhost/d"},
        {"REDIS_URL": "redis://:canary@localhost"},
    ):
        ran = run("up", env=environment(tmp_path / "home", **variables))
        assert ran.returncode == 2
        assert "unset DATABASE_URL and REDIS_URL" in ran.stderr
        assert "canary" not in ran.stderr
    assert not (tmp_path / "home").exists()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_keys_of_an_embedded_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are made once, for a new vault alone, readable by their owner; a lost file is not made up again."""
    for name in ("DATABASE_URL", "VAULT_ACCESS_KEYS", "VAULT_REFRESH_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(tmp_path / "home"))
    made = with_keys(load())
    assert made.access_keys != made.refresh_keys
    assert with_keys(load()).refresh_keys == made.refresh_keys == load().refresh_keys
    file = tmp_path / "home/keys/refresh"
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    (tmp_path / "home/postgres/data").mkdir(parents=True)
    file.unlink()
    with pytest.raises(ConfigurationError, match=r"keys/refresh is missing or empty.*restore"):
        with_keys(load())
    file.touch()
    with pytest.raises(ConfigurationError, match="refresh"):
        with_keys(load())
    monkeypatch.setenv("VAULT_REFRESH_KEYS", made.refresh_keys[0].reveal())
    assert with_keys(load()).refresh_keys == made.refresh_keys


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An embedded vault whose servers run without `up`."""
    for name in (
        "DATABASE_URL",
        "REDIS_URL",
        "VAULT_ACCESS_KEYS",
        "VAULT_REFRESH_KEYS",
        "TOKEN_VAULT_CONFIG",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(tmp_path / "home"))
    with_keys(load())
    with embedded.servers(tmp_path / "home", durable=False, redis=False):
        yield tmp_path / "home"


def test_env_prints_what_a_reader_needs(home: Path) -> None:
    """A shell takes the assignments, an app reads with them, and the refresh ring is not among them."""
    printed = run("env", env=environment(home))
    assert printed.returncode == 0, printed.stderr
    names = 'printf "%s\\n" "$DATABASE_URL" "$VAULT_ACCESS_KEYS" "${REDIS_URL-none}"'
    shell = subprocess.run(["sh", "-c", printed.stdout + names], capture_output=True, text=True, check=True)
    url, keys, redis_url = shell.stdout.splitlines()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("token_vault",)
    assert keys == (home / "keys/access").read_text().strip()
    assert redis_url == "none"  # no Redis runs here
    assert (home / "keys/refresh").read_text().strip() not in printed.stdout
    elsewhere = run("env", "--json", env=environment(home, DATABASE_URL=url, VAULT_ACCESS_KEYS=keys))
    assert (elsewhere.returncode, url in elsewhere.stdout + elsewhere.stderr) == (2, False)


def test_commands_work_by_themselves(home: Path, tenant: Emulation) -> None:
    """Without `up`, each command finds or starts the servers, migrates, and `get` renews what is not fresh."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_user("google-oauth2|1111", [{"connection": "google-oauth2", "expires_in": 5}])
    config = home / "vault.toml"
    config.write_text(tenant.config_toml())
    env = environment(
        home,
        AUTH0_DOMAIN=tenant.auth0_domain,
        AUTH0_CLIENT_ID=tenant.client_id,
        AUTH0_CLIENT_SECRET=tenant.client_secret,
        AUTH0_AUDIENCE=tenant.audience,
        AUTH0_PLAN="unlimited",
        TOKEN_VAULT_CONFIG=str(config),
    )
    synced = run("sync", "--json", env=env)
    assert (synced.returncode, json.loads(synced.stdout)["tenants"][0]["new"]) == (0, 1), synced.stderr
    old = tenant.live("google-oauth2|1111", "google-oauth2")["access_token"]
    got = run("get", "--user", "google-oauth2|1111", "--min-ttl", "60", env=env)
    assert (got.returncode, got.stderr) == (0, "")
    new = tenant.live("google-oauth2|1111", "google-oauth2")["access_token"]
    assert got.stdout == f"{new}\n"
    assert new != old
    doctor = json.loads(run("doctor", "--json", env=env).stdout)
    assert [check["name"] for check in doctor["checks"] if check["result"] not in ("ok", "hint")] == [
        "workers"
    ]
    assert not embedded.is_up(home)
    assert userinfo(tenant, got.stdout.strip()) == 200


def test_no_demo_without_a_tenant(tmp_path: Path) -> None:
    """`up --no-demo` without a tenant says what to set, and starts nothing."""
    ran = run("up", "--no-demo", env=environment(tmp_path / "home"))
    assert ran.returncode == 2
    assert "AUTH0_DOMAIN" in ran.stderr
    assert not (tmp_path / "home/postgres").exists()
