"""``[hooks]``: who may tell the vault that something has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.settings.checks import check_https_url
from worker.settings.consumers import Name
from worker.settings.section import SecretsField, Section

# The length that `openssl rand -base64 24` makes. A shorter secret could be guessed over the network.
MIN_SECRET_CHARACTERS = 32


def _list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Auth0HookSettings(Section):
    """A tenant whose log streams and event streams are accepted.

    Attributes:
        secret: Auth0 sends it as ``Authorization``; several while one is being replaced.
    """

    secret: SecretsField = Field(repr=False)

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
        check_secrets(secrets)
        return secrets


class TransmitterSettings(Section):
    """A provider that sends security event tokens (RFC 8417).

    Attributes:
        issuer: ``iss`` of its tokens.
        audience: accepted values of ``aud``; at Google the OAuth clients' ids.
        connections: the connections whose grants its events are about.
        tenants: their names; None for all.
        discovery: URL of its configuration, which names its keys; by default ``.well-known/ssf-configuration`` of the
            issuer.
        jwks_uri: URL of its keys, instead of ``discovery``.
        typed: whether its tokens have the ``typ`` ``secevent+jwt``.
        secret: it sends one of these as ``Authorization``; empty if it sends none.
    """

    issuer: str
    audience: Annotated[tuple[Name, ...], BeforeValidator(_list), Field(min_length=1, max_length=100)]
    connections: Annotated[tuple[Name, ...], BeforeValidator(_list), Field(min_length=1, max_length=100)]
    tenants: tuple[Name, ...] | None = None
    discovery: str | None = None
    jwks_uri: str | None = None
    typed: bool = True
    secret: SecretsField = Field(default=(), repr=False)

    @field_validator("issuer", "discovery", "jwks_uri")
    @classmethod
    def _check_urls(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None:
            _check_url(info.field_name or "url", url)
        return url

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
        check_secrets(secrets)
        return secrets

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if self.discovery is not None and self.jwks_uri is not None:
            raise ValueError("give either discovery or jwks_uri")
        return self

    @property
    def discovery_url(self) -> str:
        """The URL of its configuration (OpenID SSF 1.0, 7.2.1)."""
        if self.discovery is not None:
            return self.discovery
        parts = urlsplit(self.issuer)
        path = parts.path.rstrip("/")
        return parts._replace(path=f"/.well-known/ssf-configuration{path}").geturl()


class HookSettings(Section):
    """The tables ``[hooks.auth0.TENANT]`` and ``[hooks.events.NAME]``.

    Attributes:
        auth0: by the tenant's name.
        events: transmitters by name.
    """

    auth0: Mapping[str, Auth0HookSettings] = Field(default_factory=dict)
    events: Mapping[str, TransmitterSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _check_distinct(self.auth0)
        return self


def with_environment_secret(hooks: HookSettings, secret: Secret | None, tenant: str) -> HookSettings:
    """Add the secret of ``AUTH0_HOOK_SECRET``.

    Raises:
        ConfigurationError: the file has a secret for this tenant, too, or the variable's is too short, or another
            tenant's.
    """
    if secret is None:
        return hooks
    if tenant in hooks.auth0:
        raise ConfigurationError(f"AUTH0_HOOK_SECRET and [hooks.auth0.{tenant}] are both set: keep one")
    try:
        secrets = tuple(map(Secret, secret.reveal().split()))
        check_secrets(secrets)
        added = {**hooks.auth0, tenant: Auth0HookSettings(secret=secrets)}
        _check_distinct(added)
    except ValueError as error:
        raise ConfigurationError(f"AUTH0_HOOK_SECRET: {error}") from None
    return HookSettings(auth0=added, events=hooks.events)


def check_secrets(secrets: tuple[Secret, ...]) -> None:
    """Refuse secrets that could be guessed.

    Raises:
        ValueError: one is too short.
    """
    if any(len(each.reveal()) < MIN_SECRET_CHARACTERS for each in secrets):
        raise ValueError(
            f"a secret has to have {MIN_SECRET_CHARACTERS} characters: `openssl rand -base64 32` makes one"
        )


def _check_distinct(auth0: Mapping[str, Auth0HookSettings]) -> None:
    """Refuse a secret of two tenants.

    A post's secret alone decides which tenant it is about.

    Raises:
        ValueError: two tenants have the same secret.
    """
    secrets = [secret.reveal() for each in auth0.values() for secret in each.secret]
    if len(set(secrets)) < len(secrets):
        raise ValueError("two tenants have the same secret")


def _check_url(name: str, url: str) -> None:
    check_https_url(name, url)
    if urlsplit(url).username is not None:
        raise ValueError(f"{name} must hold no user or password")
