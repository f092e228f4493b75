"""Bitbucket Cloud.

https://support.atlassian.com/bitbucket-cloud/docs/use-oauth-on-bitbucket-cloud/
"""

from __future__ import annotations

from datetime import date, timedelta

from worker.providers.base import ClientAuth, ErrorWords, Provider

# Rotates since May 2026. No grace is documented, so none is assumed.
BITBUCKET = Provider(
    name="bitbucket",
    source="https://support.atlassian.com/bitbucket-cloud/docs/use-oauth-on-bitbucket-cloud/",
    read_on=date(2026, 11, 21),
    strategies=("bitbucket",),
    hosts=("bitbucket.org",),
    token_url="https://bitbucket.org/site/oauth2/access_token",  # noqa: S106  # a URL, not a password
    auth=ClientAuth.BASIC,
    # A dead refresh token comes back as invalid_request, which elsewhere blames the client.
    error_words=ErrorWords(user=("invalid refresh_token",)),
    grace=0,
    idle_life=timedelta(days=90),
)
