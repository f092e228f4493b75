"""The examples of docs/http-api.md read a token."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import ApiClient
from tests.support.readers import Rows

PAGE = (Path(__file__).parents[3] / "docs/http-api.md").read_text(encoding="utf-8")
COMPILE_CSHARP = "mcs -r:System.Net.Http.dll -r:System.Runtime.Serialization.dll ReadToken.cs"
# How each is run, and by which program; mkbundle is of mono-devel, which brings the libraries too.
EXAMPLES = {
    "sh": ("curl", "example.sh", ("sh", "example.sh")),
    "js": ("node", "example.mjs", ("node", "example.mjs")),
    "java": ("java", "ReadToken.java", ("java", "ReadToken.java")),
    "go": ("go", "main.go", ("go", "run", "main.go")),
    "csharp": ("mkbundle", "ReadToken.cs", ("sh", "-c", f"{COMPILE_CSHARP} && mono ReadToken.exe")),
    "ruby": ("ruby", "example.rb", ("ruby", "example.rb")),
    "php": ("php", "example.php", ("php", "example.php")),
}

# To run these again takes seconds.
COMPILED = ("java", "go", "csharp")


def installed(language: str) -> Any:
    """A language, skipped where its program is missing, before a server is started for it."""
    program = EXAMPLES[language][0]
    missing = shutil.which(program) is None
    return pytest.param(language, marks=pytest.mark.skipif(missing, reason=f"{program} is not installed"))


@pytest.mark.parametrize("language", [installed(language) for language in EXAMPLES])
async def test_examples_read_a_token(
    language: str, api: ApiClient, api_key: str, rows: Rows, tmp_path: Path
) -> None:
    """Each example prints the token, where its language is installed, and nothing that could be taken for one."""
    _, file, command = EXAMPLES[language]
    await rows.add("google-oauth2|1111", "google-oauth2", subject="1111", value="token-of-1111")
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.partition("## Examples")[2], re.M | re.S)
    assert found
    (tmp_path / file).write_text(found[1], encoding="utf-8")

    async def run(key: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "API_URL": api.url, "API_KEY": key}
        return await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
        )

    done = await run(api_key)
    assert (done.stdout.strip(), done.returncode) == ("token-of-1111", 0), done.stderr
    if language not in COMPILED:
        refused = await run("tvk_unknown")
        assert (refused.stdout.strip(), refused.returncode != 0) == ("", True), refused.stderr
