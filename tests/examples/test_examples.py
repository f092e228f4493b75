"""Each program under examples/ runs as its README says, against a real vault of an emulated tenant."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulators.client import Emulation
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.synced_user import CONNECTION, USER, sync_user
from tests.support.wait import until
from worker.runtime import Runtime

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
async def world(
    tenant: Emulation,
    open_worker: Callable[[], Awaitable[Runtime]],
    sql: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> Emulation:
    """A vault with one user, whose provider's API is the emulated one."""
    await sync_user(tenant, open_worker, sql)
    monkeypatch.setenv("PROFILE_URL", f"{tenant.base_url}/idp/userinfo")
    return tenant


def run(*command: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in the vault's environment."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def serving(folder: Path, *command: str) -> Iterator[httpx.Client]:
    """Run a web app, ``PORT`` in its command replaced, until the block ends; yields a client of it."""
    port = free_port()
    words = [word.replace("PORT", str(port)) for word in command]
    app = Process("app", [sys.executable, *words], dict(os.environ), folder / "app.log")

    def answers() -> bool:
        assert app.running, app.log
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers, what="the app listens")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client
    finally:
        app.kill()


def assert_serves_profiles(app: httpx.Client, world: Emulation, sql: Callable[..., Any]) -> None:
    """The app calls the provider with the user's token, and says who has to act where there is none."""
    answer = app.get("/profile", headers={"X-User-Id": USER})
    assert answer.status_code == 200
    assert answer.json()["sub"] == "1111"
    assert app.get("/profile", headers={"X-User-Id": "google-oauth2|404"}).status_code == 404
    sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', reason_since = now(),"
        " due_at = NULL, expires_at = now()"
    )
    assert app.get("/profile", headers={"X-User-Id": USER}).status_code == 409


async def test_the_script_calls_the_providers_api(world: Emulation) -> None:
    """The script prints whom the token belongs to; of a user without one it says so and fails."""
    ran = run(sys.executable, "examples/script.py", USER, CONNECTION)
    assert json.loads(ran.stdout)["sub"] == "1111", ran.stderr
    missing = run(sys.executable, "examples/script.py", "google-oauth2|404", CONNECTION)
    assert (missing.returncode, missing.stderr) == (
        1,
        f"google-oauth2|404 never signed in over {CONNECTION}\n",
    )


async def test_fastapi_serves_profiles(world: Emulation, sql: Callable[..., Any], tmp_path: Path) -> None:
    """The FastAPI app reads tokens with the asyncio reader, and turns its errors into statuses."""
    with serving(tmp_path, "-m", "uvicorn", "examples.fastapi_app:app", "--port", "PORT") as app:
        assert_serves_profiles(app, world, sql)


async def test_django_serves_profiles(world: Emulation, sql: Callable[..., Any], tmp_path: Path) -> None:
    """The Django view reads tokens with the reader for threads, and turns its errors into statuses."""
    with serving(tmp_path, "examples/django_app.py", "runserver", "--noreload", "PORT") as app:
        assert_serves_profiles(app, world, sql)


async def test_celery_by_name_renews(
    world: Emulation, sql: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The Celery app has a real worker renew the token, and prints what became of it."""
    sql("UPDATE grants SET obtained_at = obtained_at - interval '1 min'")  # forced, a token may be so old
    before = world.live(USER, CONNECTION)
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "worker.app",
        "worker",
        "-Q",
        "interactive",
        "-P",
        "threads",
    ]
    worker = Process("interactive", [*command, "-c", "2"], dict(os.environ), tmp_path / "worker.log")
    try:
        worker.says("ready.")
        ran = run(sys.executable, "examples/celery_by_name.py", USER, CONNECTION)
    finally:
        worker.kill()
    assert ran.stdout.startswith("active, renewed: True, ends 2"), ran.stderr
    assert world.live(USER, CONNECTION) != before


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on the PATH")
async def test_node_reads_the_view(world: Emulation, tmp_path: Path) -> None:
    """The Node program installs from its lock file and prints each connection's grants by state."""
    folder = tmp_path / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = run("npm", "ci", "--no-audit", "--no-fund", folder=folder)
    assert installed.returncode == 0, installed.stderr
    ran = run("node", "status.js", folder=folder)
    assert ran.stdout.startswith(f"{CONNECTION}: 1 active, next expiry 2"), ran.stderr


@pytest.mark.parametrize(
    "file", sorted(EXAMPLES.glob("*/package-lock.json")), ids=lambda file: file.parent.name
)
def test_lock_files_name_no_host(file: Path) -> None:
    """The lock files of the examples for Node hold hashes, and leave the registry to the client."""
    locked = json.loads(file.read_text(encoding="utf-8"))
    packages = [package for name, package in locked["packages"].items() if name]
    assert all("integrity" in package and "resolved" not in package for package in packages)


def test_every_example_is_in_the_readme() -> None:
    """The README of the examples links each of them."""
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for file in [
        *EXAMPLES.glob("*.py"),
        *EXAMPLES.glob("node/*.js"),
        *EXAMPLES.glob("*/index.html"),
        *EXAMPLES.glob("*/read.ts"),
        *EXAMPLES.glob("*/main.go"),
    ]:
        assert f"({file.relative_to(EXAMPLES)})" in readme
