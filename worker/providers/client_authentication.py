"""Authenticates a client at a token endpoint.

Sources: RFC 6749 §2.3.1, RFC 7523 §2.2 (private_key_jwt).
"""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from urllib.parse import quote_plus

from token_vault.errors import ConfigurationError
from worker.client_assertion import ASSERTION_TYPE, sign_assertion
from worker.providers.model import Client, ClientAuth


def authenticate(client: Client, url: str, headers: dict[str, str], now: datetime | None) -> dict[str, str]:
    """Add the client's headers; return its parameters.

    Args:
        url: the endpoint, the default audience of an assertion.
        now: with a time zone; needed by a client that signs assertions.

    Raises:
        ConfigurationError: the client lacks the credentials for its authentication.
    """
    headers.setdefault("Accept", "application/json")
    headers.update({name: value.reveal() for name, value in client.headers.items()})
    if any(name.lower() == "authorization" for name in client.headers):
        return {}
    match client.auth:
        case ClientAuth.POST:
            return {"client_id": client.client_id, "client_secret": _reveal(client)}
        case ClientAuth.BASIC:
            headers["Authorization"] = _basic(quote_plus(client.client_id), quote_plus(_reveal(client)))
            return {}
        case ClientAuth.BASIC_RAW:
            headers["Authorization"] = _basic(client.client_id, _reveal(client))
            return {}
        case ClientAuth.NONE:
            return {"client_id": client.client_id}
        case ClientAuth.PRIVATE_KEY_JWT:
            return {"client_id": client.client_id, **_assertion(client, url, now)}


def _reveal(client: Client) -> str:
    if client.client_secret is None:
        raise ConfigurationError(f"{client.provider}: there is no client secret to authenticate with")
    return client.client_secret.reveal()


def _basic(client_id: str, secret: str) -> str:
    return f"Basic {b64encode(f'{client_id}:{secret}'.encode()).decode()}"


def _assertion(client: Client, url: str, now: datetime | None) -> dict[str, str]:
    if client.key is None or now is None:
        raise ConfigurationError(f"{client.provider}: private_key_jwt needs the client's key and the time")
    assertion = sign_assertion(
        client.client_id,
        client.key.private_key,
        audience=client.key.audience or url,
        now=now,
        key_id=client.key.key_id,
        certificate=client.key.certificate,
        issuer=client.key.issuer,
    )
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
