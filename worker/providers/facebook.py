"""Facebook exchanges a live access token for a new one.

There is no refresh token.

https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived
https://developers.facebook.com/docs/graph-api/guides/error-handling
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from worker.providers.base import Client, ClientAuth, Provider, RefusalBlame, Secret, TokenRequest

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
    """Sends the exchange as a GET.

    Its URL holds the token, so it must never be logged.
    """

    def request(self, client: Client, *, access: Secret | None, refresh: Secret | None) -> TokenRequest:
        """Build the exchange as Facebook documents it."""
        as_form = super().request(replace(client, auth=ClientAuth.POST), access=access, refresh=refresh)
        url = f"{client.token_url}?{(as_form.body or b'').decode()}"
        return TokenRequest("GET", url, {"Accept": "application/json"}, None)

    def grant(self, *, access: Secret | None, refresh: Secret | None) -> dict[str, str]:
        """Return the parameters that exchange the live access token."""
        del refresh
        if not access:
            raise ValueError("facebook exchanges the access token, and there is none")
        return {"grant_type": "fb_exchange_token", "fb_exchange_token": access.reveal()}

    def verdict(self, fields: Mapping[str, Any]) -> tuple[str, RefusalBlame] | None:
        """Read the error object's number."""
        error = fields.get("error")
        if not isinstance(error, dict):
            return super().verdict(fields)
        code = error.get("code")
        if error.get("is_transient") is True:
            return "facebook_transient", RefusalBlame.NOBODY
        # A wrong client secret shares its number with transient failures; only the text tells.
        message = error.get("message")
        if code == 1 and isinstance(message, str) and "client secret" in message.lower():
            return "bad_client_secret", RefusalBlame.OPERATOR
        if not isinstance(code, int) or code not in _BLAMES:
            return None
        return f"facebook_{code:d}", _BLAMES[code]


FACEBOOK = Facebook(
    name="facebook",
    strategies=("facebook",),
    hosts=("graph.facebook.com",),
    token_url="https://graph.facebook.com/v23.0/oauth/access_token",  # noqa: S106  # a URL, not a password
    needs_refresh_token=False,
    rotates=False,
    # Nothing renews an ended token, so a week is left for outages.
    margin=timedelta(days=7),
)
