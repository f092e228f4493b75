"""Hosts that lack what others have: a name for the user, a home folder, a file system that can be written.

So are containers with a user id of their own and a read-only root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from emulators.client import Emulation
from tests.support.processes import REPOSITORY, Site, site
from token_vault.secret import Secret
from worker.embedded import Servers, drop_privileges


def _may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _may_mount(), reason="needs root, and leave to mount")

USER = 12345
# With the right to pass folders of root alone, in which the interpreter may lie.
NAMELESS = (sys.executable, "-I", "-S", drop_privileges.__file__, "-", f"{USER}:{USER}:2", "/usr/bin/env")
# Everything, but for a file system in memory over the folder that is named first.
READ_ONLY = (
    "unshare", "--mount", "sh", "-ec",
    'mount --make-rprivate /; mount -o remount,bind,ro /; [ -z "$1" ] || mount -t tmpfs -o mode=777 none "$1"; '
    'shift; exec "$@"', "sh",
)  # fmt: skip


def command(made: Site, launcher: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the program's commands."""
    return subprocess.run(
        [*launcher, sys.executable, "-m", "worker.cli", *arguments], env=made.environment, cwd=REPOSITORY,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_nameless_user_renews_on_a_read_only_file_system(
    servers: Servers, database_url: Secret, redis_url: Secret, tenant: Emulation, tmp_path: Path
) -> None:
    """A worker without name, home folder and any writable folder but the spool syncs and renews."""
    tenant.add_connection("custom", "oauth2", "custom")
    (user,) = tenant.add_users("custom", 1)
    spool = tmp_path / "spool"
    spool.mkdir()
    with site(servers, tenant, tmp_path, schedule="renew = 1", TOKEN_VAULT_SPOOL=str(spool)) as made:
        made.environment.pop("HOME", None)
        made.launcher = (*READ_ONLY, str(spool), *NAMELESS)
        worker = made.worker("all", "renew,sync,interactive")
        (synced,) = made.ask(("worker.sync_all", "sync", {}))
        assert synced[0]["problems"] == []
        asked = {"user_id": user, "connection": "custom", "force": True}
        (refreshed,) = made.ask(("worker.refresh_token", "interactive", asked))
        assert refreshed["renewed"]
        assert "Read-only" not in worker.log
        doctor = command(made, (*READ_ONLY, "", *NAMELESS), "doctor")
        assert f"the spool {spool} cannot be written (Read-only file system)" in doctor.stdout


@pytest.fixture
def alone(tmp_path: Path) -> Callable[[Path], Site]:
    """Make the environment of a vault with servers of its own."""

    def make(home: Path) -> Site:
        return Site({"PATH": os.environ["PATH"], "TOKEN_VAULT_HOME": str(home)}, tmp_path)

    return make


def test_a_nameless_user_is_told_what_postgres_needs(alone: Callable[[Path], Site], tmp_path: Path) -> None:
    """Postgres' own programs do not run without a name: the message says how to give one."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    said = command(alone(home), NAMELESS, "up", "--demo")
    assert said.returncode == 2
    assert f"needs a name for user {USER}" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("is_there", [True, False])
def test_a_home_that_cannot_be_written_is_named(
    alone: Callable[[Path], Site], tmp_path: Path, is_there: bool
) -> None:
    """On a read-only file system `up` names TOKEN_VAULT_HOME, whether the folder is there or not."""
    home = tmp_path / "home"
    if is_there:
        home.mkdir()
    said = command(alone(home), (*READ_ONLY, ""), "up", "--demo")
    assert said.returncode == 2
    assert f"TOKEN_VAULT_HOME {home} cannot be" in said.stderr
    assert "Traceback" not in said.stderr
