"""Each provider: the request it is sent, and the answers it is documented to give."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.providers import (
    Client,
    ClientAuth,
    RefusalBlame,
    Refused,
    Renewed,
    TokenRequest,
    get,
    names,
    resolve,
)
from worker.providers.registry import PROVIDERS, for_host
from worker.token_pair import TokenPair

SENT = datetime(2026, 3, 15, 7, 14, 32, tzinfo=UTC)
OPTIONS = {"client_id": "the-id", "client_secret": "the-secret", "tenantId": "tenant-1"}
FORM = {"grant_type": "refresh_token", "refresh_token": "the-rt"}
POSTED = FORM | {"client_id": "the-id", "client_secret": "the-secret"}
BASIC = "Basic dGhlLWlkOnRoZS1zZWNyZXQ="  # the-id:the-secret


def client_of(strategy: str, **options: object) -> Client:
    client = resolve(strategy, {**OPTIONS, **options}, None, allow_loopback_http=False)
    assert isinstance(client, Client), client
    return client


def renewal(client: Client) -> TokenRequest:
    return get(client.provider).request(client, access=Secret("the-at"), refresh=Secret("the-rt"))


def form(request: TokenRequest) -> dict[str, str]:
    assert request.body is not None
    return dict(parse_qsl(request.body.decode(), strict_parsing=True, keep_blank_values=True))


@pytest.mark.parametrize(
    ("strategy", "options", "url", "parameters", "authorization"),
    [
        ("google-oauth2", {}, "https://oauth2.googleapis.com/token", POSTED, None),
        ("google-apps", {}, "https://oauth2.googleapis.com/token", POSTED, None),
        ("waad", {}, "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token", POSTED, None),
        (
            "waad",
            {"identity_api": "microsoft-identity-platform-v2.0", "resource": "https://graph.microsoft.com"},
            "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token",
            POSTED,
            None,
        ),
        (
            "waad",
            {"identity_api": "azure-active-directory-v1.0", "resource": "https://graph.microsoft.com"},
            "https://login.microsoftonline.com/tenant-1/oauth2/token",
            POSTED | {"resource": "https://graph.microsoft.com"},
            None,
        ),
        (
            "waad",
            {"tenantId": None, "tenant_domain": "corp.example", "domain": "other.example"},
            "https://login.microsoftonline.com/corp.example/oauth2/v2.0/token",
            POSTED,
            None,
        ),
        (
            "waad",
            {"useCommonEndpoint": True},
            "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            POSTED,
            None,
        ),
        (
            "windowslive",
            {"tenantId": ""},
            "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            POSTED,
            None,
        ),
        (
            "sharepoint",
            {"site": "https://Corp.sharepoint.com/sites/a"},
            "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token",
            POSTED | {"scope": "https://corp.sharepoint.com/.default offline_access"},
            None,
        ),
        (
            "sharepoint",
            {"scope": ["openid", "https://corp.sharepoint.com/AllSites.Read"]},
            "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token",
            POSTED | {"scope": "https://corp.sharepoint.com/.default offline_access"},
            None,
        ),
        (
            "sharepoint",
            {"site": "https://corp.sharepoint.com.evil.example/"},
            "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token",
            POSTED,
            None,
        ),
        ("bitbucket", {}, "https://bitbucket.org/site/oauth2/access_token", FORM, BASIC),
        ("github", {}, "https://github.com/login/oauth/access_token", POSTED, None),
        ("linkedin", {}, "https://www.linkedin.com/oauth/v2/accessToken", POSTED, None),
        ("salesforce", {}, "https://login.salesforce.com/services/oauth2/token", POSTED, None),
        ("salesforce-sandbox", {}, "https://test.salesforce.com/services/oauth2/token", POSTED, None),
        (
            "salesforce-community",
            {"community_base_url": "https://corp.my.site.com/app"},
            "https://corp.my.site.com/services/oauth2/token",
            POSTED,
            None,
        ),
        ("dropbox", {}, "https://api.dropboxapi.com/oauth2/token", POSTED, None),
        ("box", {}, "https://api.box.com/oauth2/token", POSTED, None),
        ("twitter", {}, "https://api.x.com/2/oauth2/token", FORM, BASIC),
        ("apple", {}, "https://appleid.apple.com/auth/token", POSTED, None),
        ("okta", {"domain": "corp.okta.com"}, "https://corp.okta.com/oauth2/v1/token", POSTED, None),
        ("okta", {"issuer": "https://corp.okta.com"}, "https://corp.okta.com/oauth2/v1/token", POSTED, None),
        (
            "okta",
            {"issuer": "https://corp.okta.com/oauth2/default/"},
            "https://corp.okta.com/oauth2/default/v1/token",
            POSTED,
            None,
        ),
        (
            "okta",
            {"domain": "x.okta.com", "oidc_metadata": {"token_endpoint": "https://login.corp.example/token"}},
            "https://login.corp.example/token",
            POSTED,
            None,
        ),
        (
            "auth0-oidc",
            {"domain": "corp.eu.auth0.com"},
            "https://corp.eu.auth0.com/oauth/token",
            POSTED,
            None,
        ),
        ("oauth2", {"tokenURL": "https://idp.example/token"}, "https://idp.example/token", POSTED, None),
        (
            "oauth2",
            {"tokenURL": "https://idp.example/token", "customHeaders": {"authorization": BASIC}},
            "https://idp.example/token",
            FORM,
            BASIC,
        ),
        (
            "oidc",
            {
                "token_endpoint": "https://idp.example/token",
                "token_endpoint_auth_method": "client_secret_basic",
            },
            "https://idp.example/token",
            FORM,
            BASIC,
        ),
        (
            "oauth2",
            {"tokenURL": "https://slack.com/api/oauth.v2.access"},
            "https://slack.com/api/oauth.v2.access",
            FORM,
            BASIC,
        ),
        ("oauth2", {"tokenURL": "https://zoom.us/oauth/token"}, "https://zoom.us/oauth/token", FORM, BASIC),
        (
            "oauth2",
            {
                "tokenURL": "https://gitlab.com/oauth/token",
                "redirect_uri": "https://t.example/login/callback",
            },
            "https://gitlab.com/oauth/token",
            POSTED | {"redirect_uri": "https://t.example/login/callback"},
            None,
        ),
    ],
)
def test_request(
    strategy: str, options: dict[str, Any], url: str, parameters: dict[str, str], authorization: str | None
) -> None:
    """The request goes where and as the provider documents it, and says nothing when printed."""
    request = renewal(client_of(strategy, **options))
    assert (request.method, request.url) == ("POST", url)
    assert form(request) == parameters
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Accept"] == "application/json"
    assert request.headers.get("Authorization") == authorization
    parts = urlsplit(url)
    assert repr(request) == str(request) == f"TokenRequest(POST {parts.hostname}{parts.path})"


def test_facebook_request() -> None:
    """Facebook exchanges the live access token by a GET, whose query is not printed."""
    request = get("facebook").request(client_of("facebook"), access=Secret("the at"), refresh=None)
    parts = urlsplit(request.url)
    assert (request.method, request.body) == ("GET", None)
    assert (parts.hostname, parts.path.split("/", 2)[2]) == ("graph.facebook.com", "oauth/access_token")
    assert dict(parse_qsl(parts.query)) == {
        "grant_type": "fb_exchange_token",
        "fb_exchange_token": "the at",
        "client_id": "the-id",
        "client_secret": "the-secret",
    }
    assert repr(request) == f"TokenRequest(GET {parts.hostname}{parts.path})"
    assert not get("facebook").needs_refresh_token


def test_atlassian_request() -> None:
    """Atlassian is sent JSON."""
    request = renewal(client_of("oauth2", tokenURL="https://auth.atlassian.com/oauth/token"))
    assert request.headers["Content-Type"] == "application/json"
    assert request.body is not None
    assert json.loads(request.body) == POSTED


def test_basic_encoding() -> None:
    """Id and secret are form-encoded before Base64, so that a colon or a blank in them is no separator."""
    client = Client("oauth2", "https://idp.example/t", "a:b c", Secret("d%é"), ClientAuth.BASIC)
    scheme, encoded = renewal(client).headers["Authorization"].split()
    assert (scheme, b64decode(encoded)) == ("Basic", b"a%3Ab+c:d%25%C3%A9")


def test_public_client() -> None:
    """A client without secret sends its id alone."""
    client = Client("oauth2", "https://idp.example/t", "the-id", None, ClientAuth.NONE)
    assert form(renewal(client)) == FORM | {"client_id": "the-id"}


def test_extra_parameters_never_replace_the_grant() -> None:
    """Extra parameters are added; they do not replace what carries the grant and the client."""
    extra = {"scope": "a b", "grant_type": "password", "refresh_token": "x", "client_id": "x"}
    client = Client("oauth2", "https://idp.example/t", "the-id", Secret("the-secret"), ClientAuth.POST, extra)
    assert form(renewal(client)) == POSTED | {"scope": "a b"}


def test_unsendable_requests() -> None:
    """What is missing is said without a request being built."""
    client = client_of("google-oauth2")
    for refresh in (None, Secret("")):
        with pytest.raises(ValueError, match="google renews with a refresh token"):
            get("google").request(client, access=Secret("a"), refresh=refresh)
    with pytest.raises(ValueError, match="facebook exchanges the access token"):
        get("facebook").request(client, access=None, refresh=Secret("r"))
    for auth, secret in ((ClientAuth.PRIVATE_KEY_JWT, Secret("s")), (ClientAuth.POST, None)):
        with pytest.raises(ConfigurationError):
            renewal(Client("oauth2", "https://idp.example/t", "the-id", secret, auth))


def read(name: str, status: int, answer: object, content_type: str = "application/json") -> Renewed | Refused:
    body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    return get(name).read(status, {"content-type": content_type}, body, sent_at=SENT)


def ends(**life: float) -> datetime:
    return SENT + timedelta(**life)


@pytest.mark.parametrize(
    ("name", "answer", "pair"),
    [
        (
            "google",
            {"access_token": "ya29.n", "expires_in": 3599, "scope": "openid email", "token_type": "Bearer"},
            TokenPair(Secret("ya29.n"), None, ends(seconds=3599), None, ("openid", "email")),
        ),
        (
            "google",
            {"access_token": "ya29.n", "expires_in": 3599, "refresh_token_expires_in": 604799},
            TokenPair(
                Secret("ya29.n"),
                None,
                ends(seconds=3599),
                ends(seconds=604799),
                consent_expires_at=ends(seconds=604799),
            ),
        ),
        (
            "azure-ad",
            {
                "access_token": "at",
                "refresh_token": "rt",
                "expires_in": 3599,
                "ext_expires_in": 7199,
                "scope": "a b",
            },
            TokenPair(Secret("at"), Secret("rt"), ends(seconds=3599), None, ("a", "b")),
        ),
        (
            "azure-ad",
            {"access_token": "at", "refresh_token": "rt", "expires_in": "3599", "expires_on": "1773562471"},
            TokenPair(Secret("at"), Secret("rt"), ends(seconds=3599)),
        ),
        *(
            (
                "bitbucket",
                {
                    "access_token": "at",
                    "refresh_token": "rt",
                    "expires_in": 7200,
                    field: "account repository",
                },
                TokenPair(Secret("at"), Secret("rt"), ends(hours=2), None, ("account", "repository")),
            )
            for field in ("scope", "scopes")
        ),
        (
            "github",
            {
                "access_token": "ghu_1",
                "expires_in": 28800,
                "refresh_token": "ghr_1",
                "refresh_token_expires_in": 15811200,
                "scope": "",
            },
            TokenPair(Secret("ghu_1"), Secret("ghr_1"), ends(hours=8), ends(seconds=15811200)),
        ),
        (
            "facebook",
            {"access_token": "EAA", "token_type": "bearer", "expires_in": 5183944},
            TokenPair(Secret("EAA"), None, ends(seconds=5183944)),
        ),
        (
            "gitlab",
            {"access_token": "at", "refresh_token": "rt", "expires_in": 7200, "created_at": 1773558872},
            TokenPair(Secret("at"), Secret("rt"), ends(hours=2)),
        ),
        (
            "slack",
            {
                "ok": True,
                "access_token": "xoxe.xoxb-bot",
                "refresh_token": "xoxe-bot",
                "authed_user": {
                    "id": "U1",
                    "access_token": "xoxe.xoxp-user",
                    "refresh_token": "xoxe-user",
                    "expires_in": 43200,
                    "scope": "chat:write,users:read",
                },
            },
            TokenPair(
                Secret("xoxe.xoxp-user"),
                Secret("xoxe-user"),
                ends(hours=12),
                None,
                ("chat:write", "users:read"),
            ),
        ),
        (
            "slack",
            {"ok": True, "access_token": "at", "refresh_token": "rt", "authed_user": {"id": "U1"}},
            TokenPair(Secret("at"), Secret("rt")),
        ),
        (
            "salesforce",
            {
                "access_token": "00D",
                "instance_url": "https://x.my.salesforce.com",
                "issued_at": "1773558872000",
            },
            TokenPair(Secret("00D"), extra={"instance_url": "https://x.my.salesforce.com"}),
        ),
        (
            "quickbooks",
            {
                "access_token": "a",
                "refresh_token": "r",
                "expires_in": 3600,
                "x_refresh_token_expires_in": 8640000,
            },
            TokenPair(Secret("a"), Secret("r"), ends(hours=1), ends(days=100)),
        ),
    ],
)
def test_answer(name: str, answer: object, pair: TokenPair) -> None:
    """A documented answer gives its pair."""
    assert read(name, 200, answer) == Renewed(pair)


def entra(error: str, number: int, **more: object) -> dict[str, object]:
    return {"error": error, "error_codes": [number], "error_description": f"AADSTS{number}: text.", **more}


@pytest.mark.parametrize(
    ("name", "status", "answer", "blame", "code"),
    [
        (
            "google",
            400,
            {"error": "invalid_grant", "error_subtype": "invalid_rapt"},
            RefusalBlame.USER,
            "invalid_rapt",
        ),
        ("google", 401, {"error": "deleted_client"}, RefusalBlame.OPERATOR, "deleted_client"),
        ("google", 403, {"error": "rate_limit_exceeded"}, RefusalBlame.NOBODY, "rate_limit_exceeded"),
        ("azure-ad", 400, entra("invalid_grant", 50173), RefusalBlame.USER, "invalid_grant"),
        (
            "azure-ad",
            400,
            entra("invalid_grant", 65001, suberror="consent_required"),
            RefusalBlame.USER,
            "consent_required",
        ),
        (
            "azure-ad",
            400,
            entra("invalid_grant", 700082, suberror="token_expired"),
            RefusalBlame.USER,
            "token_expired",
        ),
        ("azure-ad", 400, entra("interaction_required", 50076), RefusalBlame.USER, "interaction_required"),
        ("azure-ad", 400, entra("invalid_grant", 50196), RefusalBlame.NOBODY, "aadsts50196"),
        (
            "azure-ad",
            400,
            {"error": "invalid_grant", "error_description": "AADSTS50196: loop"},
            RefusalBlame.NOBODY,
            "aadsts50196",
        ),
        (
            "azure-ad",
            400,
            {"error": "invalid_grant", "error_description": "AADSTS501960: no"},
            RefusalBlame.USER,
            "invalid_grant",
        ),
        ("azure-ad", 400, entra("invalid_grant", 70011), RefusalBlame.OPERATOR, "aadsts70011"),
        ("azure-ad", 401, entra("invalid_client", 7000215), RefusalBlame.OPERATOR, "invalid_client"),
        ("azure-ad", 401, entra("invalid_client", 7000222), RefusalBlame.OPERATOR, "invalid_client"),
        ("azure-ad", 400, entra("unauthorized_client", 700016), RefusalBlame.OPERATOR, "unauthorized_client"),
        ("azure-ad", 400, entra("invalid_request", 90002), RefusalBlame.OPERATOR, "invalid_request"),
        ("azure-ad", 400, entra("invalid_request", 50132), RefusalBlame.OPERATOR, "invalid_request"),
        ("azure-ad", 400, entra("news", 50132), RefusalBlame.USER, "aadsts50132"),
        (
            "azure-ad",
            400,
            entra("temporarily_unavailable", 90033),
            RefusalBlame.NOBODY,
            "temporarily_unavailable",
        ),
        (
            "azure-ad",
            503,
            entra("temporarily_unavailable", 90033),
            RefusalBlame.NOBODY,
            "temporarily_unavailable",
        ),
        (
            "azure-ad",
            400,
            entra("invalid_grant", 1, suberror="bad_token"),
            RefusalBlame.USER,
            "invalid_grant",
        ),
        (
            "azure-ad",
            400,
            {"error": "invalid_grant", "error_codes": ["50196", None, {}]},
            RefusalBlame.USER,
            "invalid_grant",
        ),
        ("github", 200, {"error": "bad_refresh_token"}, RefusalBlame.USER, "bad_refresh_token"),
        (
            "github",
            200,
            {"error": "incorrect_client_credentials"},
            RefusalBlame.OPERATOR,
            "incorrect_client_credentials",
        ),
        ("github", 200, "error=bad_refresh_token&error_uri=x", RefusalBlame.USER, "bad_refresh_token"),
        ("bitbucket", 400, {"error": "invalid_grant"}, RefusalBlame.USER, "invalid_grant"),
        (
            "bitbucket",
            400,
            {"error": "invalid_request", "error_description": "Invalid refresh_token"},
            RefusalBlame.USER,
            "invalid_grant",
        ),
        (
            "bitbucket",
            400,
            {"error": "invalid_request", "error_description": "No"},
            RefusalBlame.OPERATOR,
            "invalid_request",
        ),
        (
            "bitbucket",
            400,
            {"error": "slow_down", "error_description": "Invalid refresh_token"},
            RefusalBlame.NOBODY,
            "slow_down",
        ),
        ("bitbucket", 401, {"error": "unauthorized_client"}, RefusalBlame.OPERATOR, "unauthorized_client"),
        ("bitbucket", 502, "Bad Gateway", RefusalBlame.IN_DOUBT, "http_502"),
        (
            "facebook",
            400,
            {"error": {"code": 190, "type": "OAuthException", "error_subcode": 463}},
            RefusalBlame.USER,
            "facebook_190",
        ),
        ("facebook", 400, {"error": {"code": 102}}, RefusalBlame.USER, "facebook_102"),
        (
            "facebook",
            400,
            {"error": {"message": "Error validating client secret.", "type": "OAuthException", "code": 1}},
            RefusalBlame.OPERATOR,
            "bad_client_secret",
        ),
        (
            "facebook",
            400,
            {"error": {"message": "An unknown error occurred", "code": 1}},
            RefusalBlame.NOBODY,
            "facebook_1",
        ),
        ("facebook", 400, {"error": {"code": 101}}, RefusalBlame.OPERATOR, "facebook_101"),
        ("facebook", 400, {"error": {"code": 4}}, RefusalBlame.NOBODY, "facebook_4"),
        (
            "facebook",
            400,
            {"error": {"code": 190, "is_transient": True}},
            RefusalBlame.NOBODY,
            "facebook_transient",
        ),
        ("facebook", 400, {"error": {"code": True}}, RefusalBlame.NOBODY, "facebook_1"),
        ("facebook", 400, {"error": {"code": 77}}, RefusalBlame.UNKNOWN, "77"),
        ("facebook", 500, {"error": {"code": 2}}, RefusalBlame.NOBODY, "facebook_2"),
        ("gitlab", 401, {"error": "invalid_client"}, RefusalBlame.OPERATOR, "invalid_client"),
        ("okta", 400, {"error": "invalid_grant"}, RefusalBlame.USER, "invalid_grant"),
        ("auth0-tenant", 403, {"error": "invalid_grant"}, RefusalBlame.USER, "invalid_grant"),
        ("atlassian", 403, {"error": "invalid_grant"}, RefusalBlame.USER, "invalid_grant"),
        (
            "atlassian",
            403,
            {"error": "unauthorized_client", "error_description": "refresh_token is invalid"},
            RefusalBlame.USER,
            "invalid_grant",
        ),
        ("atlassian", 403, {"error": "unauthorized_client"}, RefusalBlame.OPERATOR, "unauthorized_client"),
        (
            "slack",
            200,
            {"ok": False, "error": "invalid_refresh_token"},
            RefusalBlame.USER,
            "invalid_refresh_token",
        ),
        (
            "slack",
            200,
            {"ok": False, "error": "bad_client_secret"},
            RefusalBlame.OPERATOR,
            "bad_client_secret",
        ),
        ("slack", 200, {"ok": False, "error": "internal_error"}, RefusalBlame.IN_DOUBT, "internal_error"),
        ("slack", 200, {"ok": False, "error": "fatal_error"}, RefusalBlame.IN_DOUBT, "fatal_error"),
        ("slack", 200, {"ok": False, "error": "ratelimited"}, RefusalBlame.NOBODY, "ratelimited"),
        (
            "hubspot",
            400,
            {"status": "BAD_REFRESH_TOKEN", "message": "x"},
            RefusalBlame.USER,
            "bad_refresh_token",
        ),
        ("hubspot", 400, {"status": "BAD_CLIENT_SECRET"}, RefusalBlame.OPERATOR, "bad_client_secret"),
        ("zoho", 200, {"error": "invalid_code"}, RefusalBlame.USER, "invalid_code"),
        ("zoho", 400, {"error": "Access Denied"}, RefusalBlame.NOBODY, "access_denied"),
        ("oauth2", 400, {"error": "Access Denied"}, RefusalBlame.UNKNOWN, "access_denied"),
        (
            "x",
            400,
            {"error": "invalid_request", "error_description": "Value passed for the token was invalid."},
            RefusalBlame.USER,
            "invalid_grant",
        ),
        (
            "oauth2",
            400,
            {"error": {"code": 400, "status": "INVALID_REQUEST"}},
            RefusalBlame.OPERATOR,
            "invalid_request",
        ),
    ],
)
def test_refusal(name: str, status: int, answer: object, blame: RefusalBlame, code: str) -> None:
    """Each documented refusal names who has to act; only doubt leaves the refresh token possibly spent."""
    content_type = "application/x-www-form-urlencoded" if isinstance(answer, str) else "application/json"
    got = read(name, status, answer, content_type)
    assert got == Refused(blame, code, None, spent=blame is RefusalBlame.IN_DOUBT)


def test_registry() -> None:
    """Every provider has one name; a strategy and a host lead to one provider only."""
    assert len(set(names())) == len(names())
    strategies = [strategy for provider in PROVIDERS for strategy in provider.strategies]
    assert len(set(strategies)) == len(strategies)
    assert get("waad") is get("azure-ad")
    for name in names():
        assert get(name).name == name
    with pytest.raises(ConfigurationError, match="bitbucket"):
        get("nobody")


def test_hosts() -> None:
    """A provider is known by its own hosts, and not by hosts that only look like them."""
    assert for_host("bitbucket.org") is get("bitbucket")
    assert for_host("corp.okta.com") is get("okta")
    assert for_host("accounts.zoho.eu") is get("zoho")
    for stranger in ("evilbitbucket.org", "bitbucket.org.evil.example", "okta.com", "notokta.com", ""):
        assert for_host(stranger) is None


def test_what_cannot_be_renewed_once_ended_is_renewed_days_before() -> None:
    """Where the access token itself is exchanged, an outage of some days must not end the grant."""
    exchanged = [provider for provider in PROVIDERS if provider.sends == "access_token"]
    assert exchanged
    for provider in exchanged:
        assert provider.margin is not None
        assert provider.margin >= timedelta(days=3)


def test_token_urls_are_safe() -> None:
    """Every declared endpoint is https at one of the provider's own hosts."""
    for provider in PROVIDERS:
        if provider.token_url and provider.hosts:
            parts = urlsplit(provider.token_url)
            assert parts.scheme == "https"
            assert for_host(parts.hostname or "") is provider
