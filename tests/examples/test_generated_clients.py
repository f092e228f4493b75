"""Clients that are generated from the API's description compile, and read a token."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, ApiClient, serving
from tests.support.readers import Rows, Sql
from worker.api.openapi import describe
from worker.consumer_rules import hash_api_key, make_api_key
from worker.vault.vault import Vault

EXAMPLES = Path(__file__).parents[2] / "examples"
GENERATE_GO = (
    "openapi-generator-cli", "generate", "-g", "go", "-i", "openapi.json", "-o", "vault", "--package-name", "vault",
    "--additional-properties=withGoMod=false",
)  # fmt: skip

on_demand = pytest.mark.skipif(
    "GENERATED_CLIENTS" not in os.environ, reason="takes a minute: `make clients` runs it"
)


@pytest.fixture
def served(
    environment: Path, tenant: Emulation, vault: Vault, sql: Sql, tmp_path: Path
) -> Iterator[ApiClient]:
    """The served vault; API_KEY and API_URL are in the environment."""
    del vault
    environment.write_text(f"{SETTINGS}\n{tenant.config_toml()}", encoding="utf-8")
    key = make_api_key()
    sql(
        "INSERT INTO consumers (name, api_key_hash, connections, users, admins, refresh)"
        " VALUES ('calendar', %s, '{*}', true, false, false)",
        hash_api_key(key),
    )  # fmt: skip
    with serving(tmp_path) as client, pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_KEY", key)
        patch.setenv("API_URL", client.url)
        yield client


def run(folder: Path, *command: str) -> str:
    """Run a program to its end, and return what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def copied(name: str, folder: Path) -> Path:
    """An example's own files alone, without what was generated."""
    ignored = shutil.ignore_patterns("node_modules", "vault", "schema.d.ts", "*.js")
    return Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=ignored))


@on_demand
@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on the PATH")
async def test_typescript(served: ApiClient, vault: Vault, sql: Sql, tmp_path: Path) -> None:
    """The types are made of the served description, the client compiles, and prints the token."""
    await Rows(vault, sql).add("google-oauth2|1111", "google-oauth2", subject="1111", value="token-of-1111")
    folder = copied("typescript-client", tmp_path)
    for command in (
        ("ci", "--ignore-scripts", "--no-audit", "--no-fund"),
        ("run", "generate"),
        ("run", "build"),
    ):
        await asyncio.to_thread(run, folder, "npm", *command)
    assert await asyncio.to_thread(run, folder, "node", "read.js") == "token-of-1111"


@on_demand
@pytest.mark.skipif(not shutil.which("go"), reason="Go is not on the PATH")
@pytest.mark.skipif(not shutil.which("java"), reason="OpenAPI Generator needs Java")
@pytest.mark.skipif(not shutil.which(GENERATE_GO[0]), reason="openapi-generator-cli is not on the PATH")
async def test_go(served: ApiClient, vault: Vault, sql: Sql, tmp_path: Path) -> None:
    """The client is made of the served description, compiles, and prints the token."""
    await Rows(vault, sql).add("google-oauth2|1111", "google-oauth2", subject="1111", value="token-of-1111")
    folder = copied("go-client", tmp_path)
    (folder / "openapi.json").write_text(served.call("/openapi.json").text, encoding="utf-8")
    await asyncio.to_thread(run, folder, *GENERATE_GO)
    assert await asyncio.to_thread(run, folder, "go", "run", ".") == "token-of-1111"


def test_the_examples_call_what_is_described() -> None:
    """What the examples name is in the description."""
    paths = describe()["paths"]
    (path,) = re.findall(r'client\.GET\("(.+?)"', (EXAMPLES / "typescript-client/read.ts").read_text())
    operation = paths[path]["get"]
    (called,) = re.findall(r"DefaultAPI\.(\w+)\(", (EXAMPLES / "go-client/main.go").read_text())
    assert called.lower() == operation["operationId"].lower()
