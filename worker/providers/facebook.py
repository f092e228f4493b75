"""Facebook exchanges a valid access token for a new one.

There is no refresh token.

https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived
https://developers.facebook.com/docs/graph-api/guides/error-handling
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from worker.providers.base import Provider, RefusalBlame

_BLAMES = {
    1: RefusalBlame.NOBODY,  # unknown error, mostly transient
    2: RefusalBlame.NOBODY,  # service unavailable
    4: RefusalBlame.NOBODY,  # the application's rate limit
    17: RefusalBlame.NOBODY,  # the user's rate limit
    341: RefusalBlame.NOBODY,  # the application's limit
    613: RefusalBlame.NOBODY,  # a custom rate limit
    101: RefusalBlame.OPERATOR,  # no such application
    102: RefusalBlame.USER,  # session ended
    190: RefusalBlame.USER,  # token expired, revoked, or ended by a new password
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Facebook(Provider):
    """Reports errors as numbers inside an object."""

    def verdict(self, fields: Mapping[str, Any]) -> tuple[str, RefusalBlame] | None:
        """Read the error object's number."""
        error = fields.get("error")
        if not isinstance(error, dict):
            return super().verdict(fields)
        code = error.get("code")
        if error.get("is_transient") is True:
            return "facebook_transient", RefusalBlame.NOBODY
        # A wrong client secret has the same number as transient failures; only the text differs.
        message = error.get("message")
        if code == 1 and isinstance(message, str) and "client secret" in message.lower():
            return "bad_client_secret", RefusalBlame.OPERATOR
        if not isinstance(code, int) or code not in _BLAMES:
            return None
        return f"facebook_{code:d}", _BLAMES[code]


FACEBOOK = Facebook(
    name="facebook",
    source="https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived",
    read_on=date(2026, 11, 21),
    strategies=("facebook",),
    hosts=("graph.facebook.com",),
    token_url="https://graph.facebook.com/v23.0/oauth/access_token",  # noqa: S106  # a URL, not a password
    method="GET",
    grant_type="fb_exchange_token",
    sends="access_token",
    token_parameter="fb_exchange_token",  # noqa: S106  # a parameter's name
    rotates=False,
    # An ended token cannot be renewed, so a week is left for outages.
    margin=timedelta(days=7),
)
