"""Users and identities: creation, login, links and raw changes."""

import copy
from typing import Any

from emulators import history
from emulators.auth0.connections import PER_CONNECTION_IDS, SOCIAL
from emulators.clock import iso
from emulators.idp.tokens import Grant, Identity
from emulators.world import World

Json = dict[str, Any]
AS_PROVIDER = "as the provider"  # the provider's own lifetime


def add_users(
    world: World,
    connection: str,
    n: int,
    prefix: str | None = None,
    refresh: bool = True,
    expires_in: float | str | None = AS_PROVIDER,
    spacing: float = 0.001,
    at: float | None = None,
) -> list[str]:
    """Add `n` users who logged in one after another.

    They did so `spacing` seconds apart, the last one at `at` (default: now).
    """
    first = world.counters.get(connection, 0)
    world.counters[connection] = first + n
    last = world.clock.now() if at is None else at
    made = []
    for number in range(first, first + n):
        subject = subject_for(world, connection, number, prefix)
        user_id = user_id_for(world, connection, subject)
        identity = {"connection": connection, "refresh": refresh, "expires_in": expires_in}
        _add(world, user_id, [identity], last - (first + n - 1 - number) * spacing, number)
        made.append(user_id)
    return made


def add_user(world: World, user_id: str, identities: list[Json], at: float | None = None) -> Json:
    """Add one user with its identities and their tokens.

    The tokens come from each connection's provider.
    """
    return _add(
        world, user_id, identities, world.clock.now() if at is None else at, len(world.users.ingest_by_id)
    )


def login(world: World, user_id: str, connection: str | None, *, consent: bool, log_type: str = "s") -> Json:
    """Log in again, with new tokens in one identity.

    The tokens are new at the provider too.
    Gives the tokens. Without consent some providers (Google) bring no refresh token, and the identity
    then shows none.
    """
    user = copy.deepcopy(world.users.ingest_by_id[user_id])
    identity = _identity(user, connection)
    name, subject = key_of(identity)
    for field in ("access_token", "refresh_token", "expires_in"):
        identity.pop(field, None)
    now = world.clock.now()
    if name in world.leads_to:
        identity |= _issue(world, (name, subject), refresh=True, consent=consent, at=now)
    user |= {"last_login": iso(now), "updated_at": iso(now), "logins_count": user.get("logins_count", 0) + 1}
    world.users.put(user)
    history.logged_in(world, user, identity, log_type)
    return {name: identity.get(name) for name in ("access_token", "refresh_token", "expires_in")}


def link(world: World, primary_user_id: str, secondary_user_id: str) -> Json:
    """Move the identities of one user to another.

    The secondary's own user disappears.
    """
    primary = copy.deepcopy(world.users.ingest_by_id[primary_user_id])
    secondary = world.users.remove(secondary_user_id)
    profile = {name: secondary[name] for name in ("email", "name") if name in secondary}
    primary["identities"] += [{**identity, "profileData": profile} for identity in secondary["identities"]]
    primary = _touched(world, primary)
    history.linked(world, primary, secondary)
    return primary


def delete(world: World, user_id: str) -> None:
    """Delete a user at Auth0; the provider's tokens live on."""
    history.deleted(world, world.users.remove(user_id))


def unlink(world: World, primary_user_id: str, connection: str) -> Json:
    """Make a linked identity a user of its own again.

    Gives that user.
    """
    primary = copy.deepcopy(world.users.ingest_by_id[primary_user_id])
    linked = [identity for identity in primary["identities"][1:] if identity.get("connection") == connection]
    if not linked:
        raise KeyError(f"linked identity of {connection}")
    primary["identities"].remove(linked[-1])
    primary = _touched(world, primary)
    identity = {name: value for name, value in linked[-1].items() if name != "profileData"}
    user_id = f"{identity['provider']}|{identity['user_id']}"
    freed = _touched(world, {**new_profile(user_id, world.clock.now(), 0), "identities": [identity]})
    history.unlinked(world, primary, identity, freed)
    return freed


def set_user(world: World, user_id: str, fields: Json, delete: list[str]) -> Json:
    """Plant raw top-level fields."""
    user = {**copy.deepcopy(world.users.ingest_by_id[user_id]), **fields}
    world.users.put({name: value for name, value in user.items() if name not in delete})
    return world.users.ingest_by_id[user_id]


def set_identity(
    world: World, user_id: str, connection: str, fields: Json, delete: list[str], *, touch: bool
) -> Json:
    """Plant raw fields of one identity.

    `touch` moves the user's `updated_at`, as any change does.
    """
    user = copy.deepcopy(world.users.ingest_by_id[user_id])
    identity = _identity(user, connection)
    identity |= fields
    for field in delete:
        identity.pop(field, None)
    if touch:
        return _touched(world, user)
    world.users.put(user)
    return user


def identity_key(world: World, user_id: str, connection: str) -> Identity:
    """Find a user's identity at the provider by connection.

    Also after a link or a deletion.
    """
    user = world.users.ingest_by_id.get(user_id)
    for identity in (user or {}).get("identities", ()):
        if isinstance(identity, dict) and identity.get("connection") == connection:
            return key_of(identity)
    return connection, user_id.rpartition("|")[2]


def _add(world: World, user_id: str, identities: list[Json], at: float, number: int) -> Json:
    if user_id in world.users.ingest_by_id:
        raise ValueError(f"there is a user {user_id} already")
    user = new_profile(user_id, at, number)
    user["identities"] = [
        new_identity(world, user_id if first == 0 else None, wanted, at, number + first)
        for first, wanted in enumerate(identities)
    ]
    world.users.put(user)
    history.created(world, user)
    return user


def new_identity(world: World, user_id: str | None, wanted: Json, at: float, number: int) -> Json:
    """Make an identity from a test's wishes.

    They are `connection` and any of `user_id`, `refresh`, `expires_in`; other fields are planted.
    """
    wanted = dict(wanted)
    connection = wanted["connection"]
    strategy = world.connections[connection]["strategy"]
    if "user_id" not in wanted:
        if user_id is None:
            raise ValueError(f"a linked identity of {connection} needs its user_id")
        wanted["user_id"] = user_id.partition("|")[2]
    refresh, life = wanted.pop("refresh", True), wanted.pop("expires_in", AS_PROVIDER)
    identity: Json = {
        "provider": strategy,
        "user_id": _as_provider_writes(world, connection, wanted["user_id"]),
        "connection": connection,
        "isSocial": strategy in SOCIAL,
    }
    if user_id is None:
        identity["profileData"] = {"name": f"Linked {number}"}
    if connection in world.leads_to and "access_token" not in wanted:
        identity |= _issue(world, key_of(identity), refresh=refresh, consent=True, at=at, life=life)
    elif life != AS_PROVIDER:
        identity["expires_in"] = life
    if number % 3 == 0:
        identity["x_unannounced"] = {"since": "2026", "flags": [1, None]}  # readers must not mind
    return {**identity, **{name: value for name, value in wanted.items() if name != "user_id"}}


def _issue(
    world: World, key: Identity, *, refresh: bool, consent: bool, at: float, life: Any = AS_PROVIDER
) -> Json:
    """Get tokens from the provider, as Auth0's fields."""
    provider, client_id = world.leads_to[key[0]]
    behaviour = world.providers.behaviours[provider]
    life = behaviour.access_life if life == AS_PROVIDER else life
    alive: list[Grant] = [g for g in world.issuer.grants(key) if any(not a.revoked for a in g.access)]
    silent = behaviour.refresh_on_consent_only and not consent and bool(alive)
    if silent:
        access = world.issuer.another_access(behaviour, alive[-1], life)
    else:
        client = world.issuer.clients[provider, client_id]
        _, access = world.issuer.login(behaviour, client, key, refresh=refresh, life=life, at=at)
    fields: Json = {"access_token": access.value}
    if access.refresh is not None and not silent:
        fields["refresh_token"] = access.refresh.value
    return fields if life is None else {**fields, "expires_in": round(life)}


def new_profile(user_id: str, at: float, number: int) -> Json:
    """Make a user without identities, created at `at`.

    It was last seen then too.
    """
    moment = iso(at)
    profile: Json = {
        "user_id": user_id,
        "email": f"user{number}@example.com",
        "email_verified": number % 2 == 0,
        "name": f"User {number}",
        "created_at": moment,
        "updated_at": moment,
        "last_login": moment,
        "last_ip": "192.0.2.7",
        "logins_count": 1,
    }
    return {**profile, "app_metadata": {"plan": "x"}, "multifactor": []} if number % 5 == 0 else profile


def _touched(world: World, user: Json) -> Json:
    user = {**user, "updated_at": iso(world.clock.now())}
    world.users.put(user)
    return user


def _identity(user: Json, connection: str | None) -> Json:
    for identity in user["identities"]:
        if connection in (None, identity.get("connection")):
            found: Json = identity
            return found
    raise KeyError(f"identity of {connection}")


def key_of(identity: Json) -> Identity:
    """Say which identity at the provider one of Auth0's is."""
    return identity["connection"], str(identity["user_id"]).rpartition("|")[2]


def subject_for(world: World, connection: str, number: int, prefix: str | None = None) -> str:
    """Number a user as the provider would.

    Google and Facebook in digits, GitHub as an integer.
    """
    if prefix is not None:
        return f"{prefix}{number}"
    strategy = world.connections[connection]["strategy"]
    if strategy in ("google-oauth2", "facebook", "github"):
        place = list(world.connections).index(connection) + 1  # two connections of a strategy do not collide
        return str(place * 1_000_000 + number)
    return f"{connection}-{number}"


def user_id_for(world: World, connection: str, subject: str) -> str:
    """Give the user id that belongs to a single identity."""
    strategy = world.connections[connection]["strategy"]
    return f"{strategy}|{connection}|{subject}" if strategy in PER_CONNECTION_IDS else f"{strategy}|{subject}"


def _as_provider_writes(world: World, connection: str, subject: Any) -> Any:
    provider = world.leads_to.get(connection, ("", ""))[0]
    numeric = provider and world.providers.behaviours[provider].integer_ids
    return int(subject) if numeric and str(subject).isdigit() else subject
