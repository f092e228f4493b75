"""Security event tokens that a provider pushes (RFC 8417, RFC 8935).

Shape: https://developers.google.com/identity/protocols/risc; OpenID Shared Signals Framework 1.0, CAEP 1.0.
"""

import time
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from emulators.auth0.signing_keys import SigningKeys

Json = dict[str, Any]
SCHEMAS = "https://schemas.openid.net/secevent"


def claims(issuer: str, audience: str, event: str, account: str | None, details: Json) -> Json:
    """Give a token's claims.

    Args:
        event: an event type below the schemas' address, e.g. `risc/event-type/account-disabled`.
        account: the user's id at the provider; None for an event about nobody.
        details: further members of the event.
    """
    subject = (
        {} if account is None else {"subject": {"subject_type": "iss-sub", "iss": issuer, "sub": account}}
    )
    return {
        "iss": issuer,
        "aud": audience,
        "iat": int(time.time()),
        "jti": uuid.uuid4().hex,
        "events": {f"{SCHEMAS}/{event}": {**subject, **details}},
    }


def sign(keys: SigningKeys, given: Json, header: Json | None = None) -> str:
    """Sign the claims; none of an access token's are added."""
    absent = dict.fromkeys(("sub", "exp", "azp", "scope", "gty"))
    return keys.issue({**absent, **given}, "RS256", {"typ": "secevent+jwt", **(header or {})}, None)


def configuration(base_url: str) -> Any:
    """Make the route of the transmitter's configuration."""

    async def answer(_: Request) -> Response:
        return JSONResponse({"issuer": f"{base_url}/", "jwks_uri": f"{base_url}/.well-known/jwks.json"})

    return answer
