"""The emulation as a process: its demo, its state file, its end."""

import json
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from tests.emulators.control import ROOT, Emulation, running


def test_the_demo_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo has its users, its troubles, and a configuration that finds every provider."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "demo.toml"
    with running(demo=True, write_config=config) as demo:
        urls = tomllib.loads(config.read_text())["connections"]
        assert urls["google-oauth2"]["token_url"] == demo.provider_urls["google"]
        assert urls["azure-v1"]["token_url"].startswith(demo.provider_urls["entra"])
        assert "partner-oauth2" not in urls
        assert config.read_text() == demo.config_toml()
        identities = demo.user("google-oauth2|1111")["identities"]
        assert [each["connection"] for each in identities] == ["google-oauth2", "bitbucket"]
        assert demo.connection("google-dev-keys")["options"]["client_id"] == ""
        assert demo.connection("corp-google")["options"]["admin_refresh_token"]
        assert demo.holder(identities[0]["access_token"]) is not None


def test_a_restarted_demo_knows_the_tokens(tmp_path: Path) -> None:
    """A refresh token taken before a restart is good after it, and a spent one stays spent."""
    state = tmp_path / "state.json"
    user, connection = "google-oauth2|1111", "bitbucket"

    def renew(demo: Emulation, token: str | None) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": str(token)}
        return demo.http.post(
            demo.token_url(connection), data=form, auth=("bitbucket-client", "secret-of-bitbucket")
        )

    with running(demo=True, state_file=state) as demo:
        spent = demo.live(user, connection)["refresh_token"]
        assert renew(demo, spent).status_code == 200
        held = demo.live(user, connection)
        shown = demo.user(user)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    with running(demo=True, state_file=state) as demo:
        assert demo.live(user, connection) == held
        assert demo.user(user) == shown
        options = demo.connection("partner-oauth2")["options"]
        assert options["tokenURL"] == demo.token_url("partner-oauth2")
        assert renew(demo, spent).status_code == 400
        assert renew(demo, held["refresh_token"]).status_code == 200


@pytest.mark.parametrize("content", ["", "{", "[]", '{"base_url": "x"}', '{"base_url": 1}'])
def test_a_broken_state_file(tmp_path: Path, content: str) -> None:
    """A state file that does not parse is one line of error and exit status 2."""
    state = tmp_path / "state.json"
    state.write_text(content)
    command = [sys.executable, "-m", "tests.emulators", "--state-file", str(state)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"emulators: the state file {state} cannot be read")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly(number: signal.Signals) -> None:
    """A signal ends it with status 0 and nothing more on either stream, also with a client connected."""
    command = [sys.executable, "-m", "tests.emulators"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with Emulation(ready) as emulation:
            emulation.now()
            process.send_signal(number)
            rest, errors = process.communicate(timeout=10)
    assert (process.returncode, rest, errors) == (0, "", "")
    assert ready["auth0_domain"] == ready["base_url"]
    assert ready["audience"] == f"{ready['base_url']}/api/v2/"


def test_credentials_come_from_the_environment() -> None:
    """The machine-to-machine application is what the environment says."""
    with running(client_id="mine", client_secret="s3cret") as emulation:
        body = {
            "grant_type": "client_credentials",
            "client_id": "mine",
            "client_secret": "s3cret",
            "audience": emulation.audience,
        }
        assert emulation.http.post(f"{emulation.base_url}/oauth/token", data=body).status_code == 200
