"""The vault as Compose runs it: each service as a role, and a user of Redis, that may do no more than it does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis

from emulators.client import Emulation
from tests.support.database import empty_tables
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.processes import REPOSITORY, Site, site
from tests.support.renewals import Renewals
from tests.support.wait import until
from token_vault.secret import Secret
from worker import embedded
from worker.embedded import Servers, postgres_binary, private_home
from worker.embedded.postgres import Postgres
from worker.embedded.server import Access
from worker.renewal.outcome import Outcome
from worker.vault.db.migrate import migrate
from worker.vault.status.role_problems import RoleProblemKind, find_role_problems
from worker.vault.vault import open_vault

Sql = Callable[..., list[dict[str, Any]]]

_MAX_CONNECTIONS, _RESERVED = 50, 35


class ComposePostgres(Postgres):
    """A Postgres whose owner is a superuser, with connections reserved."""

    def arguments(self, access: Access) -> list[str]:
        """Return the arguments of postgres."""
        settings = (f"max_connections={_MAX_CONNECTIONS}", f"reserved_connections={_RESERVED}")
        return [*super().arguments(access), *(part for each in settings for part in ("-c", each))]

    def _initialise(self, access: Access, alive: int) -> None:
        super()._initialise(access, alive)
        self._sql(self.data, "ALTER ROLE token_vault SUPERUSER;\n", alive)


@dataclass(frozen=True)
class Composed:
    """The servers, and who logs in.

    Attributes:
        secrets: the folder of docker/make-secrets.
        redis_admin: the user whose rights are all.
    """

    secrets: Path
    owner: Secret
    worker: Secret
    api: Secret
    redis_url: Secret
    redis_admin: Secret


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """Servers with the roles of docker/roles.sql and the rights of docker/redis-rights."""
    folder = tmp_path_factory.mktemp("composed")
    secrets = folder / "secrets"
    subprocess.run([REPOSITORY / "docker" / "make-secrets", secrets], check=True, capture_output=True)
    with ExitStack() as stack:
        owner, _ = stack.enter_context(ComposePostgres(private_home(folder / "pg"), durable=False).running())
        assert migrate(owner) == []
        for _ in range(2):  # at each `up`
            make_roles(owner, secrets)
        admin = stack.enter_context(
            embedded.servers(folder / "redis", postgres=False, durable=False)
        ).redis_url
        password = (secrets / "redis_password").read_text(encoding="utf-8")
        rights = (REPOSITORY / "docker" / "redis-rights").read_text(encoding="utf-8").split()
        with redis.Redis.from_url(admin.reveal()) as client:
            client.execute_command("ACL", "SETUSER", "token_vault", "on", f">{password}", *rights)
        yield Composed(
            secrets,
            owner,
            _at((secrets / "worker_database_url").read_text(encoding="utf-8"), owner),
            _at((secrets / "api_database_url").read_text(encoding="utf-8"), owner),
            _at((secrets / "redis_url").read_text(encoding="utf-8"), admin),
            admin,
        )


def make_roles(owner: Secret, secrets: Path) -> None:
    """Run docker/roles.sql as an owner."""
    psql = [str(postgres_binary("psql")), "--no-psqlrc", "--quiet", f"--dbname={owner.reveal()}"]
    made = subprocess.run(
        [*psql, f"--variable=secrets={secrets}", f"--file={REPOSITORY / 'docker' / 'roles.sql'}"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr


def _at(made: str, server: Secret) -> Secret:
    """Return an address that the script has made, of this server."""
    own, there = urlsplit(made), urlsplit(server.reveal())
    assert own.username
    credentials = own.netloc.rpartition("@")[0]
    return Secret(own._replace(netloc=f"{credentials}@{there.hostname}:{there.port}").geturl())


@pytest.fixture
def database_url(composed: Composed) -> Secret:
    """The owner's address of an empty vault."""
    empty_tables(composed.owner)
    return composed.owner


def run(made: Site, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours."""
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *command], env=made.environment, cwd=made.folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_all_services_work_with_the_rights_they_are_given(
    tenant: Emulation, composed: Composed, sql: Sql, tmp_path: Path
) -> None:
    """Workers, beat, the API, commands and `doctor` find nothing that they may not do."""
    tenant.add_connection("custom", "oauth2", "custom")
    (user,) = tenant.add_users("custom", 1)
    servers = Servers(composed.worker, composed.redis_url)
    ready = {name: tmp_path / f"{name}.ready" for name in ("worker", "beat")}
    with site(servers, tenant, tmp_path, schedule="renew = 1\nevents = 1", AUTH0_PLAN="free") as made:
        made.environment["TOKEN_VAULT_READINESS_FILE"] = str(ready["worker"])
        worker = made.worker("all", "renew,sync,interactive")
        until(ready["worker"].exists, "the worker is ready")
        made.environment["TOKEN_VAULT_READINESS_FILE"] = str(ready["beat"])
        beat = made.beat()
        until(ready["beat"].exists, "beat is ready")
        asked = {"user_id": user, "connection": "custom", "force": True}

        def is_renewed_on_demand() -> bool:
            # A tick may have renewed it just now, and so young a token is not renewed on demand.
            sql("UPDATE grants SET obtained_at = obtained_at - interval '1 min'")
            (refreshed,) = made.ask(("worker.refresh_token", "interactive", asked))
            return bool(refreshed["renewed"])

        (synced,) = made.ask(("worker.sync_all", "sync", {}))
        assert synced[0]["problems"] == []
        until(is_renewed_on_demand, "the worker renews")
        doctor = run(made, "doctor")
        assert doctor.returncode == 0, doctor.stdout
        assert " fail " not in doctor.stdout
        made.environment["DATABASE_URL"] = composed.api.reveal()
        api = made.start("serve", sys.executable, "-m", "worker.cli", "serve", "--port", "0")
        api.says("serving at")
        found = re.search(r"serving at (\S+)", api.log)
        assert found
        until(lambda: httpx.get(f"{found[1]}/readyz", trust_env=False).status_code == 200)
        until(lambda: worker.log.count("Task worker.renew_due") > 3, "beat ticks")
        said = {json.loads(line)["event"] for line in beat.log.splitlines() if line.startswith("{")}
        assert said <= {"beat: Starting...", "readiness.reached"}  # nothing of a tick
        logs = worker.log + beat.log + api.log
        assert not re.findall(r"NOPERM|NoPermission|InsufficientPrivilege|may not do this", logs)
        with redis.Redis.from_url(composed.redis_admin.reveal()) as client:
            refused = client.execute_command("ACL", "LOG")
        assert refused == []


REFUSED = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "CONFIG GET requirepass", "CONFIG SET maxmemory 1", "DEBUG SLEEP 0",
    "SHUTDOWN NOSAVE", "ACL LIST", "MONITOR", "CLIENT LIST", "CLIENT KILL TYPE normal", "MODULE LIST", "SWAPDB 0 1", "SAVE",
    "REPLICAOF NO ONE", "RENAME renew another", "SET another x", "GET another", "LPUSH another x", "PUBLISH another x",
    "EVAL return 1 another", "SCRIPT FLUSH", "FUNCTION LIST", "PERSIST unacked_mutex",
)  # fmt: skip


def test_redis_refuses_what_no_service_does(composed: Composed) -> None:
    """The services' user of Redis can empty nothing, configure nothing, list nothing, and reach no other key."""
    with redis.Redis.from_url(composed.redis_url.reveal()) as client:
        for command in REFUSED:
            with pytest.raises(redis.exceptions.ResponseError, match=r"permissions|not allowed"):
                client.execute_command(*command.split())
    with redis.Redis.from_url(composed.redis_admin.reveal()) as client:
        client.execute_command("ACL", "LOG", "RESET")


def open_all(address: str, stack: ExitStack) -> str:
    """Open connections until Postgres refuses one; return how."""
    for _ in range(_MAX_CONNECTIONS):
        try:
            stack.enter_context(psycopg.connect(address, autocommit=True))
        except psycopg.OperationalError as error:
            return str(error)
    return ""


async def test_a_reader_that_opens_all_connections_stops_no_renewal(
    composed: Composed, renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every connection taken that a reader's role can have, a worker connects and renews."""
    monkeypatch.setenv("DATABASE_URL", composed.worker.reveal())
    renewals.connect("strict", users=2)
    renewals.sql("DROP ROLE IF EXISTS flood")
    renewals.sql("CREATE ROLE flood LOGIN PASSWORD 'choose-one' IN ROLE vault_reader")
    there = urlsplit(composed.owner.reveal())
    address = f"postgresql://flood:choose-one@{there.hostname}:{there.port}{there.path}"
    with ExitStack() as stack:
        refusal = open_all(address, stack)
        assert "reserved" in refusal
        worker = await renewals.synced()
        renewals.make_due()
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 2}


def test_an_owner_who_is_no_superuser_makes_the_roles(composed: Composed) -> None:
    """With CREATEROLE, as a hosted Postgres gives it, roles.sql makes both roles, and again changes nothing."""
    with psycopg.connect(composed.owner.reveal(), autocommit=True) as connection:
        connection.execute("DROP ROLE token_vault_worker, token_vault_api")
        connection.execute("CREATE ROLE hosted LOGIN CREATEROLE PASSWORD 'choose-one'")
        connection.execute("GRANT vault_worker TO hosted WITH ADMIN OPTION")
    there = urlsplit(composed.owner.reveal())
    hosted = Secret(f"postgresql://hosted:choose-one@{there.hostname}:{there.port}{there.path}")
    for _ in range(2):
        make_roles(hosted, composed.secrets)
    for url in (composed.worker, composed.api):
        psycopg.connect(url.reveal()).close()


async def test_doctor_names_a_superuser(composed: Composed) -> None:
    """Who runs workers or commands as the owner of Compose is told so; the worker's role is not."""
    for url, found in ((composed.owner, [RoleProblemKind.SUPERUSER]), (composed.worker, [])):
        async with open_vault(url, [ACCESS_KEY], [REFRESH_KEY]) as vault:
            problems = await find_role_problems(vault)
        assert [each.kind for each in problems if each.role.startswith("token_vault")] == found
