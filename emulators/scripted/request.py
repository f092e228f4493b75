"""A token request as it came over the wire."""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, unquote_plus, urlsplit


@dataclass(frozen=True, slots=True)
class ClientAuthentication:
    """How a request says who the client is.

    Attributes:
        method: "basic", "post", "assertion" or "none"; "missing" without a client id, "two" for two ways at once.
        client_id, secret: as they were sent, not decoded.
    """

    method: str
    client_id: str
    secret: str = ""

    def readings(self) -> Iterator[tuple[str, str, str]]:
        """List the ways in which servers read it.

        Each has method, client id and secret.
        Some servers percent-decode the parts of Basic (RFC 6749, 2.3.1) and some take them as they are
        ("basic-raw").
        """
        if self.method == "basic":
            yield "basic", unquote_plus(self.client_id), unquote_plus(self.secret)
            yield "basic-raw", self.client_id, self.secret
        else:
            yield self.method, self.client_id, self.secret


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request to a token endpoint (RFC 6749, 6).

    Attributes:
        parameters: of the form, the JSON object or the query.
        problem: the error code of RFC 6749, 5.2, where the request is malformed.
    """

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    parameters: Mapping[str, str]
    client: ClientAuthentication

    @property
    def refresh_token(self) -> str:
        """The refresh token that is presented."""
        return self.parameters.get("refresh_token", "")

    @property
    def problem(self) -> str | None:
        """What is wrong with the request itself."""
        grant_type = self.parameters.get("grant_type")
        if grant_type not in (None, "refresh_token"):
            return "unsupported_grant_type"
        complete = grant_type is not None and bool(self.refresh_token) and self.client.method != "two"
        return None if complete else "invalid_request"

    @classmethod
    def read(cls, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Self:
        """Read a request; what cannot be read gives no parameters."""
        address = urlsplit(target)
        parameters = dict(parse_qsl(address.query, keep_blank_values=True))
        if "json" in headers.get("content-type", ""):
            parameters |= _json_object(body)
        else:
            parameters |= dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        client = _client(headers.get("authorization", ""), parameters)
        return cls(method, address.path, headers, body, parameters, client)


def _json_object(body: bytes) -> dict[str, str]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return {name: str(value) for name, value in parsed.items()} if isinstance(parsed, dict) else {}


def _client(header: str, parameters: Mapping[str, str]) -> ClientAuthentication:
    scheme, _, value = header.partition(" ")
    client_id, secret = parameters.get("client_id", ""), parameters.get("client_secret")
    if scheme.lower() == "basic":
        try:
            sent_id, _, sent_secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ClientAuthentication("missing", "")
        return ClientAuthentication("basic" if secret is None else "two", sent_id, sent_secret)
    if not client_id:
        return ClientAuthentication("missing", "")
    if "client_assertion" in parameters:
        return ClientAuthentication("assertion", client_id, parameters["client_assertion"])
    return ClientAuthentication("none" if secret is None else "post", client_id, secret or "")
