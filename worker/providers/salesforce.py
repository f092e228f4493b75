"""Salesforce: production, sandboxes and community sites.

https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_refresh_token_flow.htm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from worker.providers.base import ErrorWords, Provider, host_option

_PATH = "services/oauth2/token"
# The address of the organisation's API.
_KEEPS = ("instance_url",)


@dataclass(frozen=True, kw_only=True, eq=False)
class SalesforceCommunity(Provider):
    """Each community has its own host."""

    def endpoint(self, options: Mapping[str, Any]) -> str | None:
        """Return the endpoint at ``community_base_url``."""
        host = host_option(options, "community_base_url")
        return host and f"https://{host}/{_PATH}"


# An unlisted address, or hours when the user may not sign in, is no verdict on the consent.
_WORDS = ErrorWords(
    wait=("token request is already being processed", "retry your request"), operator=("ip restricted",)
)
_IDLE = timedelta(days=30)

# With rotation, which partner apps must use, an unused refresh token lives for 30 days, reuse revokes the newest one and
# all access tokens, and a user has at most five grants for an app, beyond which the oldest is revoked. Refreshes are
# accepted only from listed addresses. Answers often lack expires_in: the life is the organisation's session time-out.
SALESFORCE = Provider(
    name="salesforce",
    source="https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_refresh_token_flow.htm",
    read_on=date(2026, 11, 21),
    error_words=_WORDS,
    idle_life=_IDLE,
    lists_addresses=True,
    strategies=("salesforce",),
    keeps=_KEEPS,
    hosts=(".salesforce.com",),
    token_url=f"https://login.salesforce.com/{_PATH}",
)
SALESFORCE_SANDBOX = Provider(
    name="salesforce-sandbox",
    source="https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_refresh_token_flow.htm",
    read_on=date(2026, 11, 21),
    error_words=_WORDS,
    idle_life=_IDLE,
    lists_addresses=True,
    strategies=("salesforce-sandbox",),
    keeps=_KEEPS,
    token_url=f"https://test.salesforce.com/{_PATH}",
)
SALESFORCE_COMMUNITY = SalesforceCommunity(
    name="salesforce-community",
    source="https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_refresh_token_flow.htm",
    read_on=date(2026, 11, 21),
    error_words=_WORDS,
    idle_life=_IDLE,
    lists_addresses=True,
    strategies=("salesforce-community",),
    keeps=_KEEPS,
)
