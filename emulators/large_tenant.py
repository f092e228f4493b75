"""A tenant's worth of users within seconds.

And what is true of them, page by page.
"""

import gc
import random
from bisect import bisect_right
from collections import Counter
from typing import Any

from emulators import logins
from emulators.clock import iso
from emulators.idp.tokens import digest
from emulators.world import World

Json = dict[str, Any]


def seed_users(
    world: World,
    n: int,
    connections: list[str],
    span: float = 90 * 86_400.0,
    at: float | None = None,
    cluster: int = 0,
    linked: float = 0.0,
    refresh: bool = True,
    expires_in: Any = logins.AS_PROVIDER,
    seed: int = 1,
) -> Json:
    """Add `n` past users over the connections in turn.

    They leave no log entries and no events.
    They were created within the `span` seconds before `at` (default: now), and logged in last at any time
    since; the first `cluster` of them did both in one and the same millisecond. A share `linked` has a second
    identity of the next connection. Gives `users`, `identities` and `connections` (users of each).
    """
    choice = random.Random(seed)
    end = world.clock.now() if at is None else at
    together = end - span / 2
    made: Counter[str] = Counter()
    identities = 0
    gc.disable()  # nothing of all this is garbage, and looking through it costs most of the time
    for place in range(n):
        created = end - choice.random() * span
        last = created + choice.random() * (end - created)
        if place < cluster:
            created = last = together
        names = [connections[place % len(connections)]]
        if len(connections) > 1 and choice.random() < linked:
            names.append(connections[(place + 1) % len(connections)])
        _seed_user(world, names, created, last, refresh, expires_in)
        made[names[0]] += 1
        identities += len(names)
    gc.enable()
    gc.freeze()
    return {"users": n, "identities": identities, "connections": dict(made)}


def alive(world: World, after: str = "", count: int = 5000) -> Json:
    """List users by id, with Auth0's copy and the truth.

    The truth is what the providers issued last.
    Gives `users` and `next` (None at the end). Each user has `user_id`, `updated_at` and `identities`; each of
    those `connection`, `provider_user_id`, and the digests `shown_access`, `shown_refresh` (of Auth0's copy),
    `newest_access`, `newest_refresh` (issued last, dead or alive), `live_access`, `live_refresh` (the newest
    that the provider takes).
    """
    names = sorted(world.users.ingest_by_id)
    first = bisect_right(names, after) if after else 0
    page = names[first : first + count]
    more = first + count < len(names)
    return {
        "users": [_alive(world, world.users.ingest_by_id[name]) for name in page],
        "next": page[-1] if more else None,
    }


def _seed_user(
    world: World, names: list[str], created: float, last: float, refresh: bool, expires_in: Any
) -> None:
    parts = []
    for name in names:
        number = world.counters.get(name, 0)
        world.counters[name] = number + 1
        parts.append((name, logins.subject_for(world, name, number), number))
    user_id = logins.user_id_for(world, *parts[0][:2])
    user = logins.new_profile(user_id, last, parts[0][2])
    user["created_at"] = iso(created)
    user["identities"] = []
    for name, subject, number in parts:
        # The provider's own user id, as it stands in the id of the user that this identity would be alone.
        wanted = {"connection": name, "refresh": refresh, "expires_in": expires_in}
        if user["identities"]:
            wanted["user_id"] = logins.user_id_for(world, name, subject).partition("|")[2]
        main = None if user["identities"] else user_id
        user["identities"].append(logins.new_identity(world, main, wanted, last, number))
    world.users.put(user)


def _alive(world: World, user: Json) -> Json:
    identities = [_identity(world, each) for each in user.get("identities", ()) if isinstance(each, dict)]
    return {"user_id": user["user_id"], "updated_at": user.get("updated_at"), "identities": identities}


def _identity(world: World, identity: Json) -> Json:
    live = world.issuer.live(logins.key_of(identity))
    newest = world.issuer.newest(logins.key_of(identity))
    shown = [identity.get(name) for name in ("access_token", "refresh_token")]
    return {
        "connection": identity["connection"],
        "provider_user_id": identity.get("user_id"),
        "shown_access": digest(shown[0]),
        "shown_refresh": digest(shown[1]),
        "newest_access": digest(newest[0]),
        "newest_refresh": digest(newest[1]),
        "live_access": digest(live["access_token"]),
        "live_refresh": digest(live["refresh_token"]),
    }
