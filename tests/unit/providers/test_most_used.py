"""The most used providers: each request and answer as its page has it, its hosts, lives and source."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from token_vault.secret import Secret
from worker.providers import Client, Renewed, TokenRequest, get, resolve
from worker.providers.registry import PROVIDERS, for_host

SENT = datetime(2026, 11, 28, 12, tzinfo=UTC)
# Both have no page of their own: they are the standard.
STANDARD = {"oauth2", "oidc"}
RT = {"grant_type": "refresh_token", "refresh_token": "the-rt"}
ID = {"client_id": "the-id", "client_secret": "the-secret"}
ROTATED = {"access_token": "new-at", "refresh_token": "new-rt", "expires_in": 3600}
KEPT = {"access_token": "new-at", "expires_in": 3600}
EXCHANGED = {"access_token": "new-at", "expires_in": 5_184_000}
FOREVER = float("inf")


@dataclass(frozen=True)
class Documented:
    """What a provider documents.

    Attributes:
        url: where the request goes.
        form: its parameters; ``body`` says how they go: as a form, as JSON or in the query.
        auth: how the client proves itself.
        signs_in_at: the token URL that Auth0 shows, or the options of the connection's strategy.
        seconds: the life in the answer, None where it tells none.
        grace: seconds; None where no page says.
        idle, absolute: days that the refresh token lives.
    """

    name: str
    url: str
    form: dict[str, str] = field(default_factory=lambda: RT)
    auth: str = "post"
    body: str = "form"
    answer: dict[str, Any] = field(default_factory=lambda: ROTATED)
    signs_in_at: str | None = None
    strategy: str = "oauth2"
    options: dict[str, str] = field(default_factory=dict)
    seconds: int | None = 3600
    rotates: bool = True
    grace: float | None = None
    idle: int | None = None
    absolute: int | None = None


def at(host: str, path: str = "oauth/token") -> str:
    return f"https://{host}/{path}"


ENTRA = at("login.microsoftonline.com", "t-1/oauth2/v2.0/token")
TENANT = {"tenantId": "t-1"}
SALESFORCE = {"access_token": "new-at", "instance_url": "https://x.my.salesforce.com"}
MOST_USED = (
    Documented("google", at("oauth2.googleapis.com", "token"), answer=KEPT, rotates=False, idle=180),
    Documented("azure-ad", ENTRA, strategy="waad", options=TENANT, rotates=False, idle=90),
    Documented("microsoft", ENTRA, strategy="windowslive", options=TENANT, rotates=False, idle=90),
    Documented("sharepoint", ENTRA, strategy="sharepoint", options=TENANT, rotates=False, idle=90),
    Documented("bitbucket", at("bitbucket.org", "site/oauth2/access_token"), auth="basic", grace=0, idle=90),
    Documented("github", at("github.com", "login/oauth/access_token"), grace=0, idle=183),
    Documented(
        "facebook", at("graph.facebook.com", "v23.0/oauth/access_token"), strategy="facebook", body="query",
        form={"grant_type": "fb_exchange_token", "fb_exchange_token": "the-at"}, answer=EXCHANGED, seconds=5_184_000,
        rotates=False,
    ),
    Documented(
        "okta", at("corp.okta.com", "oauth2/v1/token"), strategy="okta", options={"domain": "corp.okta.com"}, grace=30
    ),
    Documented(
        "auth0-tenant", at("corp.eu.auth0.com"), strategy="auth0-oidc", options={"domain": "corp.eu.auth0.com"}
    ),
    Documented(
        "salesforce", at("login.salesforce.com", "services/oauth2/token"), answer=SALESFORCE, seconds=None, idle=30
    ),
    Documented(
        "gitlab", at("gitlab.com"), form=RT | {"redirect_uri": "https://t/cb"}, options={"redirect_uri": "https://t/cb"},
        grace=0,
    ),
    Documented("atlassian", at("auth.atlassian.com"), body="json", grace=600, idle=90, absolute=365),
    Documented(
        "slack", at("slack.com", "api/oauth.v2.access"), auth="basic", answer={"ok": True, "authed_user": ROTATED}
    ),
    Documented("linkedin", at("www.linkedin.com", "oauth/v2/accessToken"), rotates=False, absolute=365),
    Documented("dropbox", at("api.dropboxapi.com", "oauth2/token"), answer=KEPT, rotates=False),
    Documented("box", at("api.box.com", "oauth2/token"), grace=FOREVER, idle=60),
    Documented("zoom", at("zoom.us"), auth="basic", grace=0, idle=90),
    Documented(
        "hubspot", at("api.hubapi.com", "oauth/2026-03/token"), rotates=False,
        signs_in_at=at("api.hubapi.com", "oauth/v1/token"),
    ),
    Documented("discord", at("discord.com", "api/oauth2/token")),
    Documented("spotify", at("accounts.spotify.com", "api/token"), auth="basic", absolute=180),
    Documented("x", at("api.x.com", "2/oauth2/token"), auth="basic"),
    Documented("xero", at("identity.xero.com", "connect/token"), auth="basic", grace=1800, idle=60),
    Documented(
        "quickbooks", at("oauth.platform.intuit.com", "oauth2/v1/tokens/bearer"), auth="basic", idle=100, absolute=1825
    ),
    Documented("zoho", at("accounts.zoho.eu", "oauth/v2/token"), answer=KEPT, rotates=False),
    Documented("apple", at("appleid.apple.com", "auth/token"), answer=KEPT, rotates=False),
    Documented("zendesk", at("acme.zendesk.com", "oauth/tokens"), form=RT | {"expires_in": "1800"}, grace=0),
    Documented("shopify", at("acme.myshopify.com", "admin/oauth/access_token"), grace=FOREVER),
    Documented("notion", at("api.notion.com", "v1/oauth/token"), auth="basic", body="json"),
    Documented("asana", at("app.asana.com", "-/oauth_token")),
    Documented("airtable", at("airtable.com", "oauth2/v1/token"), auth="basic"),
    Documented(
        "figma", at("api.figma.com", "v1/oauth/refresh"), auth="basic", signs_in_at=at("api.figma.com", "v1/oauth/token")
    ),
    Documented("pipedrive", at("oauth.pipedrive.com"), auth="basic"),
    Documented("docusign", at("account.docusign.com"), auth="basic"),
    Documented(
        "instagram", at("graph.instagram.com", "refresh_access_token"), auth="nothing", body="query",
        form={"grant_type": "ig_refresh_token", "access_token": "the-at"}, answer=EXCHANGED, seconds=5_184_000,
        rotates=False, signs_in_at=at("api.instagram.com", "oauth/access_token"),
    ),
    Documented(
        "threads", at("graph.threads.net", "refresh_access_token"), auth="nothing", body="query",
        form={"grant_type": "th_refresh_token", "access_token": "the-at"}, answer=EXCHANGED, seconds=5_184_000,
        rotates=False, signs_in_at=at("graph.threads.net", "oauth/access_token"),
    ),
    Documented(
        "tiktok", at("open.tiktokapis.com", "v2/oauth/token/"), auth="nothing",
        form=RT | {"client_key": "the-id", "client_secret": "the-secret"},
    ),
    Documented("twitch", at("id.twitch.tv", "oauth2/token")),
    Documented("reddit", at("www.reddit.com", "api/v1/access_token"), auth="basic"),
    Documented("strava", at("www.strava.com", "api/v3/oauth/token")),
    Documented("linear", at("api.linear.app")),
    Documented("canva", at("api.canva.com", "rest/v1/oauth/token"), auth="basic"),
    Documented("calendly", at("auth.calendly.com")),
    Documented("webex", at("webexapis.com", "v1/access_token")),
    Documented("ringcentral", at("platform.ringcentral.com", "restapi/oauth/token"), auth="basic"),
    Documented("paypal", at("api.paypal.com", "v1/oauth2/token"), auth="basic"),
    Documented("pinterest", at("api.pinterest.com", "v5/oauth/token"), auth="basic"),
    Documented("square", at("connect.squareup.com", "oauth2/token")),
    Documented("stripe", at("api.stripe.com", "v1/oauth/token"), auth="basic"),
)  # fmt: skip
BY_NAME = [pytest.param(entry, id=entry.name) for entry in MOST_USED]


def request_of(entry: Documented) -> TokenRequest:
    options: dict[str, Any] = {**ID, **entry.options}
    if entry.strategy == "oauth2":
        options["tokenURL"] = entry.signs_in_at or entry.url
    client = resolve(entry.strategy, options, None, allow_loopback_http=False)
    assert isinstance(client, Client), client
    assert client.provider == entry.name
    return get(client.provider).request(client, access=Secret("the-at"), refresh=Secret("the-rt"), now=SENT)


def parameters(sent: TokenRequest, body: str) -> dict[str, str]:
    """Return what was sent, read as the provider reads it."""
    if body == "query":
        assert (sent.method, sent.body) == ("GET", None)
        return dict(parse_qsl(urlsplit(sent.url).query))
    assert sent.method == "POST"
    assert sent.body is not None
    if body == "json":
        assert sent.headers["Content-Type"] == "application/json"
        found: dict[str, str] = json.loads(sent.body)
        return found
    return dict(parse_qsl(sent.body.decode(), strict_parsing=True))


@pytest.mark.parametrize("entry", BY_NAME)
def test_the_request(entry: Documented) -> None:
    """The request goes where and as the page says; the client proves itself once."""
    sent = request_of(entry)
    assert sent.url.partition("?")[0] == entry.url
    assert parameters(sent, entry.body) == entry.form | (ID if entry.auth == "post" else {})
    if entry.auth == "basic":
        assert b64decode(sent.headers["Authorization"].removeprefix("Basic ")) == b"the-id:the-secret"
    else:
        assert "Authorization" not in sent.headers
    assert for_host(urlsplit(entry.url).hostname or "") is get(entry.name) or entry.strategy != "oauth2"


@pytest.mark.parametrize("entry", BY_NAME)
def test_the_answer(entry: Documented) -> None:
    """The documented answer gives its tokens and its end, and no refresh token where it has none."""
    body = json.dumps(entry.answer).encode()
    read = get(entry.name).read(200, {"content-type": "application/json"}, body, sent_at=SENT)
    assert isinstance(read, Renewed)
    assert read.pair.access == Secret("new-at")
    has_refresh = "new-rt" in str(entry.answer)
    assert read.pair.refresh == (Secret("new-rt") if has_refresh else None)
    assert read.pair.expires_at == (entry.seconds and SENT + timedelta(seconds=entry.seconds))


@pytest.mark.parametrize("entry", BY_NAME)
def test_the_policy(entry: Documented) -> None:
    """Rotation, grace and lives of the refresh token are those of the page."""
    provider = get(entry.name)
    lives = [life and life.days for life in (provider.idle_life, provider.absolute_life)]
    assert (provider.rotates, provider.grace) == (entry.rotates, entry.grace)
    assert lives == [entry.idle, entry.absolute]


def test_each_says_where_it_was_read() -> None:
    """Each declaration has its page and the day; none is left out of this table but variants and the standard."""
    variants = {"salesforce-sandbox", "salesforce-community"}
    assert {provider.name for provider in PROVIDERS} - STANDARD - variants == {e.name for e in MOST_USED}
    assert len(MOST_USED) >= 40
    for provider in PROVIDERS:
        if provider.name not in STANDARD:
            assert provider.source.startswith("https://")
            assert provider.read_on is not None
            assert date(2026, 11, 1) <= provider.read_on
