"""The client as an app installs it: alone in an environment, beside modules of the app's own that are called like ours."""

from __future__ import annotations

import ast
import asyncio
import email
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.keys import ACCESS_KEY
from tests.support.readers import Rows, Sql
from token_vault.secret import Secret
from worker.vault.vault import Vault

ROOT = Path(__file__).parents[3]
MAX_DISTRIBUTIONS = 12

APP = '''\
"""An app with modules that are called like the vault's."""

from __future__ import annotations

import asyncio
import sys

import migrations
import worker
from token_vault import (
    AccessDenied,
    AmbiguousAccount,
    AsyncTokenVault,
    ConfigurationError,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    Token,
    TokenExpired,
    TokenNotFound,
    TokenVault,
    VaultError,
    errors,
)


def describe(error: VaultError) -> str:
    match error:
        case ReauthorizationRequired(reason=reason, since=since):
            return f"{reason.upper()} {since.isoformat() if since else ''}"
        case TemporarilyUnavailable(retry_after=retry_after):
            return f"{retry_after:.0f} s"
        case AmbiguousAccount(accounts=accounts):
            return ", ".join(accounts)
        case TokenNotFound() | TokenExpired() | AccessDenied() | ConfigurationError():
            return f"{error.user_id} {error.connection}"
    return str(error)


async def read_async(user: str) -> Token:
    async with AsyncTokenVault.from_env() as vault:
        return await vault.user_token(user, "custom", account="u1")


def main() -> int:
    assert worker.JOBS == ["the app's own"] and migrations.HEAD == "the app's own"
    assert errors.TokenNotFound is TokenNotFound
    with TokenVault.from_env() as vault:
        token: Token = vault.user_token("oauth2|u1", connection="custom", min_ttl=60, wait=5)
        try:
            vault.admin_token("custom")
        except VaultError as error:
            print(describe(error))
    value: str = token.value
    print(value, asyncio.run(read_async("oauth2|u1")).value == value)
    print(sorted({name.partition(".")[0] for name in sys.modules}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''


def build_wheel(project: Path, folder: Path) -> Path:
    """Build a wheel as ``pip wheel`` does."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=project, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


def requirements_of(wheel: Path) -> list[Requirement]:
    """What a wheel needs without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    found = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def resolve(
    requirements: Iterable[Requirement], found: dict[str, Distribution] | None = None
) -> dict[str, Distribution]:
    """All distributions that are installed for these, by name."""
    found = {} if found is None else found
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found[name] = distribution(name)
        extras = {"", *requirement.extras}
        needed = map(Requirement, found[name].requires or [])
        resolve(
            [
                each
                for each in needed
                if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            ],
            found,
        )
    return found


@dataclass(frozen=True)
class Environment:
    """An environment in which the client is installed, and nothing that it does not need.

    Attributes:
        distributions: how many are installed.
    """

    python: Path
    distributions: int


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel."""
    return build_wheel(ROOT / "client", tmp_path_factory.mktemp("client-wheel"))


@pytest.fixture(scope="module")
def installed(client_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A new environment with the client's wheel; what it needs is lent by the environment of the tests."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(client_wheel)], check=True, timeout=120)
    [packages] = folder.glob("lib/python*/site-packages")
    lent = resolve(requirements_of(client_wheel))
    for dist in lent.values():
        for top in {Path(file).parts[0] for file in dist.files or [] if ".." not in Path(file).parts}:
            (packages / top).symlink_to(Path(str(dist.locate_file(top))))
    subprocess.run([*pip, "check"], check=True, timeout=120)
    return Environment(python, 1 + len(lent))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app with a module `worker` and a package `migrations`."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "__init__.py").write_text('HEAD = "the app\'s own"\n')
    (tmp_path / "worker.py").write_text('JOBS = ["the app\'s own"]\n')
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


def test_few_distributions_are_installed(installed: Environment) -> None:
    """An app that reads tokens installs no more than a dozen distributions."""
    assert installed.distributions <= MAX_DISTRIBUTIONS


def test_the_app_is_type_checked(installed: Environment, app: Path) -> None:
    """An app is checked against the client's own types, under mypy's strictest settings."""
    check = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", os.devnull]
    check += ["--python-executable", str(installed.python), "app.py"]
    ran = subprocess.run(check, cwd=app, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def run_app(
    installed: Environment, app: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed.python, "-W", "error", "app.py"], cwd=app, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


async def test_the_app_reads_a_token(
    installed: Environment, app: Path, vault: Vault, sql: Sql, database_url: Secret
) -> None:
    """An app with a `worker` and `migrations` of its own reads a token, and loads nothing of the vault's workers."""
    await Rows(vault, sql).add()
    environment = {"DATABASE_URL": database_url.reveal(), "VAULT_ACCESS_KEYS": ACCESS_KEY.reveal()}
    ran = await asyncio.to_thread(run_app, installed, app, environment)
    assert ran.returncode == 0, ran.stderr
    admin, token, modules = ran.stdout.splitlines()
    assert (admin, token) == (" custom", "token-of-u1 True")
    assert not {"celery", "redis", "sqlalchemy", "pydantic"}.intersection(ast.literal_eval(modules))


def test_the_worker_needs_the_client_of_its_version(client_wheel: Path, tmp_path: Path) -> None:
    """The root wheel installs the client that was made with it, and no other."""
    [needed] = [
        each for each in requirements_of(build_wheel(ROOT, tmp_path)) if each.name == "token-vault-client"
    ]
    client_version, worker_version = (
        client_wheel.name.split("-")[1],
        next(tmp_path.glob("*.whl")).name.split("-")[1],
    )
    assert client_version == worker_version
    assert str(needed.specifier) == f"=={client_version}"
