"""What is declared of a provider, under what the operator says of it and what its answers have shown.

Answers make renewal more careful, never bolder: a refresh token that was not replaced may be replaced the next
time, and a second use that succeeded does not say that the first one had arrived.
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
from worker.vault.connections.stored import StoredConnection
from worker.vault.schedule import RenewalPolicy

DEFAULT_READ_WINDOW = timedelta(days=7)

_UNITS: Mapping[str, timedelta | Literal["absolute"]] = {
    "seconds": timedelta(seconds=1),
    "milliseconds": timedelta(milliseconds=1),
    "absolute": "absolute",
}
_TIMES = ("idle_life", "absolute_life", "margin", "default_life")


def declared(settings: Settings) -> dict[str, Provider]:
    """Return the providers that the configuration declares, by name.

    Raises:
        ConfigurationError: one is not known, and no connection names it: mistyped.
    """
    named = {connection.provider for connection in settings.connections.values()}
    return {name: _declared(name, given, new=name in named) for name, given in settings.providers.items()}


def _declared(name: str, given: ProviderSettings, *, new: bool) -> Provider:
    if name in providers.names():
        base = providers.get(name)
    elif new:
        base = replace(providers.get("oauth2"), name=name, strategies=(), hosts=())
    else:
        raise ConfigurationError(
            f"[providers.{name}] is no known provider, and no connection names it: known are "
            f"{', '.join(providers.names())}"
        )
    changed: dict[str, Any] = {
        field: timedelta(seconds=seconds)
        for field in _TIMES
        if (seconds := getattr(given, field)) is not None
    }
    if given.rotates is not None:
        changed["rotates"] = given.rotates
    if given.grace is not None:
        changed["grace"] = given.grace
    if given.expires_unit is not None:
        changed["expires_unit"] = _UNITS[given.expires_unit]
    return replace(base, **changed)


def with_observations(
    provider: Provider, given: ProviderSettings | None, stored: StoredConnection
) -> Provider:
    """Correct a provider by what answers over this connection have shown."""
    operator_knows = given is not None and given.rotates is not None
    if stored.observed_rotating and not provider.rotates and not operator_knows:
        provider = replace(provider, rotates=True)
    if stored.observed_grace is not None and provider.grace:
        provider = replace(provider, grace=min(provider.grace, stored.observed_grace))
    return provider


def renewal_policy(
    provider: Provider,
    given: ProviderSettings | None,
    connection: ConnectionSettings | None,
    stored: StoredConnection,
) -> RenewalPolicy:
    """Return how a connection's grants are kept: the connection's setting, else the provider's, else eager."""
    window = _first("read_window", connection, given)
    keep_alive = _first("keep_alive", connection, given)
    on_read = renewal(given, connection) == "on-read" and provider.needs_refresh_token
    idle = provider.idle_life or provider.absolute_life
    lives = [life for life in (idle, stored.observed_refresh_life) if life is not None]
    return RenewalPolicy(
        read_window=(timedelta(seconds=window) if window else DEFAULT_READ_WINDOW) if on_read else None,
        idle_life=min(lives) if lives else None,
        keep_alive=timedelta(seconds=keep_alive) if keep_alive else None,
        margin=provider.margin,
    )


def renewal(given: ProviderSettings | None, connection: ConnectionSettings | None) -> str:
    """Return ``eager`` or ``on-read``."""
    return str(_first("renew", connection, given) or "eager")


def _first(name: str, *given: ProviderSettings | ConnectionSettings | None) -> Any:
    found = (getattr(settings, name) for settings in given if settings is not None)
    return next((value for value in found if value is not None), None)
