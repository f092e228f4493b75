"""Security events of providers: verified, and never more than a reason to ask the provider."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulators.client import Emulation
from tests.support.readers import Sql, on_demand_worker
from tests.support.served_api import served
from tests.support.wait import until, until_async
from worker.api import jwks
from worker.runtime import Runtime
from worker.settings import load

CONNECTION, AUDIENCE = "google-oauth2", "client-1"
SCHEMAS = "https://schemas.openid.net/secevent/"
RISC = f"{SCHEMAS}risc/event-type/"
DISABLED = f"{RISC}account-disabled"
OpenWorker = Callable[[], Awaitable[Runtime]]

SIGNALS = [
    "risc/event-type/sessions-revoked",
    "risc/event-type/account-disabled",
    "risc/event-type/account-purged",
    "risc/event-type/account-credential-change-required",
    "risc/event-type/tokens-revoked",
    "oauth/event-type/tokens-revoked",
    "oauth/event-type/token-revoked",
    "caep/event-type/session-revoked",
    "caep/event-type/credential-change",
]


@pytest.fixture
def hook(environment: Path, tenant: Emulation) -> Iterator[str]:
    """The hook's address; its transmitter has the emulation's keys."""
    environment.write_text(
        f"{tenant.config_toml()}\n[hooks.events.google]\n"
        f'issuer = "{tenant.auth0_domain}/"\naudience = ["other", "{AUDIENCE}"]\nconnections = "{CONNECTION}"\n'
        f'[hooks.events.elsewhere]\nissuer = "{tenant.auth0_domain}/"\naudience = "{AUDIENCE}"\n'
        f'connections = "{CONNECTION}"\ntenants = ["other"]\n',
        encoding="utf-8",
    )
    with served(load()) as url:
        yield f"{url}/v1/hooks/events/google"


@pytest.fixture
async def runtime(tenant: Emulation, open_worker: OpenWorker, sql: Sql) -> Runtime:
    """A vault with fresh tokens of two users, renewed longer ago than the least interval."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    tenant.add_users(CONNECTION, 2)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due(runtime.tenants)
    sql("UPDATE grants SET obtained_at = obtained_at - interval '2 min'")
    return runtime


def accounts(sql: Sql) -> list[str]:
    return [row["provider_user_id"] for row in sql("SELECT provider_user_id FROM grants ORDER BY id")]


def states(sql: Sql) -> list[str]:
    return [row["state"] for row in sql("SELECT state FROM grants ORDER BY id")]


def claims(events: Any, **changed: Any) -> dict[str, Any]:
    """A token's claims, without those of an access token."""
    absent = dict.fromkeys(("sub", "exp", "azp", "scope", "gty"))
    return absent | {"aud": AUDIENCE, "jti": "1", "events": events} | changed


def subject(tenant: Emulation, account: str, **changed: Any) -> dict[str, Any]:
    return {"format": "iss_sub", "iss": f"{tenant.auth0_domain}/", "sub": account} | changed


def post(url: str, token: str, **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False) as http:
        return http.post(url, content=token, headers={"Content-Type": "application/secevent+jwt"} | headers)


async def test_a_dead_grant_is_told_dead_and_a_good_one_stays_good(
    tenant: Emulation, runtime: Runtime, sql: Sql, hook: str
) -> None:
    """Both are tried at once, at the provider, though their tokens have life: no renewal by schedule is running."""
    revoked, good = accounts(sql)
    tenant.revoke(sql("SELECT user_id FROM grants ORDER BY id")[0]["user_id"], CONNECTION)
    for account in (good, revoked):  # the good one shows first that the client is
        async with on_demand_worker(runtime) as results:
            tenant.send_security_event(hook, SIGNALS[1], audience=AUDIENCE, account=account)
            await until_async(lambda results=results: len(results) == 1)  # type: ignore[misc]
    assert states(sql) == ["reauthorization_required", "active"]
    assert tenant.delivered() == [202, 202]


async def test_a_token_that_comes_again_costs_one_call(
    tenant: Emulation, runtime: Runtime, sql: Sql, hook: str
) -> None:
    """Replays, and new tokens of an attacker with the key, cause one renewal in the least interval."""
    [account, _] = accounts(sql)
    before = tenant.calls("/idp/google")
    async with on_demand_worker(runtime) as results:
        tenant.send_security_event(hook, SIGNALS[0], audience=AUDIENCE, account=account, times=5)
        await until_async(lambda: len(tenant.delivered()) == 5)
        await until_async(lambda: len(results) >= 1)
        for signal in SIGNALS:
            tenant.send_security_event(hook, signal, audience=AUDIENCE, account=account)
        await until_async(lambda: len(tenant.delivered()) == 5 + len(SIGNALS))
    assert sum(tenant.calls("/idp/google").values()) == sum(before.values()) + 1
    [waiting] = sql("SELECT due_at > now() + interval '40 s' AS late FROM refresh_requests")
    assert waiting == {"late": True}
    assert set(tenant.delivered()) == {202}
    assert states(sql) == ["active", "active"]


async def test_each_way_to_name_a_subject_is_read(
    tenant: Emulation, runtime: Runtime, sql: Sql, hook: str
) -> None:
    """By RFC 9493, by Google's earlier draft, and by a complex subject; never by an email address."""
    [account, _] = accounts(sql)
    issuer = f"{tenant.auth0_domain}/"
    whole = subject(tenant, account)
    read: list[dict[str, Any]] = [
        {"events": {DISABLED: {"subject": whole}}},
        {"events": {DISABLED: {"subject": {"subject_type": "iss-sub", "iss": issuer, "sub": account}}}},
        {
            "events": {
                DISABLED: {"subject": {"subject_type": "id_token_claims", "iss": issuer[:-1], "sub": account}}
            }
        },
        {"events": {DISABLED: {}}, "sub_id": whole},
        {"events": {DISABLED: {}}, "sub_id": {"format": "complex", "user": whole}},
        {"events": {"https://acme.example/unknown": {}, DISABLED: {"subject": whole}}},
        {"events": {DISABLED: {"subject": whole}}, "aud": ["another", AUDIENCE]},
        *({"events": {f"{SCHEMAS}{signal}": {"subject": whole}}} for signal in SIGNALS),
    ]
    passed_over: list[dict[str, Any]] = [
        {"events": {DISABLED: {"subject": {"format": "email", "email": account}}}},
        {"events": {DISABLED: {"subject": {"format": "account", "uri": f"acct:{account}"}}}},
        {"events": {DISABLED: {"subject": {**whole, "format": "opaque", "id": account}}}},
        {"events": {DISABLED: {"subject": {**whole, "iss": "https://another.example"}}}},
        {"events": {DISABLED: {"subject": {**whole, "sub": f"{account}0"}}}},
        {"events": {DISABLED: {"subject": {**whole, "sub": "a\0b"}}}},
        {"events": {DISABLED: {"subject": {**whole, "sub": ""}}}},
        {"events": {DISABLED: {"subject": {**whole, "sub": 7}}}},
        {"events": {DISABLED: {"subject": 7}}},
        {"events": {DISABLED: None}},
        {"events": {f"{RISC}account-enabled": {"subject": whole}}},
        {"events": {f"{RISC}verification": {"state": "x"}}},
        {"events": {"https://schemas.openid.net/secevent/ssf/event-type/verification": {"state": "x"}}},
    ]
    for number, changed in enumerate(read + passed_over):
        token = tenant.issue_access_token(claims(None) | changed, header={"typ": "secevent+jwt"})
        answer = post(hook, token)
        assert (answer.status_code, answer.content) == (202, b""), answer.text
        found = sql("DELETE FROM refresh_requests RETURNING grant_id")
        assert len(found) == (number < len(read)), changed
        # A transmitter of another tenant asks nothing about this one's users.
        assert post(hook.replace("/google", "/elsewhere"), token).status_code == 202
        assert sql("SELECT 1 FROM refresh_requests") == []


async def test_what_is_no_token_of_the_transmitter_is_refused(
    tenant: Emulation, runtime: Runtime, sql: Sql, hook: str
) -> None:
    """Each with an error code of RFC 8935, and nothing follows from it."""
    events = {DISABLED: {"subject": subject(tenant, accounts(sql)[0])}}
    good = claims(events)
    typed = {"typ": "secevent+jwt"}

    def sign(changed: dict[str, Any] | None = None, **how: Any) -> str:
        return tenant.issue_access_token(good | (changed or {}), **{"header": typed, **how})

    def unsigned(header: dict[str, Any]) -> str:
        return urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")

    whole = sign()
    wrong: list[tuple[str, str]] = [
        ("", "invalid_request"),
        ("no token", "invalid_request"),
        ("\N{GREEK SMALL LETTER ALPHA}.b.c", "invalid_request"),
        (f"{whole.rpartition('.')[0]}.", "authentication_failed"),
        (sign(trick="foreign"), "authentication_failed"),
        (sign(trick="none"), "invalid_key"),
        (sign(trick="HS256"), "invalid_key"),
        (sign(header=typed | {"kid": "unknown"}), "invalid_key"),
        (f"{unsigned(typed | {'alg': ['RS256'], 'kid': 'x'})}.{whole.partition('.')[2]}", "invalid_key"),
        (sign(header={"typ": "JWT"}), "invalid_request"),
        (sign(header={"typ": "at+jwt"}), "invalid_request"),
        (sign({"iss": "https://another.example/"}), "invalid_issuer"),
        (sign({"iss": None}), "invalid_issuer"),
        (sign({"aud": "another"}), "invalid_audience"),
        (sign({"aud": ["another"]}), "invalid_audience"),
        (sign({"aud": {"client-1": 1}}), "invalid_audience"),
        (sign({"aud": None}), "invalid_request"),
        (sign({"jti": None}), "invalid_request"),
        (sign({"iat": None}), "invalid_request"),
        (sign({"iat": 4_000_000_000}), "invalid_request"),
        (sign({"events": None}), "invalid_request"),
        (sign({"events": {}}), "invalid_request"),
        (sign({"events": [DISABLED]}), "invalid_request"),
        (sign({"events": {f"{DISABLED}{n}": {} for n in range(21)}}), "invalid_request"),
    ]
    for token, code in wrong:
        refused = post(hook, token.encode().decode("latin-1"))
        assert (refused.status_code, refused.json()["err"]) == (400, code), (token, refused.text)
        assert refused.headers["content-language"] == "en"
    assert sql("SELECT 1 FROM refresh_requests") == []
    assert post(hook, "x" * 20_000).status_code == 413
    assert post(hook.replace("google", "nobody"), whole).status_code == 404
    assert post(hook, whole).status_code == 202
    assert len(sql("SELECT 1 FROM refresh_requests")) == 1


def test_what_becomes_of_events_is_counted(tenant: Emulation, hook: str, vault: object) -> None:
    """A subject that nobody knows, a kind that is passed over, a test of the stream."""
    for signal in (SIGNALS[0], "risc/event-type/account-enabled", "risc/event-type/verification"):
        tenant.send_security_event(hook, signal, audience=AUDIENCE, account="nobody")
    until(lambda: len(tenant.delivered()) == 3)
    with httpx.Client(trust_env=False) as http:
        shown = http.get(hook.replace("/v1/hooks/events/google", "/metrics")).text
    for outcome in ("unknown_subject", "passed_over", "verified"):
        assert f'token_vault_api_hook_events_total{{hook="google",outcome="{outcome}"}} 1.0' in shown


def test_a_transmitter_s_own_secret_is_asked_for(environment: Path, tenant: Emulation, vault: object) -> None:
    """Where the operator sets one, and a token without a type is taken where he says so."""
    environment.write_text(
        f'[hooks.events.google]\nissuer = "{tenant.auth0_domain}"\naudience = "{AUDIENCE}"\ntyped = false\n'
        f'jwks_uri = "{tenant.auth0_domain}/.well-known/jwks.json"\n'
        f'connections = "{CONNECTION}"\nsecret = "{"s" * 32}"\n',
        encoding="utf-8",
    )
    token = tenant.issue_access_token(claims({DISABLED: {}}), header={"typ": "JWT"})
    with served(load()) as url:
        hook = f"{url}/v1/hooks/events/google"
        refused = post(hook, token)
        assert (refused.status_code, refused.json()["err"]) == (400, "authentication_failed")
        assert post(hook, token, Authorization=f"Bearer {'s' * 32}").status_code == 202
        id_token = tenant.issue_access_token(claims(None), header={"typ": "JWT"})
        assert post(hook, id_token, Authorization=f"Bearer {'s' * 32}").json()["err"] == "invalid_request"


def test_without_the_transmitter_s_keys_it_is_asked_to_come_again(
    environment: Path, tenant: Emulation, vault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503: an event is never dropped because keys cannot be fetched just now."""
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.5)
    environment.write_text(
        f'[hooks.events.google]\nissuer = "{tenant.auth0_domain}/"\naudience = "{AUDIENCE}"\n'
        f'discovery = "http://127.0.0.1:9/x"\nconnections = "{CONNECTION}"\n',
        encoding="utf-8",
    )
    token = tenant.issue_access_token(claims({DISABLED: {}}), header={"typ": "secevent+jwt"})
    with served(load()) as url:
        refused = post(f"{url}/v1/hooks/events/google", token)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
