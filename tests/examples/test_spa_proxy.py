"""examples/spa-proxy in a real browser, against an emulated tenant and provider."""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emulators.client import Emulation
from tests.support import browser as chromium
from tests.support.browser import Browser, browser
from tests.support.served import in_thread
from tests.support.served_api import served
from tests.support.synced_user import CONNECTION, USER, sync_user
from token_vault import TokenVault
from worker.runtime import Runtime
from worker.settings import load

EXAMPLE = Path(__file__).parents[2] / "examples/spa-proxy"
AUDIENCE = "https://vault.example"
CLIENT_ID = "spa"

pytestmark = [
    pytest.mark.skipif(
        chromium.PROGRAM is None, reason="no Chromium is installed: `make browser-test` installs it"
    ),
    pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on the PATH"),
]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yields its origin."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as origin:
        yield origin


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The example, installed from its lock file."""
    folder = tmp_path / "spa-proxy"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    return folder


def log_in(window: Browser, origin: str) -> None:
    """Log in as the user at the tenant's page, and come back."""
    window.open(origin)
    window.click("#login")
    window.click(f'button[value="{USER}"]')
    window.wait_for("document.getElementById('status')?.textContent.startsWith('Hello')")


def use(page: Path, profile: Path, allowed: str, foreign: str) -> tuple[Browser, list[str], str]:
    """Use the page from an allowed and from a foreign origin; gives the calendar and what the latter says."""
    with browser(profile) as window:
        log_in(window, allowed)
        window.click("#show")
        window.wait_for("document.querySelectorAll('#events li').length > 0")
        calendar = window.evaluate(
            "[...document.querySelectorAll('#events li')].map(each => each.textContent)"
        )
        log_in(window, foreign)
        window.click("#show")
        said = window.wait_for(
            "!document.getElementById('status').textContent.startsWith('Hello')"
            " && document.getElementById('status').textContent"
        )
        window.wait_for_network()
        return window, calendar, said


async def test_a_browser_never_sees_the_providers_token(
    page: Path,
    tmp_path: Path,
    tenant: Emulation,
    environment: Path,
    open_worker: Callable[[], Awaitable[Runtime]],
    sql: Callable[..., list[dict[str, Any]]],
) -> None:
    """A user logs in with PKCE and sees the calendar; nothing on the network is a provider's token."""
    await sync_user(tenant, open_worker, sql)
    with site(page) as allowed, site(page) as foreign:
        tenant.add_application(CLIENT_ID, callbacks=[allowed, foreign], origins=[allowed, foreign])
        environment.write_text(  # noqa: ASYNC240  # a small file, before anything runs
            f"""{tenant.config_toml()}
[api]
audience = "{AUDIENCE}"
origins = ["{allowed}"]

[proxy."{CONNECTION}"]
base_url = "{tenant.base_url}/idp/google"
allow = ["GET /calendar/v3/*"]
""",
            encoding="utf-8",
        )
        with served(load()) as vault:
            config = {
                "domain": tenant.base_url, "clientId": CLIENT_ID, "audience": AUDIENCE, "connection": CONNECTION,
                "vault": vault,
            }  # fmt: skip
            (page / "auth_config.json").write_text(json.dumps(config), encoding="utf-8")
            window, calendar, said = await asyncio.to_thread(
                use, page, tmp_path / "profile", allowed, foreign
            )
    assert [each.split(" ", 1)[1] for each in calendar] == ["Breakfast of 1111", "Planning", "Retrospective"]
    assert "its origins do not name this page" in said
    _check_network(window, tenant, vault)


def _check_network(window: Browser, tenant: Emulation, vault: str) -> None:
    """What the browser sent and got: the app's own token, and none of the provider's."""
    log = window.network_log
    assert "Breakfast of 1111" in log
    assert "code_challenge_method=S256" in log
    assert "Bearer ey" in log  # the app's own access token: headers are in the log
    (identity,) = tenant.user(USER)["identities"]
    with TokenVault.from_env() as reader:
        current = reader.user_token(USER, CONNECTION).value
    assert [token for token in (identity["access_token"], current) if token in log] == []
    calls = [each for each in window.requests if each["request"]["url"].startswith(vault)]
    # The call and its preflight from the allowed origin, both; from the other one the preflight is the end.
    sent = [each["request"]["method"] for each in calls]
    assert sorted(sent) == ["GET", "GET", "OPTIONS", "OPTIONS"]
    # Of the foreign origin's call nothing came to the provider.
    assert len(tenant.call_log("/idp/google/calendar/")) == 1
