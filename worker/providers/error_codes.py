"""Error codes and who has to act on them.

Refusals are reported in these codes and no others.

Sources: RFC 6749 §5.2, OpenID Connect Core §3.1.2.6, and the providers' own pages on errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from worker.providers.model import RefusalBlame

_USER = """
    invalid_grant interaction_required consent_required login_required invalid_rapt
    bad_refresh_token invalid_refresh_token invalid_code token_expired token_revoked
"""
_OPERATOR = """
    invalid_client unauthorized_client unsupported_grant_type invalid_scope invalid_request invalid_resource
    invalid_target incorrect_client_credentials redirect_uri_mismatch bad_redirect_uri bad_client_secret
    invalid_client_secret invalid_client_id bad_client_id deleted_client disabled_client
"""
# Codes that can only be about the client, never about the token that was sent with it.
CLIENT_REFUSED = frozenset(
    [
        "invalid_client",
        "incorrect_client_credentials",
        "redirect_uri_mismatch",
        "bad_redirect_uri",
        "bad_client_secret",
        "invalid_client_secret",
        "invalid_client_id",
        "bad_client_id",
        "deleted_client",
        "disabled_client",
    ]
)
_NOBODY = """
    temporarily_unavailable server_error slow_down rate_limit_exceeded ratelimited too_many_requests
"""

BLAMES: Mapping[str, RefusalBlame] = MappingProxyType(
    {
        code: blame
        for blame, codes in (
            (RefusalBlame.USER, _USER),
            (RefusalBlame.OPERATOR, _OPERATOR),
            (RefusalBlame.NOBODY, _NOBODY),
        )
        for code in codes.split()
    }
)


def normalize(value: object) -> str:
    """Return an error code in this table's spelling.

    ``Access Denied`` is ``access_denied``.
    """
    return re.sub(r"[^a-z0-9]+", "_", value.lower()) if isinstance(value, str) else ""
