"""Google, for users and for Google Workspace administrators.

https://developers.google.com/identity/protocols/oauth2/web-server#offline
"""

from __future__ import annotations

from datetime import date, timedelta

from worker.providers.base import Provider

# Answers usually contain no refresh token: the old one stays valid. Each account has at most 100 valid refresh tokens for
# a client; beyond that the oldest becomes invalid without notice.
GOOGLE = Provider(
    name="google",
    source="https://developers.google.com/identity/protocols/oauth2/web-server#offline",
    read_on=date(2026, 11, 21),
    strategies=("google-oauth2", "google-apps"),
    hosts=("oauth2.googleapis.com", "www.googleapis.com", "accounts.google.com"),
    token_url="https://oauth2.googleapis.com/token",  # noqa: S106  # a URL, not a password
    rotates=False,
    idle_life=timedelta(days=180),
    refresh_end_is_hard=True,  # only named for grants that the user or Google has limited in time
)
