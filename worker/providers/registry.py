"""All providers, one line each.

A new provider is added here and in its own file, nowhere else.
"""

from __future__ import annotations

from token_vault.errors import ConfigurationError
from worker.providers.base import Provider
from worker.providers.bitbucket import BITBUCKET
from worker.providers.declared import DECLARED, OAUTH2, OIDC
from worker.providers.facebook import FACEBOOK
from worker.providers.github import GITHUB
from worker.providers.google import GOOGLE
from worker.providers.microsoft import AZURE_AD, MICROSOFT_ACCOUNT, SHAREPOINT
from worker.providers.okta import AUTH0, OKTA
from worker.providers.salesforce import SALESFORCE, SALESFORCE_COMMUNITY, SALESFORCE_SANDBOX

PROVIDERS: tuple[Provider, ...] = (
    OAUTH2,
    OIDC,
    GOOGLE,
    AZURE_AD,
    MICROSOFT_ACCOUNT,
    SHAREPOINT,
    BITBUCKET,
    GITHUB,
    FACEBOOK,
    OKTA,
    AUTH0,
    SALESFORCE,
    SALESFORCE_SANDBOX,
    SALESFORCE_COMMUNITY,
    *DECLARED,
)


def names() -> tuple[str, ...]:
    """Return the names that the configuration may use."""
    return tuple(provider.name for provider in PROVIDERS)


def get(name: str) -> Provider:
    """Return a provider by its name or an Auth0 strategy.

    Raises:
        ConfigurationError: there is none; the message lists the known ones.
    """
    for provider in PROVIDERS:
        if name == provider.name:
            return provider
    if found := for_strategy(name):
        return found
    raise ConfigurationError(f"there is no such provider; these are known: {', '.join(names())}")


def for_strategy(strategy: str) -> Provider | None:
    """Return the provider that serves an Auth0 strategy."""
    return next((provider for provider in PROVIDERS if strategy in provider.strategies), None)


def for_host(host: str) -> Provider | None:
    """Return the provider whose token endpoint has this lower-case host."""
    return next((provider for provider in PROVIDERS if any(_covers(at, host) for at in provider.hosts)), None)


def _covers(at: str, host: str) -> bool:
    """Whether a host is declared, or below a declared domain."""
    return host.endswith(at) if at.startswith(".") else host == at
