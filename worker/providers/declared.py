# ruff: noqa: S106  # token_url is a URL, not a password
"""Providers that need no code: the declared and the generic.

Most are custom connections at Auth0 (strategy ``oauth2``), recognised by the host of their token URL.
"""

from __future__ import annotations

from datetime import date, timedelta

from worker.providers.base import ClientAuth, ErrorWords, Provider

# When most of the pages below were read.
READ_ON = date(2026, 11, 21)

# The source of entries for which the provider's page says no more than this public catalogue.
CATALOGUE = "https://github.com/NangoHQ/nango/blob/2f4c0af671e2ca1c43dd4e78f3c369218bf3fc87/packages/providers/providers.yaml"
READ_IN_CATALOGUE = date(2026, 11, 28)

OAUTH2 = Provider(name="oauth2", strategies=("oauth2",))
OIDC = Provider(name="oidc", strategies=("oidc",))

DECLARED = (
    # A renewal also invalidates the old access token.
    # Without the registered redirect_uri GitLab answers invalid_grant, as if the user had revoked the grant.
    Provider(
        name="gitlab",
        source="https://docs.gitlab.com/api/oauth2/",
        read_on=READ_ON,
        hosts=("gitlab.com",),
        token_url="https://gitlab.com/oauth/token",
        requires=("redirect_uri",),
        grace=0,
    ),
    # Refuses with 403; for a dead refresh token also with unauthorized_client.
    Provider(
        name="atlassian",
        source="https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens/",
        read_on=READ_ON,
        hosts=("auth.atlassian.com", "api.atlassian.com"),
        token_url="https://auth.atlassian.com/oauth/token",
        json_body=True,
        error_words=ErrorWords(user=("refresh_token is invalid", "invalid refresh token")),
        grace=600,
        idle_life=timedelta(days=90),
        absolute_life=timedelta(days=365),
    ),
    # Refuses with 200 and {"ok": false}.
    # internal_error and fatal_error: "some aspect of the operation" may have succeeded.
    Provider(
        name="slack",
        source="https://docs.slack.dev/authentication/using-token-rotation",
        read_on=READ_ON,
        hosts=("slack.com", ".slack.com"),
        token_url="https://slack.com/api/oauth.v2.access",
        auth=ClientAuth.BASIC,
        within=("authed_user",),
        scope_separator=",",
        error_words=ErrorWords(in_doubt=("internal_error", "fatal_error"), wait=("team_added_to_org",)),
    ),
    # A refresh token lives for a year from the consent; renewals do not extend it.
    Provider(
        name="linkedin",
        source="https://learn.microsoft.com/linkedin/shared/authentication/programmatic-refresh-tokens",
        read_on=READ_ON,
        strategies=("linkedin",),
        hosts=("www.linkedin.com",),
        token_url="https://www.linkedin.com/oauth/v2/accessToken",
        scope_separator=",",
        rotates=False,
        absolute_life=timedelta(days=365),
        refresh_end_is_hard=True,
    ),
    Provider(
        name="dropbox",
        source="https://developers.dropbox.com/oauth-guide",
        read_on=READ_ON,
        strategies=("dropbox",),
        hosts=("api.dropboxapi.com", "api.dropbox.com", "www.dropbox.com"),
        token_url="https://api.dropboxapi.com/oauth2/token",
        rotates=False,
    ),
    # A retry returns the same pair until that is used, so the grace does not end by time.
    Provider(
        name="box",
        source="https://developer.box.com/guides/authentication/tokens/refresh/",
        read_on=READ_ON,
        strategies=("box",),
        hosts=("api.box.com",),
        token_url="https://api.box.com/oauth2/token",
        grace=float("inf"),
        idle_life=timedelta(days=60),
    ),
    # The old refresh token is invalid at once.
    Provider(
        name="zoom",
        source="https://developers.zoom.us/docs/integrations/oauth/",
        read_on=READ_ON,
        hosts=("zoom.us", ".zoom.us"),
        token_url="https://zoom.us/oauth/token",
        auth=ClientAuth.BASIC,
        grace=0,
        idle_life=timedelta(days=90),
    ),
    # The error code may be in "status". /oauth/v1/token ends on 16 February 2027, so all connections renew at the new
    # endpoint, also those that sign in with the old one.
    Provider(
        name="hubspot",
        source="https://developers.hubspot.com/docs/api-reference/legacy/authentication/oauth-tokens/v1/migration-guide",
        read_on=date(2026, 11, 28),
        hosts=("api.hubapi.com",),
        token_url="https://api.hubapi.com/oauth/2026-03/token",
        refresh_url="https://api.hubapi.com/oauth/2026-03/token",
        error_names=("error", "status"),
        rotates=False,
    ),
    Provider(
        name="discord",
        hosts=("discord.com",),
        source="https://discord.com/developers/docs/topics/oauth2",
        read_on=READ_ON,
        token_url="https://discord.com/api/oauth2/token",
    ),
    Provider(
        name="spotify",
        source="https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens",
        read_on=READ_ON,
        hosts=("accounts.spotify.com",),
        token_url="https://accounts.spotify.com/api/token",
        auth=ClientAuth.BASIC,
        absolute_life=timedelta(days=180),
    ),
    # A dead refresh token is refused with invalid_request.
    Provider(
        name="x",
        source="https://docs.x.com/fundamentals/authentication/oauth-2-0/authorization-code",
        read_on=READ_ON,
        strategies=("twitter",),
        hosts=("api.x.com", "api.twitter.com"),
        token_url="https://api.x.com/2/oauth2/token",
        auth=ClientAuth.BASIC,
        error_words=ErrorWords(user=("value passed for the token was invalid",)),
    ),
    Provider(
        name="xero",
        source="https://developer.xero.com/documentation/guides/oauth2/token-types",
        read_on=READ_ON,
        hosts=("identity.xero.com",),
        token_url="https://identity.xero.com/connect/token",
        auth=ClientAuth.BASIC,
        grace=1800,
        idle_life=timedelta(days=60),
    ),
    # The refresh token changes about once a day.
    Provider(
        name="quickbooks",
        source="https://developer.intuit.com/app/developer/qbo/docs/develop/authentication-and-authorization/oauth-2.0",
        read_on=READ_ON,
        hosts=("oauth.platform.intuit.com",),
        token_url="https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
        auth=ClientAuth.BASIC,
        idle_life=timedelta(days=100),
        absolute_life=timedelta(days=5 * 365),
    ),
    # Each region has its own host. After 10 access tokens in 10 minutes it answers "Access Denied".
    Provider(
        name="zoho",
        source="https://www.zoho.com/accounts/protocol/oauth/web-apps/access-token-expiry.html",
        read_on=READ_ON,
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
    # The client secret is a JWT that lives at most six months; the operator signs it, and sets it as client_secret.
    Provider(
        name="apple",
        source="https://developer.apple.com/documentation/signinwithapplerestapi/generate-and-validate-tokens",
        read_on=READ_ON,
        strategies=("apple",),
        hosts=("appleid.apple.com",),
        token_url="https://appleid.apple.com/auth/token",
        rotates=False,
    ),
    # The old pair is deleted. For clients from before 30 April 2026, tokens end only if the request says so.
    Provider(
        name="zendesk",
        source="https://support.zendesk.com/hc/en-us/articles/9182123625370",
        read_on=date(2026, 11, 28),
        hosts=(".zendesk.com",),
        extra={"expires_in": "1800"},
        grace=0,
    ),
    # Since 28 August 2026 the spent refresh token works until its replacement is used, so the grace does not end by time.
    Provider(
        name="shopify",
        source="https://shopify.dev/changelog/more-resilient-refreshes-for-expiring-offline-access-tokens",
        read_on=date(2026, 11, 28),
        hosts=(".myshopify.com",),
        scope_separator=",",
        grace=float("inf"),
    ),
    # Errors of its API have their code in "code"; a conflict is temporary.
    Provider(
        name="notion",
        error_names=("error", "code"),
        error_words=ErrorWords(wait=("conflict_error",)),
        source="https://developers.notion.com/reference/refresh-a-token",
        read_on=date(2026, 11, 28),
        hosts=("api.notion.com",),
        token_url="https://api.notion.com/v1/oauth/token",
        auth=ClientAuth.BASIC,
        json_body=True,
    ),
    Provider(
        name="asana",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("app.asana.com",),
        token_url="https://app.asana.com/-/oauth_token",
    ),
    Provider(
        name="airtable",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=(
            "airtable.com",
            "www.airtable.com",
        ),
        token_url="https://airtable.com/oauth2/v1/token",
        auth=ClientAuth.BASIC,
    ),
    Provider(
        name="figma",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("api.figma.com",),
        token_url="https://api.figma.com/v1/oauth/token",
        refresh_url="https://api.figma.com/v1/oauth/refresh",
        auth=ClientAuth.BASIC,
        scope_separator=",",
    ),
    Provider(
        name="pipedrive",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("oauth.pipedrive.com",),
        token_url="https://oauth.pipedrive.com/oauth/token",
        auth=ClientAuth.BASIC,
    ),
    Provider(
        name="docusign",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("account.docusign.com",),
        token_url="https://account.docusign.com/oauth/token",
        auth=ClientAuth.BASIC,
    ),
    # A valid access token is exchanged for a new one; an ended token cannot be renewed.
    Provider(
        name="instagram",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=(
            "api.instagram.com",
            "graph.instagram.com",
        ),
        token_url="https://api.instagram.com/oauth/access_token",
        refresh_url="https://graph.instagram.com/refresh_access_token",
        auth=ClientAuth.NONE,
        method="GET",
        grant_type="ig_refresh_token",
        sends="access_token",
        token_parameter="access_token",
        parameter_names={"client_id": ""},
        scope_separator=",",
        rotates=False,
        margin=timedelta(days=7),
    ),
    Provider(
        name="threads",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("graph.threads.net",),
        token_url="https://graph.threads.net/oauth/access_token",
        refresh_url="https://graph.threads.net/refresh_access_token",
        auth=ClientAuth.NONE,
        method="GET",
        grant_type="th_refresh_token",
        sends="access_token",
        token_parameter="access_token",
        parameter_names={"client_id": ""},
        scope_separator=",",
        rotates=False,
        margin=timedelta(days=7),
    ),
    Provider(
        name="tiktok",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("open.tiktokapis.com",),
        token_url="https://open.tiktokapis.com/v2/oauth/token/",
        parameter_names={"client_id": "client_key"},
        scope_separator=",",
    ),
    Provider(
        name="twitch",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("id.twitch.tv",),
        token_url="https://id.twitch.tv/oauth2/token",
    ),
    Provider(
        name="reddit",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("www.reddit.com",),
        token_url="https://www.reddit.com/api/v1/access_token",
        auth=ClientAuth.BASIC,
    ),
    # A dead refresh token is refused by an object in a list.
    Provider(
        name="strava",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("www.strava.com",),
        token_url="https://www.strava.com/api/v3/oauth/token",
        scope_separator=",",
    ),
    Provider(
        name="linear",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("api.linear.app",),
        token_url="https://api.linear.app/oauth/token",
        scope_separator=",",
    ),
    Provider(
        name="canva",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("api.canva.com",),
        token_url="https://api.canva.com/rest/v1/oauth/token",
        auth=ClientAuth.BASIC,
    ),
    Provider(
        name="calendly",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("auth.calendly.com",),
        token_url="https://auth.calendly.com/oauth/token",
    ),
    Provider(
        name="webex",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("webexapis.com",),
        token_url="https://webexapis.com/v1/access_token",
    ),
    Provider(
        name="ringcentral",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("platform.ringcentral.com",),
        token_url="https://platform.ringcentral.com/restapi/oauth/token",
        auth=ClientAuth.BASIC,
    ),
    Provider(
        name="paypal",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=(
            "api.paypal.com",
            "api-m.paypal.com",
        ),
        token_url="https://api.paypal.com/v1/oauth2/token",
        auth=ClientAuth.BASIC,
    ),
    Provider(
        name="pinterest",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("api.pinterest.com",),
        token_url="https://api.pinterest.com/v5/oauth/token",
        auth=ClientAuth.BASIC,
    ),
    Provider(
        name="square",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("connect.squareup.com",),
        token_url="https://connect.squareup.com/oauth2/token",
    ),
    # Basic authentication has the app's secret as the user name, and an empty password: set client_id to the secret, and
    # client_secret = "".
    Provider(
        name="stripe",
        source=CATALOGUE,
        read_on=READ_IN_CATALOGUE,
        hosts=("api.stripe.com",),
        token_url="https://api.stripe.com/v1/oauth/token",
        auth=ClientAuth.BASIC,
        default_life=timedelta(hours=1),
    ),
)
