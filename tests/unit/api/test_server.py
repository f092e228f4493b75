"""How the API's server starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from token_vault.errors import ConfigurationError
from worker.api import server
from worker.settings import load

AUDIENCE = '[api]\naudience = "https://vault.acme.example"\n'


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("key", "toml", "says"),
    [("abc", "", "VAULT_ACCESS_KEYS: key 1 of 1 is not"), ("", AUDIENCE, "issuer")],
    ids=["key", "issuer"],
)
def test_a_mistake_at_the_start_is_told_as_one(
    key: str,
    toml: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What keeps the API from starting is the command's error, with its exit code, and no traceback in the log."""
    config = tmp_path / "vault.toml"
    config.write_text(toml, encoding="utf-8")
    for name in ("AUTH0_DOMAIN", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN_VAULT_CONFIG", str(config))
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("VAULT_ACCESS_KEYS", key or ACCESS_KEY.reveal())
    monkeypatch.setenv("VAULT_REFRESH_KEYS", REFRESH_KEY.reveal())
    with closing(server.listen("127.0.0.1", [0])) as bound, pytest.raises(ConfigurationError, match=says):
        server.serve(load(), bound, lambda: pytest.fail("it serves"))
    assert "Traceback" not in caplog.text
