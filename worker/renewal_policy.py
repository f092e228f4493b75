"""Providers and renewal policies, as operator and answers correct them.

Observed answers make renewal only more careful. A refresh token that was not replaced this time may be replaced next
time, and a second use that succeeded does not prove that the first one arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

from token_vault.errors import ConfigurationError
from worker import providers
from worker.providers import Provider
from worker.settings import ConnectionSettings, ProviderSettings, Settings
from worker.vault.connections.connection import StoredConnection
from worker.vault.schedule import RenewalPolicy

# How long a grant is kept fresh after a read, if the operator does not say.
DEFAULT_READ_WINDOW = timedelta(days=7)

_UNITS: Mapping[str, timedelta | Literal["absolute"]] = {
    "seconds": timedelta(seconds=1),
    "milliseconds": timedelta(milliseconds=1),
    "absolute": "absolute",
}
# Settings with the same name and type as a field of ``Provider``.
_VERBATIM = (
    *(
        "rotates",
        "grace",
        "token_url",
        "refresh_url",
        "method",
        "json_body",
        "headers",
        "grant_type",
        "sends",
        "token_parameter",
    ),
    *("parameter_names", "extra", "within", "access_token", "refresh_token", "prolongs", "expires_in"),
    *("scope_separator", "error_names", "keeps", "refresh_end_is_hard", "lists_addresses"),
)
_TIMES = ("idle_life", "absolute_life", "margin", "default_life")


def declared(settings: Settings) -> dict[str, Provider]:
    """Return the providers that the configuration declares, by name.

    Raises:
        ConfigurationError: a name is neither known nor used by a connection, so it is mistyped.
    """
    named = {connection.provider for connection in settings.connections.values()}
    return {name: _declared(name, each, is_new=name in named) for name, each in settings.providers.items()}


def _declared(name: str, settings: ProviderSettings, *, is_new: bool) -> Provider:
    if name in providers.names():
        base = providers.get(name)
    elif is_new:
        base = replace(providers.get("oauth2"), name=name, strategies=(), hosts=())
    else:
        raise ConfigurationError(
            f"[providers.{name}] is no known provider, and no connection names it: known are "
            f"{', '.join(providers.names())}"
        )
    changed: dict[str, Any] = {
        field: timedelta(seconds=seconds)
        for field in _TIMES
        if (seconds := getattr(settings, field)) is not None
    }
    changed |= {name: value for name in _VERBATIM if (value := getattr(settings, name)) is not None}
    if settings.expires_unit is not None:
        changed["expires_unit"] = _UNITS[settings.expires_unit]
    if settings.client_auth is not None:
        changed["auth"] = providers.ClientAuth(settings.client_auth)
    if settings.error_words is not None:
        changed["error_words"] = base.error_words.extended(**settings.error_words.model_dump())
    return replace(base, **changed)


def with_observations(
    provider: Provider, settings: ProviderSettings | None, stored: StoredConnection
) -> Provider:
    """Return a provider, corrected by observations of this connection."""
    operator_knows = settings is not None and settings.rotates is not None
    if stored.observed_rotating and not provider.rotates and not operator_knows:
        provider = replace(provider, rotates=True)
    if stored.observed_grace is not None and provider.grace:
        provider = replace(provider, grace=min(provider.grace, stored.observed_grace))
    return provider


def renewal_policy(
    provider: Provider,
    provider_settings: ProviderSettings | None,
    connection: ConnectionSettings | None,
    stored: StoredConnection,
) -> RenewalPolicy:
    """Return how a connection's grants are kept fresh.

    A connection's setting takes precedence over its provider's; without either, renewal is eager.
    """
    window = _first_set("read_window", connection, provider_settings)
    keep_alive = _first_set("keep_alive", connection, provider_settings)
    on_read = renew_setting(provider_settings, connection) == "on-read" and provider.needs_refresh_token
    idle = provider.idle_life or provider.absolute_life
    lives = [life for life in (idle, stored.observed_refresh_life) if life is not None]
    return RenewalPolicy(
        read_window=(timedelta(seconds=window) if window else DEFAULT_READ_WINDOW) if on_read else None,
        idle_life=min(lives) if lives else None,
        keep_alive=timedelta(seconds=keep_alive) if keep_alive else None,
        absolute_life=provider.absolute_life,
        margin=provider.margin,
    )


def renew_setting(provider: ProviderSettings | None, connection: ConnectionSettings | None) -> str:
    """Return ``eager`` or ``on-read``."""
    return str(_first_set("renew", connection, provider) or "eager")


def _first_set(name: str, *settings: ProviderSettings | ConnectionSettings | None) -> Any:
    found = (getattr(each, name) for each in settings if each is not None)
    return next((value for value in found if value is not None), None)
