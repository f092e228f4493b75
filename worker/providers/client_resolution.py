"""Finds the OAuth client of a connection.

Its options come from Auth0; each setting of the operator counts more.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.loopback import is_loopback
from worker.providers import registry
from worker.providers.base import Provider
from worker.providers.declared import OAUTH2, OIDC
from worker.providers.model import Client, ClientAuth, Override, Problem

TOKENLESS_STRATEGIES = frozenset(
    {"auth0", "samlp", "email", "sms", "ad", "adfs", "auth0-adldap", "pingfederate", "ip", "custom"}
)
"""Auth0 strategies whose users bring no tokens of an identity provider."""

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
        options: Auth0's; None where Auth0 shows none, for lack of a scope.
        override: the operator's settings; each counts more than Auth0's.
        allow_loopback_http: whether a token URL *from Auth0* may be plain HTTP towards loopback; true for an
            emulated tenant. The operator's own may always be.
        declared: providers by name that count before the built-in ones.
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
    header_client = _header_client(known)
    auth = (
        override.client_auth or _auth_option(known) or (ClientAuth.BASIC if header_client else provider.auth)
    )
    if auth is ClientAuth.PRIVATE_KEY_JWT:
        raise _Unresolvable(
            "bad_option",
            "the connection authenticates with private_key_jwt, and Auth0 does not show the key: register "
            "a client secret at the provider and set client_auth and client_secret for the connection",
        )
    header_id, header_secret = header_client or (None, None)
    client_id = override.client_id or _text(known.get("client_id")) or header_id
    secret = _text(known.get("client_secret")) or header_secret
    client_secret = override.client_secret or (Secret(secret) if secret else None)
    if not client_id or (not client_secret and auth is not ClientAuth.NONE):
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
    )


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
        url = _token_url_option(known) or provider.endpoint(known)
    except ValueError as error:
        raise _Unresolvable("bad_option", f"the connection's {error}: correct it at Auth0") from None
    if url:
        return _checked(url, "token URL in the connection's options", allow_http=allow_loopback_http)
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
    """Whether a host name can be looked up at all.

    One with an empty or overlong label cannot.
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


def _header_client(options: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return id and secret from ``customHeaders``.

    Custom connections at Auth0 ask for basic authentication this way.
    """
    headers = options.get("customHeaders")
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        if str(name).lower() == "authorization" and isinstance(value, str):
            scheme, _, encoded = value.strip().partition(" ")
            try:
                client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
            except ValueError:
                return None
            if scheme.lower() == "basic" and client_id and secret:
                return client_id, secret
    return None


def _text(value: object) -> str | None:
    """Return an option's text, or None.

    None for blanks, other types, and text that could never be sent.
    """
    text = value.strip() if isinstance(value, str) else ""
    return text if text.isprintable() and text else None
