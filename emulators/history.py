"""Log entries and events that each change leaves behind.

Types of entries: https://auth0.com/docs/deploy-monitor/logs/log-event-type-codes. A link or an unlink is a
management write (`sapi`) that names the users in its request alone.
"""

from typing import Any
from urllib.parse import quote

from emulators.world import World

Json = dict[str, Any]


def created(world: World, user: Json) -> None:
    """Tell of a user's first login."""
    world.log.write("ss", description="Successful signup", **_about(world, user, _first(user)))
    world.events.happened("user.created", user)


NOISE = ("ssa", "sertft", "fp")  # silent authentication, an application's refresh, a wrong password


def logged_in(world: World, user: Json, identity: Json, kind: str = "s") -> None:
    """Tell of a login: `s`, `ss` or `sens`.

    A code exchange follows those in a browser.
    """
    about = _about(world, user, identity)
    world.log.write(kind, description="Successful login", **about)
    if kind != "sens":
        world.log.write("seacft", description="Authorization Code for Access Token", **about)
    if world.settings.login_events:
        world.events.happened("user.updated", user)


def noise(world: World, user: Json, kind: str) -> None:
    """Write an entry about an unchanged user."""
    world.log.write(kind, **_about(world, user, _first(user)))


def deleted(world: World, user: Json) -> None:
    """Tell of a deletion by the Management API."""
    _wrote(world, "Delete a User", "delete", f"/api/v2/users/{_quoted(user['user_id'])}", {}, 204)
    world.log.write("sdu", description="User successfully deleted", **_about(world, user, _first(user)))
    world.events.happened("user.deleted", user)


def linked(world: World, primary: Json, secondary: Json) -> None:
    """Record a link.

    The event stream has a deletion and a change of it, the log one write.
    """
    main = _first(secondary)
    body = {"provider": main.get("provider"), "user_id": str(main.get("user_id"))}
    path = f"/api/v2/users/{_quoted(primary['user_id'])}/identities"
    _wrote(world, "Link a User Account", "post", path, body, 201)
    world.events.happened("user.deleted", secondary)
    world.events.happened("user.updated", primary)


def unlinked(world: World, primary: Json, identity: Json, freed: Json) -> None:
    """Record an unlink, and the user that the identity becomes."""
    place = f"{identity.get('provider')}/{_quoted(str(identity.get('user_id')))}"
    path = f"/api/v2/users/{_quoted(primary['user_id'])}/identities/{place}"
    _wrote(world, "Unlink a User Identity", "delete", path, {}, 200)
    world.events.happened("user.updated", primary)
    world.events.happened("user.created", freed)


def _wrote(world: World, description: str, method: str, path: str, body: Json, status: int) -> None:
    request = {
        "method": method,
        "path": path,
        "query": {},
        "userAgent": "emulated-dashboard",
        "body": body,
        "channel": "https://manage.auth0.example/",
        "ip": "192.0.2.8",
        "auth": {
            "user": {"user_id": "auth0|operator"},
            "strategy": "jwt",
            "credentials": {"jti": "emulated"},
        },
    }
    details = {"request": request, "response": {"statusCode": status, "body": {}}}
    world.log.write(
        "sapi", description=description, client_id=world.tokens.client_id, ip="192.0.2.8", details=details
    )


def _about(world: World, user: Json, identity: Json) -> Json:
    connection = str(identity.get("connection", ""))
    known = world.connections.get(connection, {})
    return {
        "connection": connection,
        "connection_id": known.get("id", ""),
        "client_id": "emulated-app",
        "client_name": "An application",
        "ip": user.get("last_ip", ""),
        "user_agent": "Mozilla/5.0",
        "hostname": world.base_url.partition("://")[2],
        "user_id": user["user_id"],
        "user_name": user.get("email", ""),
        "strategy": known.get("strategy", ""),
        "strategy_type": "social",
        "details": {},
    }


def _first(user: Json) -> Json:
    identities = [each for each in user.get("identities") or () if isinstance(each, dict)]
    return identities[0] if identities else {}


def _quoted(text: str) -> str:
    return quote(text, safe="")
