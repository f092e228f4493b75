"""The emulation as a process: its demo, its state file, its end."""

import json
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulators.app import build
from emulators.client import Emulation, running
from emulators.world import StateUnreadable, World
from tests.support.wait import WAIT_SECONDS

REPOSITORY = Path(__file__).parents[3]


def _listed(demo: Emulation) -> list[str]:
    body = {
        "grant_type": "client_credentials",
        "client_id": demo.client_id,
        "client_secret": demo.client_secret,
        "audience": demo.audience,
    }
    token = demo.http.post("/oauth/token", json=body).json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    pages = [
        demo.http.get("/api/v2/users", params={"page": page, "per_page": 100}, headers=headers).json()
        for page in range(3)
    ]
    return [user["user_id"] for page in pages for user in page]


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
        assert 190 <= len({*_listed(demo)}) <= 210
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


def test_a_broken_state_file(tmp_path: Path) -> None:
    """A state file that does not parse is one line of error and exit status 2."""
    state = tmp_path / "state.json"
    state.write_text("{")
    command = [sys.executable, "-m", "emulators", "--state-file", str(state)]
    ended = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"emulators: the state file {state} cannot be read")
    assert "Traceback" not in ended.stderr


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
WHOLE = {
    "base_url": "http://127.0.0.1:1",
    "clock": [0.0, None],
    "connections": [{"name": "c"}],
    "leads_to": {"c": ["custom", "c-client"]},
    "counters": {},
    "users": [{"user_id": "u"}],
    "clients": [{"provider": "custom", "client_id": "c", "secret": "s", "tenants": []}],
    "grants": [],
    "double_spends": 0,
}


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.builds(lambda k, v: json.dumps({**WHOLE, k: v}), st.sampled_from(sorted(WHOLE)), JSON)
)
def test_any_state_file_is_read_or_refused(content: str) -> None:
    """Whatever a state file holds, it is taken or refused by one error."""
    world = World("http://127.0.0.1:2", client_id="a", client_secret="b")
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state.json")
        state.write_text(content, encoding="utf-8", errors="replace")
        with suppress(StateUnreadable):
            world.load(state)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly(number: signal.Signals) -> None:
    """A signal ends it with status 0 and nothing more on either stream, also with a client connected."""
    command = [sys.executable, "-m", "emulators"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with Emulation(ready) as emulation:
            emulation.now()
            process.send_signal(number)
            rest, errors = process.communicate(timeout=WAIT_SECONDS)
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


async def test_the_control_plane_is_local() -> None:
    """`/control` answers loopback only, the rest anybody."""
    gate = build(World("http://127.0.0.1:1", client_id="a", client_secret="b"), {})

    async def status(path: str, client: str) -> int:
        transport = httpx.ASGITransport(gate, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as http:
            return (await http.get(path)).status_code

    assert await status("/control/endpoints", "127.0.0.1") == 200
    assert await status("/control/endpoints", "192.0.2.1") == 403
    assert await status("/idp/userinfo", "192.0.2.1") == 401
