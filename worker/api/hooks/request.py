"""Authenticates the sender of a hook's request; reads its body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from starlette.requests import Request

from token_vault.secret import Secret
from worker.api.body import read_body
from worker.api.problems import ApiProblem


def find_sender(request: Request, secrets: Mapping[str, Sequence[Secret]]) -> str | None:
    """Return the name whose secret the request has, if any.

    Auth0 sends a secret as it is, as a bearer token, or as a password. It is compared with all secrets, each in constant
    time.
    """
    given = request.headers.getlist("authorization")
    offered = _secrets_in(given[0]) if len(given) == 1 else []
    found = None
    for name, known in secrets.items():
        for secret in known:
            for each in offered:
                if hmac.compare_digest(_digest(each), _digest(secret.reveal().encode())):
                    found = name
    return found


def _secrets_in(header: str) -> list[bytes]:
    offered = [header.encode()]
    scheme, _, credential = header.partition(" ")
    if scheme.lower() == "bearer":
        offered.append(credential.strip().encode())
    if scheme.lower() == "basic":
        try:
            _, _, password = base64.b64decode(credential, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return offered
        offered.append(password)
    return offered


def _digest(value: bytes) -> bytes:
    """Hash a value, as comparing could tell its length."""
    return hashlib.sha256(value).digest()


async def read_event_body(request: Request, most: int) -> bytes:
    """Read a hook's body, uncompressed.

    Args:
        most: how many bytes it may have.

    Raises:
        ApiProblem: ``too-large``, ``request-timeout`` or ``bad-request``.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiProblem("bad-request", "the body is compressed, which its size would not tell")
    return await read_body(request, most)
