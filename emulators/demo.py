"""A small company's tenant, with the troubles of real ones.

About 200 users over all providers.
"""

import asyncio
import random
from typing import Any

from emulators import logins, wiring
from emulators.auth0.applications import Application
from emulators.auth0.connections import V1
from emulators.auth0.settings import SCOPES as DEFAULT_SCOPES
from emulators.world import World

RELOGIN_EVERY = 15.0  # seconds
SCOPES = [*DEFAULT_SCOPES, "read:logs", "read:events", "read:stats"]
SEED = 20260401
# Of examples/spa-proxy.
SPA_ORIGIN = "http://127.0.0.1:3000"
SPA = Application("spa", [SPA_ORIGIN], [SPA_ORIGIN])

CONNECTIONS: list[dict[str, Any]] = [
    {"name": "google-oauth2", "strategy": "google-oauth2", "provider": "google"},
    {"name": "azure", "strategy": "waad", "provider": "entra"},
    {"name": "azure-v1", "strategy": "waad", "provider": "entra", "options": {"identity_api": V1}},
    {"name": "bitbucket", "strategy": "bitbucket", "provider": "bitbucket"},
    {"name": "sharepoint", "strategy": "sharepoint", "provider": "entra"},
    {"name": "github", "strategy": "github", "provider": "github"},
    {"name": "github-classic", "strategy": "github", "provider": "github-classic"},
    {"name": "facebook", "strategy": "facebook", "provider": "facebook"},
    {"name": "partner-oauth2", "strategy": "oauth2", "provider": "custom"},
    {"name": "partner-oidc", "strategy": "oidc", "provider": "oidc"},
    {"name": "partner-okta", "strategy": "okta", "provider": "okta"},
    {"name": "corp-google", "strategy": "google-apps", "provider": "google", "admin": True},
    {"name": "corp-azure", "strategy": "waad", "provider": "entra", "admin": True},
    {
        "name": "bitbucket-wrong-secret",
        "strategy": "bitbucket",
        "provider": "bitbucket",
        "client_secret": "mistyped-by-the-operator",
    },
    {
        "name": "google-dev-keys",
        "strategy": "google-oauth2",
        "provider": "google",
        "client_id": "",
        "client_secret": "",
    },
    {"name": "Username-Password-Authentication", "strategy": "auth0", "provider": None},
]
USERS = {
    "google-oauth2": 50,
    "azure": 25,
    "azure-v1": 10,
    "bitbucket": 25,
    "sharepoint": 15,
    "github": 15,
    "github-classic": 5,
    "facebook": 10,
    "partner-oauth2": 15,
    "partner-oidc": 10,
    "partner-okta": 5,
    "bitbucket-wrong-secret": 3,
    "google-dev-keys": 2,
    "Username-Password-Authentication": 5,
}


def seed(world: World) -> None:
    """Fill an empty world.

    Ids are the same each time, tokens never.
    """
    for connection in CONNECTIONS:
        wiring.add_connection(world, **connection)
    provider, client_id = world.leads_to["bitbucket-wrong-secret"]
    world.issuer.clients[provider, client_id].secret = "the-right-one"
    logins.add_user(world, "google-oauth2|1111", [{"connection": "google-oauth2"}])
    made = {
        name: logins.add_users(world, name, n, prefix="dev-" if name == "google-dev-keys" else None)
        for name, n in USERS.items()
    }
    for user_id in logins.add_users(world, "google-oauth2", 4, prefix="no-refresh-", refresh=False):
        logins.set_user(world, user_id, {"name": "Never asked for offline access"}, [])
    _link(world, made)
    for grant in world.issuer.grants(logins.identity_key(world, made["bitbucket"][-1], "bitbucket")):
        grant.revoke()


def _link(world: World, made: dict[str, list[str]]) -> None:
    """Link the first users of some connections.

    One has three identities.
    """
    logins.link(world, "google-oauth2|1111", made["bitbucket"][0])
    logins.link(world, made["google-oauth2"][0], made["github"][0])
    logins.link(world, made["google-oauth2"][0], made["sharepoint"][0])
    logins.link(world, made["azure"][0], made["partner-oauth2"][0])
    logins.link(world, made["Username-Password-Authentication"][0], made["google-oauth2"][1])


async def keep_logging_in(world: World) -> None:
    """Log somebody in every 15 seconds, mostly without consent."""
    choice = random.Random(SEED)
    while True:
        await asyncio.sleep(RELOGIN_EVERY)
        if world.users.ingest_by_id:
            user_id = choice.choice(sorted(world.users.ingest_by_id))
            logins.login(world, user_id, None, consent=choice.random() < 0.2)
