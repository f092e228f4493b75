"""Connections, their clients at providers, and the way there."""

import json
import secrets
from typing import Any

from emulators.auth0 import connections
from emulators.clock import iso
from emulators.idp.tokens import ADMIN, Client
from emulators.world import World

Json = dict[str, Any]


def add_connection(
    world: World,
    name: str,
    strategy: str,
    provider: str | None,
    client_id: str | None = None,
    client_secret: str | None = None,
    options: Json | None = None,
    admin: bool | str = False,
) -> Json:
    """Add a connection, its client, and its admin grant.

    The admin grant only where it is asked for.
    A `client_id` of "" makes a connection on Auth0's development keys: the options show blanks.
    """
    client_id = f"{name}-client" if client_id is None else client_id
    client_secret = f"secret-of-{name}" if client_secret is None else client_secret
    if provider is not None and provider not in world.providers.behaviours:
        raise ValueError(f"no provider is called {provider!r}")
    shown = connections.connection(name, strategy)
    shown["options"] = {"client_id": client_id, "client_secret": client_secret} if provider else {}
    world.connections[name] = shown
    if provider is not None:
        registered = client_id or f"development-keys-{provider}"
        world.leads_to[name] = (provider, registered)
    filled = connections.options(
        name, strategy, token_url(world, name), _issuer(world, provider), _scope(world, provider)
    )
    shown["options"] |= {**filled, **(options or {})}
    if provider is not None:
        secret = client_secret if client_id else secrets.token_urlsafe(24)
        _register(world, provider, registered, secret, shown["options"])
    if admin:
        grant_admin(world, name, bare=admin == "bare")
    return world.connections[name]


def grant_admin(world: World, name: str, bare: bool | None = None) -> Json:
    """Let an administrator consent again.

    The new admin grant shows in the options.
    """
    provider, client_id = world.leads_to[name]
    behaviour, now = world.providers.behaviours[provider], world.clock.now()
    options = world.connections[name]["options"]
    bare = "admin_access_token" not in options and "access_token" in options if bare is None else bare
    life = behaviour.access_life
    client = world.issuer.clients[provider, client_id]
    _, access = world.issuer.login(behaviour, client, (name, ADMIN), refresh=True, life=life)
    prefix = "" if bare else "admin_"
    tokens: Json = {f"{prefix}access_token": access.value}
    if access.refresh is not None:
        tokens[f"{prefix}refresh_token"] = access.refresh.value
    if bare and life is not None:
        tokens["expires_in"] = round(life)
    elif life is not None:  # a moment, despite the name
        tokens["admin_access_token_expiresin"] = iso(now + life)
    world.connections[name] = {**world.connections[name], "options": {**options, **tokens}}
    return tokens


def token_url(world: World, name: str) -> str:
    """Say where the tokens of a connection are renewed.

    "" for a connection without a provider.
    """
    if name not in world.leads_to:
        return ""
    provider = world.leads_to[name][0]
    options = world.connections[name]["options"]
    paths = world.providers.behaviours[provider].token_paths
    path = paths[-1] if provider == "entra" and options.get("identity_api") == connections.V1 else paths[0]
    path = path.replace("{tenant}", str(options.get("tenantId", "common"))).replace("{version}", "v19.0")
    return f"{world.base_url}/idp/{provider}{path}"


def revocation_url(world: World, name: str) -> str:
    """Say where the tokens of a connection are revoked.

    "" where its provider has no such endpoint.
    """
    provider = world.leads_to[name][0] if name in world.leads_to else ""
    path = world.providers.behaviours[provider].revocation_path if provider else ""
    return f"{world.base_url}/idp/{provider}{path}" if path else ""


def endpoints(world: World) -> Json:
    """List the addresses of tenant and token endpoints."""
    urls = {
        name: f"{world.base_url}/idp/{name}"
        + ("" if "{" in behaviour.token_paths[0] else behaviour.token_paths[0])
        for name, behaviour in world.providers.behaviours.items()
    }
    return {
        "base_url": world.base_url,
        "auth0_domain": world.base_url,
        "client_id": world.tokens.client_id,
        "client_secret": world.tokens.client_secret,
        "audience": world.tokens.audience,
        "provider_urls": urls,
        "revocation_urls": {
            name: revocation_url(world, name) for name in world.leads_to if name in world.connections
        },
        "token_urls": {name: token_url(world, name) for name in world.leads_to if name in world.connections},
    }


def config_toml(world: World) -> str:
    """Write the configuration that leads to the emulated providers."""
    lines = ["# Token endpoints of the emulated identity providers."]
    for name, connection in world.connections.items():
        if name in world.leads_to and connection["strategy"] not in connections.DISCOVERABLE:
            # A JSON string is a TOML basic string.
            lines += [
                "",
                f"[connections.{json.dumps(name)}]",
                f"token_url = {json.dumps(token_url(world, name))}",
            ]
    return "\n".join(lines) + "\n"


def _register(world: World, provider: str, client_id: str, secret: str, options: Json) -> None:
    key = (provider, client_id)
    client = world.issuer.clients.setdefault(key, Client(provider, client_id, secret))
    client.tenants += [options[name] for name in ("tenantId", "tenant_domain") if options.get(name)]


def _issuer(world: World, provider: str | None) -> str:
    return f"{world.base_url}/idp/{provider}"


def _scope(world: World, provider: str | None) -> str:
    return "" if provider is None else world.providers.behaviours[provider].scope
