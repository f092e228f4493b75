"""The worked example of docs/adding-a-provider.md works as it stands there."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from token_vault.secret import Secret
from worker.providers import (
    Client,
    ClientAuth,
    Provider,
    RefusalBlame,
    Refused,
    Renewed,
    get,
    registry,
    resolve,
)
from worker.token_pair import TokenPair

PAGE = Path(__file__).parents[3] / "docs" / "adding-a-provider.md"
SENT = datetime(2026, 3, 15, 7, 14, 32, tzinfo=UTC)
KEYS = {"client_id": "the-id", "client_secret": "the-secret"}


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Provider:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    module = ModuleType("worker.providers.acme")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code[1], str(PAGE), "exec"), module.__dict__)
    provider: Provider = module.ACME
    monkeypatch.setattr(registry, "PROVIDERS", (*registry.PROVIDERS, provider))
    return provider


def test_worked_example(acme: Provider) -> None:
    """The example is found by its host and its name, builds its request, and reads answer and refusal."""
    options = KEYS | {"tokenURL": "https://eu.acme.example/oauth/token"}
    client = resolve("oauth2", options, None, allow_loopback_http=False)
    assert isinstance(client, Client)
    assert (client.provider, client.auth) == ("acme", ClientAuth.BASIC)
    assert get("acme") is acme
    assert acme.endpoint({"region": "us"}) == "https://us.acme.example/oauth/token"

    request = acme.request(client, access=None, refresh=Secret("r"))
    assert request.headers["Authorization"].startswith("Basic ")
    assert request.body == b"grant_type=refresh_token&refresh_token=r"

    answer = {"data": {"access_token": "a", "refresh_token": "r2", "expires_in": 3_600_000}}
    got = acme.read(200, {}, json.dumps(answer).encode(), sent_at=SENT)
    assert got == Renewed(TokenPair(Secret("a"), Secret("r2"), SENT + timedelta(hours=1)))
    gone = acme.read(400, {}, b'{"error": "grant_is_gone"}', sent_at=SENT)
    assert gone == Refused(RefusalBlame.USER, "grant_is_gone")
    assert acme.read(502, {}, b"", sent_at=SENT) == Refused(RefusalBlame.IN_DOUBT, "http_502", spent=True)


def test_every_table_row_exists() -> None:
    """The page names only methods that a provider has."""
    methods = re.findall(r"^\| `(\w+)\(", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert methods
    assert all(callable(getattr(Provider, method)) for method in methods)
