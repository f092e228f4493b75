"""How each identity provider renews a token.

Declarations and functions without I/O and without a clock.
"""

from __future__ import annotations

import re
from typing import Literal

from worker.providers.base import Provider
from worker.providers.client_resolution import TOKENLESS_STRATEGIES, resolve
from worker.providers.error_codes import CLIENT_REFUSED
from worker.providers.model import (
    Client,
    ClientAuth,
    ClientKey,
    ErrorWords,
    Override,
    Problem,
    RefusalBlame,
    Refused,
    Renewed,
    TokenRequest,
)
from worker.providers.options import TOKEN_FIELDS, admin_tokens, notes, public_options
from worker.providers.registry import get, names
from worker.providers.token_hosts import check_host, is_custom, token_host

__all__ = [
    "CLIENT_REFUSED",
    "TOKENLESS_STRATEGIES",
    "TOKEN_FIELDS",
    "Client",
    "ClientAuth",
    "ClientKey",
    "ErrorWords",
    "Override",
    "Problem",
    "Provider",
    "RefusalBlame",
    "Refused",
    "Renewed",
    "TokenRequest",
    "admin_tokens",
    "check_host",
    "get",
    "is_custom",
    "names",
    "notes",
    "public_options",
    "resolve",
    "token_host",
    "unreachable",
]


def unreachable(error_kind: Literal["not_sent", "sent"], provider: Provider, code: str) -> Refused:
    """Return the refusal for a request without an answer.

    Args:
        error_kind: ``not_sent`` if the request cannot have reached the provider (DNS, connect, TLS, waiting for a
            connection); ``sent`` if it may have (read time-out, connection lost afterwards).
        provider: if it rotates, the refresh token may be spent.
        code: the caller's code for what happened, e.g. ``read_timeout``.
    """
    code = re.sub(r"[^a-z0-9_]+", "_", code.lower())[:64]
    if error_kind == "not_sent":
        return Refused(RefusalBlame.NOBODY, code)
    return Refused(RefusalBlame.IN_DOUBT, code, spent=provider.rotates)
