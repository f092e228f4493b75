"""Whose grants are meant, where the API knows fewer tenants than the vault holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, ApiClient, serving_here
from tests.support.proxied_api import RECONNECT_SECRET
from tests.support.readers import Rows, Sql
from token_vault.errors import TemporarilyUnavailable
from worker.api.problems import ApiProblem
from worker.api.tenants import FRESH_SECONDS, RETRY_SECONDS, Tenants
from worker.consumer_rules import ConsumerRules
from worker.reconnect import read_state
from worker.settings import load
from worker.vault.grants import queries
from worker.vault.vault import Database, Vault

USER = "/v1/users/oauth2%7Cu1"
TENANTS = ("default", "second")


@pytest.fixture
async def two_tenants(rows: Rows) -> None:
    """The same user id at two tenants."""
    for tenant in TENANTS:
        await rows.add(tenant=tenant, value=f"token-of-{tenant}")


@pytest.fixture
def more() -> str:
    """The end of the settings; a test may have some."""
    return ""


@pytest.fixture
def allowed() -> str | None:
    """The only tenant of the consumer; None for all."""
    return None


@pytest.fixture
def api(
    environment: Path,
    tenant: Emulation,
    api_key: str,
    two_tenants: None,
    sql: Sql,
    allowed: str | None,
    more: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ApiClient]:
    """Serve with an issuer and no tenant, as Compose does."""
    for name in ("DOMAIN", "CLIENT_ID", "CLIENT_SECRET", "AUDIENCE", "PLAN"):
        monkeypatch.delenv(f"AUTH0_{name}")
    environment.write_text(
        f'{SETTINGS}issuer = "{tenant.auth0_domain}/"\n[reconnect]\nclient_id = "web-app"\n'
        f'redirect_uri = "https://app.example/back"\nsecret = "{RECONNECT_SECRET.reveal()}"\n{more}',
        encoding="utf-8",
    )
    sql("UPDATE consumers SET tenants = %s", [allowed] if allowed else None)
    with serving_here(load()) as client:
        yield client


def test_a_consumer_names_one_of_the_vaults_tenants(api: ApiClient, api_key: str) -> None:
    """By its name it reads the token of that tenant's user; without one it is told the names."""
    for tenant in TENANTS:
        found = api.call(f"{USER}/tokens/custom?tenant={tenant}", api_key)
        assert found.json().get("access_token") == f"token-of-{tenant}", found.text
    assert api.problem(f"{USER}/tokens/custom", api_key)[1:] == (
        "bad-request",
        "name the tenant by tenant: default, second",
    )
    for path in ("tokens", "reconnect"):
        assert api.problem(f"{USER}/{path}/custom?tenant=other", api_key)[1:] == (
            "bad-request",
            "no tenant has this name",
        )
    link = api.call(f"{USER}/reconnect/custom?tenant=second", api_key)
    assert tenant_of(link.json()["reauthorize_url"]) == "second"


@pytest.mark.parametrize("allowed", ["second"])
def test_a_consumer_of_one_tenant_names_none(api: ApiClient, api_key: str) -> None:
    """Its tenant is meant, and no other is open to it."""
    for query in ("", "?tenant=second"):
        assert api.call(f"{USER}/tokens/custom{query}", api_key).json()["access_token"] == "token-of-second"
        link = api.call(f"{USER}/reconnect/custom{query}", api_key)
        assert tenant_of(link.json()["reauthorize_url"]) == "second"
    for path in ("tokens", "reconnect"):
        assert api.problem(f"{USER}/{path}/custom?tenant=default", api_key)[1:] == (
            "not-allowed",
            "the entry [consumers.calendar] does not allow this tenant",
        )


def test_a_user_names_no_tenant(api: ApiClient, tenant: Emulation) -> None:
    """Where nobody says whose user it is there is no link, least of all for a tenant that the user names."""
    user = tenant.issue_access_token({"sub": "oauth2|u1", "gty": None, "scope": "proxy:idp"})
    assert api.problem(f"{USER}/reconnect/custom", user)[1] == "not-found"
    for name in (*TENANTS, "other"):
        assert api.problem(f"{USER}/reconnect/custom?tenant={name}", user)[1] == "not-allowed"


SECOND = '[tenants.second]\ndomain = "second.example"\nclient_id = "x"\nclient_secret = "y"\n'


@pytest.mark.parametrize("more", [SECOND])
def test_the_tenant_that_it_knows_is_not_the_only_one(api: ApiClient, api_key: str) -> None:
    """A worker has another by ``AUTH0_*``, and the same id may be somebody else's there."""
    assert api.problem(f"{USER}/tokens/custom", api_key)[1] == "bad-request"
    found = api.call(f"{USER}/tokens/custom?tenant=default", api_key)
    assert found.json().get("access_token") == "token-of-default", found.text


@pytest.mark.parametrize("more", [f'tenant = "second"\n{SECOND}'])
def test_the_operator_says_whose_users_reconnect(api: ApiClient, tenant: Emulation, api_key: str) -> None:
    """``[reconnect] tenant`` is the tenant of users' links, and of consumers' who name none."""
    user = tenant.issue_access_token({"sub": "oauth2|u1", "gty": None, "scope": "proxy:idp"})
    for credential, query in ((user, ""), (user, "?tenant=second"), (api_key, "")):
        link = api.call(f"{USER}/reconnect/custom{query}", credential)
        assert tenant_of(link.json()["reauthorize_url"]) == "second"
    assert api.problem(f"{USER}/reconnect/custom?tenant=default", user)[1] == "not-allowed"


async def test_the_vault_is_asked_now_and_then(vault: Vault, rows: Rows) -> None:
    """A tenant whose first sync was a while ago is known; the vault is not asked for each read."""
    now = [1000.0]
    found = Tenants((), vault, lambda: now[0])
    assert (await found.known(), await found.only()) == ([], None)
    await rows.add()
    assert await found.known() == []
    now[0] += FRESH_SECONDS
    assert (await found.known(), await found.only()) == (["default"], "default")
    await rows.add(tenant="second")
    now[0] += FRESH_SECONDS
    assert (await found.known(), await found.only()) == (["default", "second"], None)
    assert await Tenants(("default",), vault).only() == "default"
    of_two = ConsumerRules("calendar", ("*",), tenants=TENANTS)
    with pytest.raises(ApiProblem, match="name the tenant"):
        await found.choose(of_two, None)


async def test_while_the_vault_cannot_be_asked_what_is_known_holds(
    vault: Vault, rows: Rows, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who waits asks again after a failure; who knows nothing yet takes no tenant of the file for the only one."""
    await rows.add()
    now = [1000.0]
    known, fresh = (Tenants(("second",), vault, lambda: now[0]) for _ in range(2))
    assert await known.known() == ["default", "second"]
    now[0] += FRESH_SECONDS
    list_tenants, asked = queries.list_tenants, list[object]()

    async def counted(database: Database) -> list[str]:
        asked.append(database)
        return await list_tenants(database)

    monkeypatch.setattr(queries, "list_tenants", counted)
    sql("ALTER TABLE connections RENAME TO away")
    try:
        assert await asyncio.gather(*(known.known() for _ in range(5))) == [["default", "second"]] * 5
        waiting = await asyncio.gather(*(fresh.known() for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in waiting] == [TemporarilyUnavailable] * 5
        assert len(asked) == 2
    finally:
        sql("ALTER TABLE away RENAME TO connections")
    now[0] += RETRY_SECONDS
    assert await fresh.known() == ["default", "second"]


def tenant_of(link: str) -> str:
    """The tenant that a link's state names."""
    (state,) = parse_qs(urlsplit(link).query)["state"]
    return read_state(state, RECONNECT_SECRET, datetime.now(UTC)).tenant
