"""No frame that raises holds a secret: error reporters send the variables of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.tracebacks import rendered
from token_vault import TokenVault
from token_vault.encryption_context import EncryptionContext
from token_vault.environment import ReaderEnvironment
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker import providers, settings
from worker.auth0 import Credentials
from worker.auth0.http.calls import _read_token
from worker.auth0.http.responses import Endpoint, read_json
from worker.auth0.pagination import list_connections, read_raw_users
from worker.providers import Client, ClientAuth
from worker.settings.webhooks import webhook_key
from worker.token_pair import TokenPair
from worker.vault.claims.claim import Claim
from worker.vault.claims.spool import Spool
from worker.vault.claims.spooled_answer import decode, encode
from worker.vault.vault import open_vault

CANARY = "canary-Zk3vN8qLw0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = GrantKey("default", "google", "google|1", "1")
RING = KeyRing("refresh", [KeyRing.generate()])
ENDPOINT = Endpoint("GET /x", "tenant.example")
DATABASE = f"postgresql://vault:{CANARY}@127.0.0.1:1/vault"
PAIR = TokenPair(Secret(f"{CANARY}1"), Secret(f"{CANARY}2"), extra={"instance_url": CANARY})
CLAIM = Claim(1, KEY, uuid4(), NOW, NOW, "active", b"", 1, b"", 1, NOW, None, 0)


def answer(content: object) -> Any:
    """An answer of Auth0's, as the client reads it."""
    return read_json(httpx.Response(200, content=json.dumps(content).encode()), ENDPOINT)


def a_swapped_row() -> None:
    sealed = RING.encrypt(EncryptionContext.of_grant(KEY, "refresh", 1), Secret(CANARY))
    RING.decrypt(EncryptionContext.of_grant(KEY, "refresh", 2), sealed)


def a_missing_key() -> None:
    sealed = RING.encrypt(EncryptionContext.of_grant(KEY, "refresh", 1), Secret(CANARY))
    KeyRing("refresh", [KeyRing.generate()]).decrypt(EncryptionContext.of_grant(KEY, "refresh", 1), sealed)


def an_answer_that_cannot_be_spooled() -> None:
    spool = Spool(Path("/proc/no-such-folder"), RING)
    spool.save(CLAIM, PAIR, obtained_at=NOW, due_at=NOW)


def an_answer_that_cannot_be_written() -> None:
    pair = replace(PAIR, scopes=(object(),))  # type: ignore[arg-type]  # no JSON
    encode(CLAIM, pair, obtained_at=NOW, due_at=NOW)


def a_spooled_answer_of_another_version() -> None:
    text = json.loads(encode(CLAIM, PAIR, obtained_at=NOW, due_at=NOW).reveal())
    decode(Path("1-x"), Secret(json.dumps(text | {"due_at": None})))


def a_client_without_secret() -> None:
    request(ClientAuth.POST)


def a_client_without_key() -> None:
    request(ClientAuth.PRIVATE_KEY_JWT)


def request(auth: ClientAuth) -> None:
    client = Client(
        "oauth2", "https://idp.example/token", "id", None, auth, headers={"X-Key": Secret(CANARY)}
    )
    providers.get("oauth2").request(client, access=None, refresh=Secret(CANARY), now=None)


def a_revocation_without_secret() -> None:
    client = Client("oauth2", "https://idp.example/token", "id", None, ClientAuth.BASIC)
    providers.get("oauth2").revocation(client, "https://idp.example/revoke", token=Secret(CANARY), kind="x")


def a_grant_without_token() -> None:
    client = Client("oauth2", "https://idp.example/token", "id", Secret(CANARY), ClientAuth.BASIC)
    providers.get("oauth2").request(client, access=Secret(CANARY), refresh=None, now=NOW)


def a_management_token_without_life() -> None:
    _read_token(answer({"access_token": CANARY}), ENDPOINT, lambda: NOW)


def users_that_are_no_list() -> None:
    read_raw_users(answer({"users": {"identities": [{"access_token": CANARY}]}}), ENDPOINT)


def connections_without_end() -> None:
    options = {"options": {"client_secret": CANARY}, "name": "x", "id": "x", "strategy": "x"}

    async def fetch(_: object) -> Any:
        return answer({"connections": [options], "next": 5})

    async def read() -> None:
        async for _ in list_connections(fetch, ENDPOINT):
            pass

    asyncio.run(read())


def a_key_with_a_blank() -> None:
    KeyRing("access", [Secret(f"{CANARY} {CANARY}")])


def keys_of_a_reader_that_are_none() -> None:
    TokenVault(DATABASE, [CANARY])


def a_key_in_place_of_keys() -> None:
    TokenVault(DATABASE, CANARY)


def a_database_that_is_away() -> None:
    TokenVault(DATABASE, [KeyRing.generate()]).user_token("google|1", "google")


def a_vault_that_is_away() -> None:
    async def open_it() -> None:
        async with open_vault(Secret(DATABASE), [KeyRing.generate()], [KeyRing.generate()]):
            pass

    asyncio.run(open_it())


def an_address_that_is_none() -> None:
    TokenVault(f"postgresql://vault:{CANARY}@[::1", [KeyRing.generate()]).user_token("google|1", "google")


def no_auth0_key() -> None:
    Credentials("tenant.example", "id", None, Secret(CANARY))


def no_webhook_key() -> None:
    webhook_key(Secret(f"whsec_{CANARY}"))


PATHS: list[Callable[[], None]] = [
    a_swapped_row, a_missing_key, an_answer_that_cannot_be_spooled, an_answer_that_cannot_be_written,
    a_spooled_answer_of_another_version, a_client_without_secret, a_client_without_key, a_revocation_without_secret,
    a_grant_without_token, a_management_token_without_life, users_that_are_no_list, connections_without_end,
    a_key_with_a_blank, keys_of_a_reader_that_are_none, a_key_in_place_of_keys, a_database_that_is_away,
    a_vault_that_is_away, an_address_that_is_none, no_auth0_key, no_webhook_key,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_no_frame_holds_a_secret(path: Callable[[], None]) -> None:
    """Whatever fails, neither the exception nor a variable of its frames shows what it worked on."""
    with pytest.raises(Exception) as failed:  # noqa: PT011  # any
        path()
    assert CANARY not in rendered(failed.value)


SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "both a key and its file": ("", {"VAULT_ACCESS_KEYS": CANARY, "VAULT_ACCESS_KEYS_FILE": "/x"}),
    "an address of Redis": ("", {"REDIS_URL": f"amqp://:{CANARY}@host"}),
    "an unknown setting": (f"[connections.x]\nclient_secret = '{CANARY}'\nnonsense = '{CANARY}'", {}),
    "a secret given twice": (f"[connections.x]\nclient_secret = '{CANARY}'\nclient_secret_file = '/x'", {}),
    "a tenant given twice": (
        f"[tenants.default]\nclient_secret = '{CANARY}'\ndomain = 'x.example'",
        {"AUTH0_DOMAIN": "x.example", "AUTH0_CLIENT_SECRET": CANARY},
    ),
    "half a tenant": ("", {"AUTH0_CLIENT_SECRET": CANARY}),
    "no TOML": (f"client_secret = '{CANARY}", {}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_is_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is refused is named, and its value is in no frame."""
    toml, variables = SETTINGS[name]
    file = tmp_path / "vault.toml"
    file.write_text(toml, encoding="utf-8")
    for variable, value in ({"TOKEN_VAULT_CONFIG": str(file)} | variables).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(Exception) as failed:  # noqa: PT011
        settings.load()
    assert CANARY not in rendered(failed.value)


def test_a_reader_shows_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a reader that finds a key twice."""
    monkeypatch.setenv("DATABASE_URL", DATABASE)
    monkeypatch.setenv("VAULT_ACCESS_KEYS", CANARY)
    monkeypatch.setenv("VAULT_ACCESS_KEYS_FILE", "/x")
    with pytest.raises(Exception) as failed:  # noqa: PT011
        ReaderEnvironment.read()
    assert CANARY not in rendered(failed.value)


def test_the_search_finds_a_local() -> None:
    """The search sees a variable of a frame outside of the tests, and a chained exception."""
    with pytest.raises(ValueError, match="Expecting") as failed:
        json.loads(f"[{CANARY}")
    assert CANARY in rendered(failed.value)
