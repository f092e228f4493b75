"""The demo out of an installed wheel, where there is no repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[3]

PREPARE = """
import json, sys
from pathlib import Path
import emulators, worker
from worker.cli.up.demo import prepare

demo = prepare(Path(sys.argv[1]))
folders = [str(Path(package.__file__).parents[1]) for package in (emulators, worker)]
json.dump({"folders": folders, "command": demo.command, "environment": demo.environment, "url": demo.url}, sys.stdout)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the root wheel puts into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def test_an_installed_demo_starts_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """The emulated tenant of `up --demo` answers, with all its parts out of the wheel."""
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)}
    prepared = json.loads(
        subprocess.run(
            [sys.executable, "-P", "-c", PREPARE, str(tmp_path / "home")],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert prepared["folders"] == [str(installed)] * 2
    process = subprocess.Popen(
        prepared["command"], cwd=folder, env=prepared["environment"], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["base_url"] == prepared["url"]
            application = {name: ready[name] for name in ("client_id", "client_secret", "audience")}
            with httpx.Client(base_url=ready["base_url"], trust_env=False) as http:
                answer = http.post("/oauth/token", data={"grant_type": "client_credentials", **application})
                bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
                assert len(http.get("/api/v2/users", headers=bearer).json()) == 50
        finally:
            process.terminate()
    assert list(folder.iterdir()) == []
