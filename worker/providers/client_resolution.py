"""Finds the OAuth client of a connection.

Its options come from Auth0; the operator's settings take precedence.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.client_assertion import signing_key, thumbprints
from worker.http.addresses import is_internal_literal
from worker.http.loopback import is_loopback
from worker.providers import registry
from worker.providers.base import Provider
from worker.providers.declared import OAUTH2, OIDC
from worker.providers.model import Client, ClientAuth, ClientKey, Override, Problem

TOKENLESS_STRATEGIES = frozenset(
    {"auth0", "samlp", "email", "sms", "ad", "adfs", "auth0-adldap", "pingfederate", "ip", "custom"}
)
"""Auth0 strategies whose users have no tokens of an identity provider."""

_SECRETLESS = (ClientAuth.NONE, ClientAuth.PRIVATE_KEY_JWT)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
# Headers that this program sets itself.
_OWN_HEADERS = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
    )
)
_TOKEN_URL_NAMES = ("tokenURL", "token_endpoint", "tokenUrl", "token_url")


class _Unresolvable(Exception):
    """Carries a problem to ``resolve``; never leaves this file."""

    def __init__(self, code: str, message: str) -> None:
        self.problem = Problem(code, message)


def resolve(
    strategy: str,
    options: Mapping[str, Any] | None,
    override: Override | None,
    *,
    allow_loopback_http: bool,
    declared: Mapping[str, Provider] | None = None,
) -> Client | Problem:
    """Return a connection's client, or why there is none.

    Never raises.

    Args:
        strategy: Auth0's name for the kind of connection.
        options: Auth0's; None if Auth0 shows none, because a scope is missing.
        override: the operator's settings; each takes precedence over Auth0's.
        allow_loopback_http: whether a token URL *from Auth0* may be plain HTTP towards loopback; true for an emulated
            tenant. The operator's own URL always may.
        declared: providers by name that take precedence over the built-in ones.
    """
    override = override or Override()
    try:
        return _resolve(strategy, options, override, allow_loopback_http, declared or {})
    except _Unresolvable as unresolvable:
        return unresolvable.problem


def _resolve(
    strategy: str,
    options: Mapping[str, Any] | None,
    override: Override,
    allow_loopback_http: bool,
    declared: Mapping[str, Provider],
) -> Client:
    known = options or {}
    provider = _provider(strategy, override, override.token_url or _token_url_option(known), declared)
    provider = declared.get(provider.name, provider)
    headers = _header_options(known)
    header_client = _header_client(headers)
    # Auth0 sends the header unencoded, so a provider that accepts it does not decode.
    header_auth = ClientAuth.BASIC_RAW if header_client else None
    auth = override.client_auth or _auth_option(known) or header_auth or provider.auth
    if override.client_auth or override.client_id or override.client_secret is not None:
        headers = {name: value for name, value in headers.items() if name != "Authorization"}
    header_id, header_secret = header_client or (None, None)
    client_id = override.client_id or _text(known.get("client_id")) or header_id
    secret = _text(known.get("client_secret")) or header_secret
    is_empty = _has_empty_password(auth, override)
    client_secret = (
        override.client_secret if is_empty else override.client_secret or (Secret(secret) if secret else None)
    )
    proves_itself = client_secret or "Authorization" in headers or is_empty
    if not client_id or (not proves_itself and auth not in _SECRETLESS):
        raise _missing_client(options, client_id)
    return Client(
        provider=provider.name,
        token_url=_token_url(provider, options, override, allow_loopback_http),
        client_id=client_id,
        client_secret=client_secret,
        auth=auth,
        extra=_extra(provider, known, override),
        revocation_url=override.revocation_url
        and _checked(override.revocation_url, "revocation_url set for the connection", allow_http=True),
        headers={**headers, **override.headers},
        key=_key(override) if auth is ClientAuth.PRIVATE_KEY_JWT else None,
    )


def _has_empty_password(auth: ClientAuth, override: Override) -> bool:
    """Return whether the operator has set an empty secret."""
    is_basic = auth in (ClientAuth.BASIC, ClientAuth.BASIC_RAW)
    return is_basic and override.client_secret is not None and not override.client_secret


def _key(override: Override) -> ClientKey:
    """Check and return the key that signs assertions."""
    if override.client_key is None:
        raise _Unresolvable(
            "bad_option",
            "the connection authenticates with private_key_jwt, and Auth0 does not show the key: set client_key for "
            "the connection, or register a client secret at the provider and set client_auth and client_secret",
        )
    try:
        signing_key(override.client_key.private_key)
    except ValueError as error:
        raise _Unresolvable(
            "bad_option", f"client_key set for the connection is {error}: correct it"
        ) from None
    try:
        thumbprints(override.client_key.certificate)
    except ValueError:
        raise _Unresolvable(
            "bad_option", "client_certificate set for the connection is no certificate in PEM: correct it"
        ) from None
    return override.client_key


def _provider(
    strategy: str, override: Override, token_url: str | None, declared: Mapping[str, Provider]
) -> Provider:
    if strategy in TOKENLESS_STRATEGIES:
        raise _Unresolvable(
            "unsupported_strategy", f"connections of strategy {strategy} bring no provider's tokens"
        )
    if override.provider:
        try:
            return declared.get(override.provider) or registry.get(override.provider)
        except ConfigurationError as error:
            raise _Unresolvable("unknown_provider", f"the provider set for the connection: {error}") from None
    provider = registry.for_strategy(strategy)
    if provider not in (None, OAUTH2, OIDC):
        return provider
    at_host = registry.for_host(_split(token_url).hostname or "") if token_url else None
    if found := at_host or provider or (OAUTH2 if token_url else None):
        return found
    raise _Unresolvable(
        "unsupported_strategy",
        "no provider is known for connections of this strategy: set provider, or token_url, for the connection",
    )


def _missing_client(options: Mapping[str, Any] | None, client_id: str | None) -> _Unresolvable:
    if options is None:
        return _Unresolvable(
            "missing_options",
            "Auth0 shows no options of the connection: grant read:connections_options to the machine-to-machine "
            "application, or set client_id and client_secret for the connection",
        )
    if not client_id:
        return _Unresolvable(
            "development_keys",
            "the connection has no client id of its own: on Auth0's development keys only Auth0 can renew. Enter "
            "your own client at Auth0, or set client_id and client_secret for the connection",
        )
    return _Unresolvable(
        "no_client_secret",
        "Auth0 shows no client secret for the connection: enter it there, or set client_secret for the connection",
    )


def _token_url(
    provider: Provider, options: Mapping[str, Any] | None, override: Override, allow_loopback_http: bool
) -> str:
    if override.token_url:
        return _checked(override.token_url, "token_url set for the connection", allow_http=True)
    known = options or {}
    try:
        url = provider.refresh_url or _token_url_option(known) or provider.endpoint(known)
    except ValueError as error:
        raise _Unresolvable("bad_option", f"the connection's {error}: correct it at Auth0") from None
    if url:
        checked = _checked(url, "token URL in the connection's options", allow_http=allow_loopback_http)
        host = _split(checked).hostname
        if is_internal_literal(host) and not (allow_loopback_http and is_loopback(host)):
            raise _Unresolvable(
                "internal_token_url",
                "the token URL in the connection's options is at an internal address, where Auth0 can have called "
                "nobody: correct it at Auth0, or set token_url for the connection",
            )
        return checked
    if options is None:
        raise _missing_client(None, None)
    raise _Unresolvable(
        "no_token_url",
        f"neither the connection's options nor the provider {provider.name} tell the token endpoint: "
        "set token_url for the connection",
    )


def _checked(url: str, what: str, *, allow_http: bool) -> str:
    parts = _split(url)
    plain = not any(character.isspace() or not character.isprintable() for character in url)
    if parts.scheme not in ("https", "http") or not _is_host(parts.hostname) or parts.fragment or not plain:
        raise _Unresolvable("bad_option", f"the {what} is not a URL: correct it")
    if parts.username is not None or parts.password is not None:
        raise _Unresolvable("bad_option", f"the {what} holds a user name or password: take it out")
    if parts.scheme == "http" and not (allow_http and is_loopback(parts.hostname)):
        raise _Unresolvable(
            "insecure_token_url", f"the {what} is not https, so tokens would be sent readable: correct it"
        )
    return url


def _split(url: str) -> SplitResult:
    """Return a URL's parts; empty ones if it is none."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.port != 0:  # reading the port is what checks it
            return parts
    return SplitResult("", "", "", "", "")


def _is_host(name: str | None) -> bool:
    """Whether a host name is well-formed.

    A name with an empty or overlong label is not.
    """
    try:
        return bool(name and name.encode("idna"))
    except UnicodeError:
        return False


def _extra(provider: Provider, options: Mapping[str, Any], override: Override) -> dict[str, str]:
    from_auth0 = {**{name: options.get(name) for name in provider.requires}, **provider.parameters(options)}
    from_operator = {"scope": override.scope, "redirect_uri": override.redirect_uri}
    extra = {
        **{name: text for name, value in from_auth0.items() if (text := _text(value))},
        **override.extra,
        **{name: value for name, value in from_operator.items() if value},
    }
    if missing := [name for name in provider.requires if name not in extra]:
        raise _Unresolvable(
            "bad_option", f"{provider.name} needs {' and '.join(missing)}: set it for the connection"
        )
    return extra


def _token_url_option(options: Mapping[str, Any]) -> str | None:
    metadata = options.get("oidc_metadata")
    for holder in (options, metadata if isinstance(metadata, Mapping) else {}):
        for name in _TOKEN_URL_NAMES:
            if url := _text(holder.get(name)):
                return url
    return None


def _auth_option(options: Mapping[str, Any]) -> ClientAuth | None:
    method = _text(options.get("token_endpoint_auth_method"))
    try:
        return ClientAuth(method) if method else None
    except ValueError:
        raise _Unresolvable(
            "bad_option",
            "the connection's token_endpoint_auth_method is not supported: set client_auth for the connection",
        ) from None


def _header_options(options: Mapping[str, Any]) -> dict[str, Secret]:
    """Return ``customHeaders``: further headers for the token endpoint.

    Custom connections use them for basic authentication. Headers that describe the request itself are left out.
    """
    headers = options.get("customHeaders")
    return {
        "Authorization" if str(name).lower() == "authorization" else str(name): Secret(value.strip())
        for name, value in (headers.items() if isinstance(headers, Mapping) else ())
        if isinstance(value, str)
        and _HEADER_NAME.fullmatch(str(name))
        and _HEADER_VALUE.fullmatch(value.strip())
        and str(name).lower() not in _OWN_HEADERS
    }


def _header_client(headers: Mapping[str, Secret]) -> tuple[str, str] | None:
    """Return id and secret from a header of basic authentication."""
    value = headers.get("Authorization")
    scheme, _, encoded = value.reveal().partition(" ") if value else ("", "", "")
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (client_id, secret) if scheme.lower() == "basic" and client_id else None


def _text(value: object) -> str | None:
    """Return an option's text, or None.

    None for blanks, other types, and text with unprintable characters.
    """
    text = value.strip() if isinstance(value, str) else ""
    return text if text.isprintable() and text else None
