"""Plants known secrets everywhere they can be, lets a day full of failures pass, and looks for them afterwards."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import redis

from emulators.client import Emulation, running
from tests.support.canary_search import SecretSearch, everything_in
from tests.support.collector import collecting
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.processes import Process, Site, site
from tests.support.wait import until
from token_vault.secret import Secret
from worker import embedded
from worker.vault.db.migrate import migrate

CANARIES = {
    name: f"canary-{name.replace(' ', '-')}-{os.urandom(16).hex()}"
    for name in (
        "client secret", "real client secret", "m2m secret", "access token", "refresh token", "nested token",
        "option", "token url", "password in a token url", "expires_in", "wrong key",
    )
}  # fmt: skip
PLACES = (
    "redis", "redis traffic", "results", "logs", "postgres log", "database dump", "database files", "spool",
    "process list", "command line", "traces",
)  # fmt: skip


@dataclass
class Evidence:
    """What the day has left behind, by place, and the secrets that were about."""

    places: defaultdict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    secrets: dict[str, str] = field(default_factory=dict)
    issued: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, *contents: str | bytes) -> None:
        for content in contents:
            self.places[place] += content.encode() if isinstance(content, str) else content


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Let the day pass once."""
    folder, found = tmp_path_factory.mktemp("day"), Evidence()
    state = folder / "emulation.json"
    with embedded.servers(folder / "servers", durable=False) as servers:
        migrate(servers.database_url)
        with (
            running(state_file=state, client_secret=CANARIES["m2m secret"]) as tenant,
            watching(servers, folder, found),
            collecting() as collector,
        ):
            furnish(tenant)
            with site(
                servers,
                tenant,
                folder,
                schedule="renew = 1\nchanges = 2\nconnections = 2\nfull = 3",
                TOKEN_VAULT_LOG_LEVEL="DEBUG",
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            ) as here:
                Day(tenant, here, servers, found).pass_()
                collect(found, here, servers)
            found.add("traces", collector.content)
        data = folder / "servers" / "postgres" / "data"
        found.add("database files", *files(data / "base"), *files(data / "pg_wal"))
        found.add("postgres log", *files(data / "log"))
    found.secrets |= CANARIES | {"access key": ACCESS_KEY.reveal(), "refresh key": REFRESH_KEY.reveal()}
    for name, url in (("database", servers.database_url), ("redis", servers.redis_url)):
        found.secrets[f"{name} password"] = str(urlsplit(url.reveal()).password)
    left = json.loads(state.read_text())
    found.secrets |= {f"secret of {client['client_id']}": client["secret"] for client in left["clients"]}
    found.issued = issued(left)
    return found


def furnish(tenant: Emulation) -> None:
    """Make a tenant with a secret in every place that can hold one."""
    tenant.configure_provider("custom", access_life=5)
    tenant.add_connection(
        "custom", "oauth2", "custom", client_secret=CANARIES["client secret"],
        options={"freeform": {"deep": [CANARIES["option"]]}, "app_secret": CANARIES["option"]},
    )  # fmt: skip
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket", client_secret="stored-secret-of-bitbucket")
    tenant.set_client_secret("bitbucket", "bitbucket", CANARIES["real client secret"])
    tenant.add_connection("facebook", "facebook", "facebook")
    tenant.add_connection("corp-google", "google-apps", "google", admin=True)
    for name, url in (
        ("leaky", f"http://idp.example.com/token?key={CANARIES['token url']}"),
        ("leakier", f"https://id:{CANARIES['password in a token url']}@idp.example.com/token"),
    ):
        tenant.add_connection(name, "oauth2", "custom", options={"tokenURL": url})
        tenant.add_users(name, 1)
    tenant.add_connection("calm", "oauth2", "custom")
    for connection, users in (("custom", 20), ("bitbucket", 20), ("facebook", 20), ("calm", 8)):
        tenant.add_users(connection, users, prefix="user")
    tenant.set_identity(
        user("custom", 0), "custom",
        access_token=CANARIES["access token"], refresh_token=CANARIES["refresh token"],
    )  # fmt: skip
    tenant.set_identity(user("custom", 1), "custom", access_token={"value": CANARIES["nested token"]})
    tenant.set_identity(user("custom", 2), "custom", expires_in=CANARIES["expires_in"])


def user(connection: str, number: int) -> str:
    """The id of a connection's user: Auth0 repeats a custom connection's name in it."""
    strategy = {"facebook": "facebook", "bitbucket": "bitbucket"}.get(connection, f"oauth2|{connection}")
    return f"{strategy}|user{number}"


@dataclass
class Day:
    """Syncs, renewals, and everything that can go wrong with them, over real processes at their most talkative."""

    tenant: Emulation
    here: Site
    servers: embedded.Servers
    found: Evidence

    def pass_(self) -> None:
        self.here.beat()
        self.here.worker("bulk", "renew,sync")
        self.here.worker("interactive", "interactive")
        self.ask(("worker.sync_all", "sync", {"full": True}))
        self.here.send(
            ("worker.refresh_token", "interactive", {"user_id": "of no connection"})
        )  # an app's mistake
        self.sql("UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL")
        until(lambda: self.sql("SELECT 1 FROM grants WHERE last_renewed_at IS NOT NULL"), what="renewal")
        lies = self.auth0_lies()
        self.providers_fail()
        commands = self.command_line()
        self.postgres_fails()
        until(lambda: self.lies_told() >= lies, "Auth0 has told all its lies")
        until(lambda: not any(command.running for command in commands), "all commands have ended")
        self.found.add("command line", *(command.log for command in commands))
        for process in self.here.processes:
            process.terminate()

    def auth0_lies(self) -> int:
        """Let Auth0 answer nonsense that holds tokens, now and then; returns how often."""
        token = str(self.tenant.live(user("custom", 5), "custom")["refresh_token"])
        fields = ("users", "identities", "user_id", "options", "access_token", "expires_in")
        lie = json.dumps(dict.fromkeys(fields, token))
        lies = [f"override:{lie}", "malformed_json", f"error:access_denied:{token}"]
        paths = ("/api/v2/users", "/api/v2/connections", "/oauth/token")
        for path in paths:
            for lie in lies:
                self.tenant.fail_next(path, 1, lie)
        return len(lies) * len(paths)

    def lies_told(self) -> int:
        """Ask for some more syncs, with a new token; returns how many lies have been told by now."""
        self.tenant.invalidate_management_tokens()
        self.here.send(*(("worker.sync_user", "sync", {"user_id": user("custom", n)}) for n in range(3, 9)))
        calls = self.tenant.call_log("/api") + self.tenant.call_log("/oauth")
        return sum(call["fault"] is not None for call in calls)

    def providers_fail(self) -> None:
        """Let each failure meet a refresh on demand, and a batch."""
        for connection in ("custom", "facebook", "bitbucket"):
            users = [user(connection, number) for number in range(3, 20)]
            live = self.tenant.live(users[0], connection)
            token = str(live["refresh_token"] or live["access_token"])
            faults = faults_that_echo(token)
            for fault in faults:
                self.tenant.fail_next(urlsplit(self.tenant.token_url(connection)).path, 2, fault)
            self.refresh(*({"user_id": who, "connection": connection} for who in users[: len(faults)]))
            self.sql(
                "UPDATE grants SET due_at = now() WHERE connection = %s AND due_at IS NOT NULL", connection
            )
        self.tenant.fail_next(
            "/idp/google", 1, f"error:invalid_grant:{self.tenant.admin_live('corp-google')}"
        )
        self.refresh({"admin_connection": "corp-google"})
        self.tenant.revoke(user("calm", 0), "calm")
        self.refresh({"user_id": user("calm", 0), "connection": "calm"})

    def refresh(self, *asked: dict[str, str]) -> None:
        self.ask(*(("worker.refresh_token", "interactive", each | {"force": True}) for each in asked))

    def postgres_fails(self) -> None:
        """Refuse answers and drop the workers' connections for a while."""
        self.sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused: %', NEW; END $$;"
            " CREATE TRIGGER refuse BEFORE UPDATE ON grants FOR EACH ROW"
            " WHEN (NEW.access_version > OLD.access_version) EXECUTE FUNCTION refuse()"
        )
        self.sql(  # what went before may have passed for a provider that is away
            "UPDATE connections SET circuit_opened_at = NULL, circuit_until = NULL, circuit_code = NULL,"
            " circuit_blame = NULL WHERE name = 'calm'"
        )
        self.sql("DELETE FROM refusals WHERE connection = 'calm'")
        self.sql("UPDATE grants SET due_at = now() WHERE connection = 'calm' AND due_at IS NOT NULL")
        next(process for process in self.here.processes if process.name == "bulk").says(
            "answer.commit_failed"
        )
        for _ in range(20):
            self.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'token-vault'"
            )
            time.sleep(0.02)
        self.sql("DROP FUNCTION refuse CASCADE")

    def command_line(self) -> list[Process]:
        """Ask commands that may not show a token, in order and out of order, side by side."""
        url, wrong = self.servers.database_url.reveal(), CANARIES["wrong key"]
        commands: list[tuple[str, dict[str, str]]] = [
            ("status --json", {}),
            ("list --limit 500", {}),
            (f"show --user {user('custom', 3)}", {}),
            ("doctor --json", {}),
            (f"renew --user {user('calm', 0)} --connection calm", {}),
            (
                "list",
                {"DATABASE_URL": url.replace("//token_vault:", "//nobody:"), "VAULT_ACCESS_KEYS": wrong},
            ),
            (
                "doctor",
                {"VAULT_REFRESH_KEYS": ACCESS_KEY.reveal(), "REDIS_URL": f"redis://:{wrong}@127.0.0.1:1"},
            ),
            ("sync", {"AUTH0_CLIENT_SECRET": wrong}),
        ]
        program = str(Path(sys.executable).with_name("token-vault"))
        return [
            Process(
                f"command {number}", [program, *arguments.split()],
                self.here.environment | {"OTEL_SDK_DISABLED": "true"} | changed,
                self.here.folder / f"command-{number}.log",
            )
            for number, (arguments, changed) in enumerate(commands)
        ]  # fmt: skip

    def ask(self, *messages: tuple[str, str, dict[str, Any]]) -> None:
        self.found.add("results", json.dumps(self.here.ask(*messages)), "\n")

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.servers.database_url.reveal(), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description is not None else []


def faults_that_echo(token: str) -> list[str]:
    """Ways for a provider to say a token back in answers that nobody expects."""
    fields: list[dict[str, Any]] = [
        {"expires_in": token}, {"scope": {"token": token}}, {"token_type": [token]}, {"refresh_token": {"a": token}},
        {"access_token": None, "error": f"invalid {token}"}, {"access_token": [token], "error": {"message": token}},
    ]  # fmt: skip
    return [
        f"error:invalid_grant_{token}:{token}", f"error:server_error:the token {token} failed",
        f"error:temporarily_unavailable:{token}", "malformed_json", "reset_before", "reset_after", "html200", "500",
        *(f"override:{json.dumps(each)}" for each in fields), f"error:invalid_grant:no such token {token}",
    ]  # fmt: skip


@contextmanager
def watching(servers: embedded.Servers, folder: Path, found: Evidence) -> Iterator[None]:
    """Record what passes through Redis, who runs with which arguments, and what lies in the spool, all the while."""
    done = threading.Event()
    watchers = [
        threading.Thread(target=watch_redis, args=(done, servers.redis_url, found)),
        threading.Thread(target=watch_files, args=(done, folder / "home" / "spool", found)),
    ]
    for watcher in watchers:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()


def watch_redis(done: threading.Event, redis_url: Secret, found: Evidence) -> None:
    url = urlsplit(redis_url.reveal())
    with socket.create_connection((str(url.hostname), int(url.port or 0))) as monitor:
        monitor.sendall(f"AUTH {url.password}\r\nMONITOR\r\n".encode())
        monitor.settimeout(0.1)
        while not done.is_set():
            try:
                found.add("redis traffic", monitor.recv(1 << 20))
            except TimeoutError:
                continue


def watch_files(done: threading.Event, spool: Path, found: Evidence) -> None:
    commands: set[bytes] = set()
    rounds = 0
    while not done.wait(0.03):
        rounds += 1
        for path in spool.iterdir() if spool.is_dir() else ():
            try:
                found.add("spool", path.name, b" ", path.read_bytes(), b"\n")
            except FileNotFoundError:
                continue
        for process in Path("/proc").glob("[0-9]*") if rounds % 10 == 0 else ():
            try:
                command = (process / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if command not in commands:
                commands.add(command)
                found.add("process list", command, b"\n")


def collect(found: Evidence, here: Site, servers: embedded.Servers) -> None:
    """Take what is left when all have stopped."""
    for process in here.processes:
        found.add("logs", process.log)
    with redis.Redis.from_url(servers.redis_url.reveal()) as broker:
        found.add("redis", everything_in(broker))
    found.add("database dump", dump(servers.database_url))


def dump(database_url: Secret) -> bytes:
    url = urlsplit(database_url.reveal())
    arguments = ["-h", str(url.hostname), "-p", str(url.port), "-U", str(url.username), url.path[1:]]
    program = embedded.postgres_binary("pg_dump")
    environment = {**os.environ, "PGPASSWORD": str(url.password)}
    return subprocess.run([program, *arguments], env=environment, capture_output=True, check=True).stdout


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def issued(state: dict[str, Any]) -> dict[str, str]:
    """Every token that the emulated providers have issued, and the clients' secrets."""
    return {
        f"{kind} token {number} of {grant['identity']}": token[0]
        for grant in state["grants"]
        for kind in ("access", "refresh")
        for number, token in enumerate(grant[kind])
    }


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_left(evidence: Evidence, place: str) -> None:
    """After a day of syncs, renewals and failures no token, client secret, key or password can be read here."""
    content = bytes(evidence.places[place])
    assert content
    assert (
        SecretSearch(evidence.secrets, evidence.issued).found(content, disguised=place != "database files")
        == []
    )


def test_the_day_was_eventful(evidence: Evidence) -> None:
    """The day had what it was made for: talkative logs, refusals, lies, dropped connections, messages and results."""
    logs, traffic = bytes(evidence.places["logs"]), bytes(evidence.places["redis traffic"])
    for event in (
        b'"level": "debug"',
        b"renewal.refused",
        b"answer.commit_failed",
        b"management_token.refused",
        b"Traceback",
    ):
        assert event in logs
    assert b"BRPOP" in traffic
    for name in (b"POST token endpoint", b"commit_refusal", b"GET /api/v2/users/{id}", b"refresh"):
        assert name in evidence.places["traces"]
    assert b"celery-task-meta" in traffic
    assert len(evidence.issued) > 100
    for code in (b"invalid_grant", b"invalid_client", b"insecure_token_url", b"bad_option"):
        assert code in evidence.places["database dump"]
    assert b"celery" in evidence.places["process list"]
    assert b"not_found" not in evidence.places["results"]


SECRET = "cust_rt_Zk3vN8-qLw_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0"
DISGUISES: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "cut": lambda secret: secret[:32].encode(),
    "cut in front": lambda secret: secret[-24:].encode(),
    "in a URL": lambda secret: f"GET /x?t={quote(quote(secret, safe=''))}%26&y=%20".encode(),
    "escaped": lambda secret: json.dumps(json.dumps({"t": secret})).encode(),
    "base64": lambda secret: base64.b64encode(secret.encode()),
    "base64 after one": lambda secret: base64.b64encode(b"=" + secret.encode()),
    "base64 after two": lambda secret: base64.urlsafe_b64encode(b"t=" + secret.encode()),
    "basic": lambda secret: b"Basic " + base64.b64encode(f"client:{secret}".encode()),
    "hexadecimal": lambda secret: secret.encode().hex().encode(),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("named", ["planted", "issued", "neither"])
def test_the_hunt_finds(disguise: str, named: str) -> None:
    """The hunt finds a secret in a log behind each disguise, and names it; and finds nothing where nothing is."""
    secret = SECRET if named != "planted" else SECRET.replace("cust_rt_", "canary--")
    known = {"it": secret}
    hunt = SecretSearch(known if named == "planted" else {}, known if named == "issued" else {})
    line = b'{"event": "x", "logger": "worker", "value": "' + DISGUISES[disguise](secret) + b'"}\n'
    if named == "neither" and disguise == "cut in front":
        assert hunt.found(line) == []
    else:
        assert hunt.found(line * 2)
    assert hunt.found(b'{"event": "x", "id": "3f0c5b1e-6a51-4b6e-9d0e-0c1f6f1c2d3e"}' * 100) == []


@pytest.mark.parametrize("kind", ["set", "rpush", "sadd", "zadd", "hset", "xadd", "key"])
def test_the_hunt_finds_in_redis(redis_url: Secret, kind: str) -> None:
    """The hunt finds a secret in values of every type, and in keys."""
    plant = {
        "set": ["k", SECRET], "rpush": ["k", SECRET], "sadd": ["k", SECRET], "zadd": ["k", "1", SECRET],
        "hset": ["k", "field", SECRET], "xadd": ["k", "*", "field", SECRET], "key": [SECRET, "v"],
    }  # fmt: skip
    with redis.Redis.from_url(redis_url.reveal()) as broker:
        assert SecretSearch({"it": SECRET}).found(everything_in(broker)) == []
        broker.execute_command("set" if kind == "key" else kind, *plant[kind])
        assert "it" in SecretSearch({"it": SECRET}).found(everything_in(broker))


@pytest.mark.parametrize("kind", ["text", "bytea"])
def test_the_hunt_finds_in_a_dump(database_url: Secret, sql: Any, kind: str) -> None:
    """The hunt finds a secret in a dump of the database, as text and as bytes."""
    sql(f"INSERT INTO vault_secrets VALUES ('{SECRET if kind == 'text' else 'x'}', '{SECRET}'::bytea)")
    assert "it" in SecretSearch({"it": SECRET}).found(dump(database_url))
