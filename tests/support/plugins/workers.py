"""Fixtures: a worker's environment, its settings, and open workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from emulators.client import Emulation
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.renewals import Renewals
from token_vault.secret import Secret
from worker.runtime import Runtime, open_runtime
from worker.settings import Settings, load


@pytest.fixture
def environment(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database_url: Secret,
    redis_url: Secret,
    tenant: Emulation,
) -> Path:
    """Set a worker's environment; return its TOML file's path."""
    config = tmp_path / "vault.toml"
    config.touch()
    values = {
        "DATABASE_URL": database_url.reveal(),
        "REDIS_URL": redis_url.reveal(),
        "VAULT_ACCESS_KEYS": ACCESS_KEY.reveal(),
        "VAULT_REFRESH_KEYS": REFRESH_KEY.reveal(),
        "AUTH0_DOMAIN": tenant.auth0_domain,
        "AUTH0_CLIENT_ID": tenant.client_id,
        "AUTH0_CLIENT_SECRET": tenant.client_secret,
        "AUTH0_AUDIENCE": tenant.audience,
        "AUTH0_PLAN": "unlimited",  # the emulated tenant's, unless a test sets a limit
        "TOKEN_VAULT_CONFIG": str(config),
        "TOKEN_VAULT_HOME": str(tmp_path / "home"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return config


@pytest.fixture
def settings(environment: Path, tenant: Emulation) -> Callable[[], Settings]:
    """Load the settings, with endpoints of the emulation's connections."""

    def current() -> Settings:
        environment.write_text(tenant.config_toml(), encoding="utf-8")
        return load()

    return current


@pytest.fixture
async def open_worker(settings: Callable[[], Settings]) -> AsyncIterator[Callable[[], Awaitable[Runtime]]]:
    """Open a runtime on the emulation as it stands now.

    ``runtime = await open_worker()``; call it after connections were added.
    """
    async with AsyncExitStack() as stack:

        async def open_now() -> Runtime:
            return await stack.enter_async_context(open_runtime(settings()))

        yield open_now


@pytest.fixture
async def renewals(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Callable[..., list[dict[str, Any]]]
) -> AsyncIterator[Renewals]:
    """Workers on the emulated tenant, with short time-outs."""
    async with AsyncExitStack() as stack:
        yield Renewals(tenant, open_worker, sql, stack)
