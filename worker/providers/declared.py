# ruff: noqa: S106  # token_url is a URL, not a password
"""Providers that need no code: the declared and the generic.

Most are custom connections at Auth0 (strategy ``oauth2``), known by the host of their token URL.
"""

from __future__ import annotations

from datetime import timedelta

from worker.providers.base import ClientAuth, ErrorWords, Provider

OAUTH2 = Provider(name="oauth2", strategies=("oauth2",))
OIDC = Provider(name="oidc", strategies=("oidc",))

DECLARED = (
    # https://docs.gitlab.com/api/oauth2/ — the old access token dies too.
    # Without the registered redirect_uri GitLab answers invalid_grant, as if the user had revoked the grant.
    Provider(
        name="gitlab",
        hosts=("gitlab.com",),
        token_url="https://gitlab.com/oauth/token",
        requires=("redirect_uri",),
        grace=0,
    ),
    # https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens/
    # Refuses with 403; a dead refresh token also comes back as unauthorized_client.
    Provider(
        name="atlassian",
        hosts=("auth.atlassian.com", "api.atlassian.com"),
        token_url="https://auth.atlassian.com/oauth/token",
        json_body=True,
        error_words=ErrorWords(user=("refresh_token is invalid", "invalid refresh token")),
        idle_life=timedelta(days=90),
        absolute_life=timedelta(days=365),
    ),
    # https://docs.slack.dev/authentication/using-token-rotation — refuses with 200 and {"ok": false}.
    # internal_error and fatal_error: "some aspect of the operation" may have succeeded.
    Provider(
        name="slack",
        hosts=("slack.com", ".slack.com"),
        token_url="https://slack.com/api/oauth.v2.access",
        auth=ClientAuth.BASIC,
        within=("authed_user",),
        scope_separator=",",
        error_words=ErrorWords(in_doubt=("internal_error", "fatal_error")),
    ),
    # https://learn.microsoft.com/linkedin/shared/authentication/programmatic-refresh-tokens
    # The refresh token's year counts down from consent; a renewal does not extend it.
    Provider(
        name="linkedin",
        strategies=("linkedin",),
        hosts=("www.linkedin.com",),
        token_url="https://www.linkedin.com/oauth/v2/accessToken",
        scope_separator=",",
        rotates=False,
        absolute_life=timedelta(days=365),
        refresh_end_is_hard=True,
    ),
    # https://developers.dropbox.com/oauth-guide
    Provider(
        name="dropbox",
        strategies=("dropbox",),
        hosts=("api.dropboxapi.com", "api.dropbox.com", "www.dropbox.com"),
        token_url="https://api.dropboxapi.com/oauth2/token",
        rotates=False,
    ),
    # https://developer.box.com/guides/authentication/tokens/refresh/
    # A retry gives the same pair again until that is used: the grace has no end in time.
    Provider(
        name="box",
        strategies=("box",),
        hosts=("api.box.com",),
        token_url="https://api.box.com/oauth2/token",
        grace=float("inf"),
        idle_life=timedelta(days=60),
    ),
    # https://developers.zoom.us/docs/integrations/oauth/ — the old refresh token dies at once.
    Provider(
        name="zoom",
        hosts=("zoom.us", ".zoom.us"),
        token_url="https://zoom.us/oauth/token",
        auth=ClientAuth.BASIC,
        grace=0,
        idle_life=timedelta(days=90),
    ),
    # https://developers.hubspot.com/docs/api/oauth/tokens — the error code is in "status".
    Provider(
        name="hubspot",
        hosts=("api.hubapi.com",),
        token_url="https://api.hubapi.com/oauth/v1/token",
        error_names=("error", "status"),
        rotates=False,
    ),
    # https://discord.com/developers/docs/topics/oauth2
    Provider(name="discord", hosts=("discord.com",), token_url="https://discord.com/api/oauth2/token"),
    # https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens
    Provider(
        name="spotify",
        hosts=("accounts.spotify.com",),
        token_url="https://accounts.spotify.com/api/token",
        auth=ClientAuth.BASIC,
        absolute_life=timedelta(days=180),
    ),
    # https://docs.x.com/fundamentals/authentication/oauth-2-0/authorization-code
    # A dead refresh token comes back as invalid_request.
    Provider(
        name="x",
        strategies=("twitter",),
        hosts=("api.x.com", "api.twitter.com"),
        token_url="https://api.x.com/2/oauth2/token",
        auth=ClientAuth.BASIC,
        error_words=ErrorWords(user=("value passed for the token was invalid",)),
    ),
    # https://developer.xero.com/documentation/guides/oauth2/token-types
    Provider(
        name="xero",
        hosts=("identity.xero.com",),
        token_url="https://identity.xero.com/connect/token",
        auth=ClientAuth.BASIC,
        grace=1800,
    ),
    # https://developer.intuit.com/app/developer/qbo/docs/develop/authentication-and-authorization/oauth-2.0
    # The refresh token changes about once a day.
    Provider(
        name="quickbooks",
        hosts=("oauth.platform.intuit.com",),
        token_url="https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
        auth=ClientAuth.BASIC,
        idle_life=timedelta(days=100),
    ),
    # https://www.zoho.com/accounts/protocol/oauth/web-apps/access-token-expiry.html
    # Each region has its own host. More than 10 access tokens in 10 minutes: "Access Denied".
    Provider(
        name="zoho",
        hosts=(
            *(
                f"accounts.zoho.{region}"
                for region in ("com", "eu", "in", "com.au", "jp", "com.cn", "sa", "uk")
            ),
            "accounts.zohocloud.ca",
        ),
        error_words=ErrorWords(wait=("access_denied",)),
        keeps=("api_domain",),
        rotates=False,
    ),
    # https://developer.apple.com/documentation/signinwithapplerestapi/generate-and-validate-tokens
    # The client secret is a JWT of at most six months that the operator signs and sets as client_secret.
    Provider(
        name="apple",
        strategies=("apple",),
        hosts=("appleid.apple.com",),
        token_url="https://appleid.apple.com/auth/token",
        rotates=False,
    ),
)
