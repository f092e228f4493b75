"""Google, for users and for Google Workspace administrators.

https://developers.google.com/identity/protocols/oauth2/web-server#offline
"""

from __future__ import annotations

from datetime import date, timedelta

from worker.providers.base import Provider

# The refresh token is mostly absent from the answer: the old one stays. At most 100 live ones for each account
# and client; the oldest dies silently.
GOOGLE = Provider(
    name="google",
    source="https://developers.google.com/identity/protocols/oauth2/web-server#offline",
    read_on=date(2026, 11, 21),
    strategies=("google-oauth2", "google-apps"),
    hosts=("oauth2.googleapis.com", "www.googleapis.com", "accounts.google.com"),
    token_url="https://oauth2.googleapis.com/token",  # noqa: S106  # a URL, not a password
    rotates=False,
    idle_life=timedelta(days=180),
    refresh_end_is_hard=True,  # told of grants that users or Google limit in time alone
)
