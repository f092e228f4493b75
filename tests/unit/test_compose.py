"""The production containers, held against the program they run. Read as text: no YAML parser is a dependency."""

import os
import re
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
from celery.bin.celery import celery as celery_command
from click import Context
from cryptography.fernet import Fernet

from token_vault.errors import ConfigurationError
from worker import settings as configuration
from worker.api.service import verifier_of
from worker.cli import app as cli
from worker.liveness import ALIVE_SECONDS
from worker.settings.environment import Environment

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = dict(
    re.findall(
        r"^  ([\w-]+):\n((?:(?:    .*|  #.*)?\n)+)",
        COMPOSE.partition("\nservices:\n")[2].split("\nnetworks:")[0],
        re.M,
    )
)
COMMANDS = {
    name: found[1]
    for name, block in SERVICES.items()
    if (found := re.search(r"^    command: (\w.*)$", block, re.M))
}
IMAGES_OF_OTHERS = {"postgres", "redis", "roles"}


def secrets_of(block: str) -> set[str]:
    """Names in the list `secrets: [a, b]` of a service."""
    found = re.search(r"^ +secrets: \[(.*)\]$", block, re.M)
    return set(found[1].split(", ")) if found else set()


def test_the_services_are_read() -> None:
    """What these tests look at is the whole file, not a part that happened to match."""
    assert set(SERVICES) == {
        "postgres",
        "redis",
        "migrate",
        "roles",
        "worker-renewal",
        "worker-sync",
        "worker-interactive",
        "follow",
        "api",
        "beat",
        "demo",
    }
    assert set(COMMANDS) == {
        "postgres",
        "migrate",
        "worker-renewal",
        "worker-sync",
        "worker-interactive",
        "follow",
        "api",
        "beat",
    }


def test_every_variable_is_known() -> None:
    """No variable is set that the settings would silently ignore, and a `_FILE` only where a secret is meant."""
    known = {name.upper() for name in Environment.model_fields}
    known |= {f"{name}_FILE" for name in configuration.SECRET_NAMES} | {"HTTPS_PROXY", "NO_PROXY"}
    known.add("OTEL_EXPORTER_OTLP_ENDPOINT")
    found = re.findall(r"(?:^ +|\{ )([A-Z][A-Z0-9_]+): ", COMPOSE, re.M)
    given = {name for name in found if not name.startswith("POSTGRES_")}  # the image's own
    assert given <= known
    assert given >= {"AUTH0_DOMAIN", "DATABASE_URL_FILE", "REDIS_URL_FILE", "TOKEN_VAULT_CONFIG"}


def test_a_service_is_given_each_secret_it_reads() -> None:
    """Each path under /run/secrets that a service names is a secret of that service, and no other is mounted."""
    shared = COMPOSE.partition("x-worker:")[2].partition("\nservices:")[0]
    for name, block in SERVICES.items():
        own = block if "secrets:" in block or "*worker" not in block else shared
        if name == "roles":
            own += (
                (ROOT / "docker" / "roles.sql")
                .read_text(encoding="utf-8")
                .replace(":'secrets'", "/run/secrets")
            )
        assert set(re.findall(r"/run/secrets/(\w+)", own)) == secrets_of(own), name
    assert secrets_of(SERVICES["beat"]) == {"redis_url"}
    assert secrets_of(SERVICES["api"]) == {"api_database_url", "vault_access_keys"}
    assert secrets_of(SERVICES["migrate"]) == {"database_url"}


def test_nobody_but_migrate_and_roles_is_the_owner() -> None:
    """The owner's password and address are given to the services that make tables and roles, and to no other."""
    owners = {
        name for name, block in SERVICES.items() if secrets_of(block) & {"database_url", "postgres_password"}
    }
    assert owners == {"postgres", "migrate", "roles"}
    shared = COMPOSE.partition("x-worker:")[2].partition("\nservices:")[0]
    assert "worker_database_url" in secrets_of(shared)
    assert "roles: { condition: service_completed_successfully }" in shared
    assert not {"database_url", "postgres_password"} & secrets_of(shared)
    reserved = re.search(r"reserved_connections=(\d+)", SERVICES["postgres"])
    assert reserved
    assert int(reserved[1]) >= 4 * 20  # of a worker each


def test_redis_knows_one_user_of_few_rights() -> None:
    """The default user of Redis is off, and the one there is begins with no right at all."""
    assert "user default off" in SERVICES["redis"]
    assert "on >$$(cat /run/secrets/redis_password) $$(cat /etc/redis-rights)" in SERVICES["redis"]
    rights = (ROOT / "docker" / "redis-rights").read_text(encoding="utf-8").split()
    assert rights[:3] == ["resetkeys", "resetchannels", "-@all"]
    assert not [each for each in rights if each.startswith("+@") or each in ("~*", "&*", "allkeys")]


def test_every_service_is_contained() -> None:
    """Each container has a read-only root, no capability, no way to new privileges, and limits."""
    contained = COMPOSE.partition("x-contained:")[2].partition("\n\n")[0]
    for rule in (
        "read_only: true",
        "cap_drop: [ALL]",
        '["no-new-privileges:true"]',
        "restart: unless-stopped",
    ):
        assert rule in contained
    for name, block in SERVICES.items():
        assert "<<: *contained" in block or "<<: *worker" in block, name
        assert "limits:" in block or "<<: *worker" in block, name
        assert "healthcheck:" in block or name in ("migrate", "roles", "demo"), name
        assert "user: " in block or name not in IMAGES_OF_OTHERS, name
    assert "ports:" not in COMPOSE


@pytest.mark.parametrize("service", ["worker-renewal", "worker-sync", "worker-interactive", "beat"])
def test_celery_takes_the_command(service: str) -> None:
    """The command line parses, as Celery itself would parse it."""
    program, _, app, command, *options = shlex.split(COMMANDS[service])
    assert (program, app) == ("celery", "worker.app")
    found = celery_command.get_command(Context(celery_command), command)
    assert found is not None
    found.make_parser(Context(found)).parse_args(options)


def test_every_queue_is_worked_on_once() -> None:
    """Each of the application's queues has a worker of its own."""
    names = "from worker.app import app; print(*(queue.name for queue in app.conf.task_queues))"
    environment = {"REDIS_URL": "redis://127.0.0.1:1/0", "PATH": ""}
    there = subprocess.run(
        [sys.executable, "-c", names], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    workers = [name for name in COMMANDS if name.startswith("worker-")]
    queues = [re.search(r"-Q (\S+)", COMMANDS[name]) for name in workers]
    assert sorted(found[1] for found in queues if found) == sorted(there)


def test_health_is_a_files_age() -> None:
    """Workers and beat make and touch the files that their health check looks at; no check starts the program."""
    (file,) = set(re.findall(r"TOKEN_VAULT_LIVENESS_FILE: (\S+)", COMPOSE))
    (ready,) = set(re.findall(r"TOKEN_VAULT_READINESS_FILE: (\S+)", COMPOSE))
    assert f'test: [CMD-SHELL, "test -e {ready} && find {file} -mmin -1 | grep -q ."]' in COMPOSE
    assert ALIVE_SECONDS == 60
    for service in ("worker-renewal", "worker-sync", "worker-interactive", "beat"):
        assert "healthcheck: &probes" in SERVICES[service] or "healthcheck: *probes" in SERVICES[service]
    shared = COMPOSE.partition("x-worker:")[2].partition("\nservices:")[0]
    assert {file, ready} <= set(shared.split())
    assert {file, ready} <= set(SERVICES["beat"].split())
    assert not re.search(r"test:.*(token-vault|celery) ", COMPOSE)


def test_the_check_goes_red_with_the_files_age(tmp_path: Path) -> None:
    """Once the process is ready it holds for a minute after a touch; an old file and a missing one fail it."""
    found = re.search(r'test: \[CMD-SHELL, "(test -e [^"]+)"\]', COMPOSE)
    assert found
    file, ready = tmp_path / "alive", tmp_path / "ready"
    command = found[1].replace("/tmp/alive", str(file)).replace("/tmp/ready", str(ready))

    def healthy() -> bool:
        return subprocess.run(["sh", "-c", command], check=False, stderr=subprocess.DEVNULL).returncode == 0

    assert not healthy()
    file.touch()
    assert not healthy()
    ready.touch()
    assert healthy()
    os.utime(file, (0, time.time() - ALIVE_SECONDS - 1))
    assert not healthy()


def test_token_vault_has_the_commands() -> None:
    """Every `token-vault …` in the compose file and the Dockerfile is a command there is."""
    have = typer.main.get_group(cli).commands
    assert COMMANDS["migrate"].split() == ["token-vault", "migrate"]
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    run = re.search(r'^CMD \["token-vault", "(\w+)", "--demo"\]', docker, re.M)
    assert run
    assert {run[1], "migrate"} <= set(have)


def test_the_image_is_made_of_what_there_is() -> None:
    """Every file that the Dockerfile copies exists and is let through to the builder; it ends as an unprivileged user."""
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    let_through = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M)
    for arguments in re.findall(r"^COPY (?!--from)(.*)$", docker, re.M):
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in let_through
    spool = re.search(r"TOKEN_VAULT_SPOOL: (\S+)", COMPOSE)
    assert spool
    assert f"--mode 0700 {spool[1]}\n" in docker
    assert f'["spool:{spool[1]}"]' in COMPOSE
    stages = re.split(r"^FROM ", docker, flags=re.M)
    assert stages[-1].startswith("base AS production")
    for stage in stages:
        if " AS demo" in stage or " AS production" in stage:
            assert "\nUSER vault\n" in stage
    uninstalled = re.findall(r"pip uninstall --yes (.*?)(?: \\)?\n", docker)
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in f"\n{locked}" for name in " ".join(uninstalled).split() if name != "pip")


def test_secrets_are_made_once(tmp_path: Path) -> None:
    """The script makes what the compose file reads, keys that Fernet takes among it, and never a second time."""
    folder = tmp_path / "secrets"
    command = [ROOT / "docker" / "make-secrets", folder]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    made = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    declared = dict(re.findall(r"^  (\w+): \{ file: \./docker/secrets/(\w+) \}$", COMPOSE, re.M))
    assert {*made, "auth0_client_secret"} == set(declared) == set(declared.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert made["vault_access_keys"] != made["vault_refresh_keys"]
    for ring in ("access", "refresh"):
        Fernet(made[f"vault_{ring}_keys"].strip())
    for role, password in (
        ("", "postgres_password"),
        ("worker_", "postgres_worker_password"),
        ("api_", "postgres_api_password"),
    ):
        assert made[password] in made[f"{role}database_url"]
    assert f"//token_vault:{made['redis_password']}@" in made["redis_url"]
    assert not [name for name, value in made.items() if value.strip() in said]

    subprocess.run(command, check=True, capture_output=True)
    assert made == {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


def test_the_settings_file_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings file that the containers mount is valid and says what holds without it."""
    for name in ("TOKEN_VAULT_CONFIG", *(name for name in configuration.SECRET_NAMES)):
        monkeypatch.delenv(name, raising=False)
    assert configuration.load(ROOT / "docker" / "token-vault.toml").schedule == configuration.Schedule()


def test_the_api_takes_access_tokens_as_the_shipped_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file's comments taken away, the service `api` knows whose tokens it takes, without a tenant."""
    for name in ("AUTH0_DOMAIN", "AUTH0_CLIENT_ID", "AUTH0_CLIENT_SECRET", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    shipped = (ROOT / "docker/token-vault.toml").read_text(encoding="utf-8")
    file = tmp_path / "vault.toml"
    file.write_text(re.sub(r"^# (\[api\]|\w+ = )", r"\1", shipped, flags=re.M), encoding="utf-8")
    verifier = verifier_of(configuration.load(file))
    assert verifier is not None
    assert verifier.issuer == "https://your-tenant.eu.auth0.com/"
    without_issuer = file.read_text(encoding="utf-8").replace("issuer = ", "# ")
    file.write_text(without_issuer, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="set its issuer too"):
        verifier_of(configuration.load(file))


def test_images_of_others_are_pinned() -> None:
    """Each image that is not built here is named by its digest, and by one everywhere."""
    named = re.findall(r"^    image: (\S+)$", COMPOSE, re.M)
    named += re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    others = {image for image in named if not image.startswith("token-vault")}
    assert all(re.fullmatch(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in others), others
    assert len({image.partition("@")[0] for image in others}) == len(others) == 3
