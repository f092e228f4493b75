"""User tokens of GitHub Apps.

On Enterprise Server the operator sets ``token_url``.

https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens

Errors come with HTTP status 200. Classic OAuth apps have no refresh token, and their tokens do not end.
"""

from __future__ import annotations

from datetime import date, timedelta

from worker.providers.base import Provider

# A renewal invalidates the old access token as well as the old refresh token.
GITHUB = Provider(
    name="github",
    source="https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens",
    read_on=date(2026, 11, 21),
    strategies=("github",),
    hosts=("github.com", ".ghe.com"),
    token_url="https://github.com/login/oauth/access_token",  # noqa: S106  # a URL, not a password
    scope_separator=",",
    grace=0,
    idle_life=timedelta(seconds=15_811_200),
)
