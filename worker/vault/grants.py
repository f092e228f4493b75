"""Taking what Auth0 shows into the vault."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.tokens import GrantKey, TokenPair
from worker.vault import due
from worker.vault.database import Vault
from worker.vault.erasing import tombstones
from worker.vault.keyring import Place
from worker.vault.moving import move
from worker.vault.newer import Held, Shown, Verdict, judge
from worker.vault.serving import CHANNEL
from worker.vault.tables import GrantRow


@dataclass(frozen=True, slots=True)
class ShownGrant:
    """One identity's tokens, or a connection's admin tokens, as Auth0 shows them.

    Attributes:
        strategy: of the connection, in case Auth0 has not shown the connection itself.
        pair: the tokens; ``expires_at`` only where it is sound.
        updated_at: of the user; None for admin tokens.
        issued_at: of the access token, where something sound says so.
        user_created_at: when the user was made at Auth0; None for admin tokens.
        exchangeable: the provider renews with the access token itself, without a refresh token.
        upkeep: how the connection's grants are kept.
    """

    key: GrantKey
    strategy: str
    pair: TokenPair
    updated_at: datetime | None
    issued_at: datetime | None
    user_created_at: datetime | None = None
    exchangeable: bool = False
    upkeep: due.Upkeep = due.EAGER


@dataclass(slots=True)
class Tally:
    """How many grants were new, changed, unchanged, or shown in an older state than before."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    stale: int = 0

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.stale += other.stale


_Seen = tuple[ShownGrant, Shown]
"""A grant as Auth0 shows it, with its fingerprints."""


@dataclass(slots=True)
class _Writes:
    inserts: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    touches: list[dict[str, Any]] = field(default_factory=list)
    awaited: list[int] = field(default_factory=list)


_HELD = text("""
SELECT g.id, g.tenant, g.connection, g.user_id, g.provider_user_id, g.state, g.reason, g.reason_since,
    g.access_version, g.access_sealed IS NOT NULL AS has_access, g.refresh_version,
    g.refresh_sealed IS NOT NULL AS has_refresh, g.expires_at, g.refresh_expires_at, g.scopes, g.obtained_at,
    g.obtained_from, g.shown_access, g.shown_refresh, g.shown_updated_at, g.user_created_at, g.due_at,
    g.claim_owner, g.claim_began, g.claim_until, g.awaited, g.doubt_since, g.attempts, g.last_error, g.last_read_at
FROM grants g
JOIN unnest(CAST(:users AS text[]), CAST(:connections AS text[]), CAST(:tenants AS text[]), CAST(:subjects AS text[]))
    AS asked(user_id, connection, tenant, provider_user_id) USING (user_id, connection, tenant, provider_user_id)
ORDER BY g.id FOR UPDATE OF g
""")

# Columns that taking a token may change; the rest of the row is left alone.
_TAKEN = (
    "state", "reason", "reason_since", "access_sealed", "access_version", "refresh_sealed", "refresh_version",
    "expires_at", "refresh_expires_at", "scopes", "obtained_at", "obtained_from", "shown_access",
    "shown_refresh", "shown_updated_at", "user_created_at", "due_at", "claim_owner", "claim_began", "claim_until",
    "awaited", "doubt_since", "attempts", "last_error",
)  # fmt: skip
# What is kept of a sight of Auth0, also where no token is taken.
_SEEN = ("shown_access", "shown_refresh", "shown_updated_at", "user_created_at")


async def take(vault: Vault, shown: Sequence[ShownGrant], *, now: datetime) -> Tally:
    """Take what is news in what Auth0 shows, encrypt it, and commit: what is new, then what has changed.

    Args:
        shown: at most a few hundred grants, each key once.
        now: the database's time.
    """
    asked = [
        (grant, _fingerprinted(vault, grant)) for grant in shown if grant.pair.access or grant.pair.refresh
    ]
    unknown, known, elsewhere = await _different(vault, asked)
    tally = Tally(unchanged=len(asked) - len(unknown) - len(known))
    if elsewhere:
        moves = [(id_, grant.key, grant.updated_at) for (grant, _), id_ in elsewhere]
        moved = await move(vault, moves, now=now)
        known += [(grant, seen) for (grant, seen), _ in elsewhere if grant.key in moved]
        tally.unchanged -= len(moved)
    writes = _Writes()
    buried = await tombstones(vault, [grant.key for grant, _ in unknown])
    for grant, seen in unknown:
        _weigh_new(vault, grant, seen, buried.get(grant.key), now, writes, tally)
    if writes.inserts:
        async with vault.statement() as connection:
            lost = await _insert(connection, writes.inserts, unknown)
        tally.new -= len(lost)
        known += [(grant, seen) for grant, seen in unknown if grant.key in lost]
    if known:
        await _change(vault, known, tally, now)
    return tally


async def _change(vault: Vault, known: list[_Seen], tally: Tally, now: datetime) -> None:
    """Judge grants that the vault holds, each row locked until what was decided is committed."""
    writes = _Writes()
    async with vault.engine.begin() as connection:
        held = await _held(connection, [grant.key for grant, _ in known])
        for grant, seen in known:
            if row := held.get(grant.key):
                _weigh(vault, grant, seen, row, now, writes, tally)
        await _update(connection, writes)


def _fingerprinted(vault: Vault, grant: ShownGrant) -> Shown:
    of, pair = vault.fingerprints.of_secret, grant.pair
    return Shown(
        access=of(pair.access) if pair.access else None,
        refresh=of(pair.refresh) if pair.refresh else None,
        updated_at=grant.updated_at,
        issued_at=grant.issued_at,
    )


# Most of what a sync is shown is what it was shown before: Postgres picks out the rest, without a lock. One JSON
# parameter stands for the whole page; arrays and rows of parameters cost more to send than the question itself.
_DIFFERENT = text("""
SELECT asked.n, g.id IS NULL, elsewhere.id
FROM jsonb_to_recordset(CAST(:asked AS jsonb)) AS asked(
    n integer, user_id text, connection text, tenant text, provider_user_id text,
    access text, refresh text, updated_at timestamptz, created_at timestamptz)
LEFT JOIN grants g USING (user_id, connection, tenant, provider_user_id)
-- An identity belongs to one user: known under another, it has moved, as accounts were linked or unlinked.
LEFT JOIN LATERAL (
    SELECT id FROM grants m
    WHERE g.id IS NULL AND m.provider_user_id = asked.provider_user_id AND m.connection = asked.connection
        AND m.tenant = asked.tenant AND m.provider_user_id <> ''
    ORDER BY m.shown_updated_at DESC NULLS LAST, id DESC LIMIT 1
) elsewhere ON true
WHERE g.id IS NULL
    OR coalesce(decode(access, 'hex'), g.shown_access) IS DISTINCT FROM g.shown_access
    OR coalesce(decode(refresh, 'hex'), g.shown_refresh) IS DISTINCT FROM g.shown_refresh
    OR coalesce(updated_at, g.shown_updated_at) IS DISTINCT FROM g.shown_updated_at
    OR coalesce(asked.created_at, g.user_created_at) IS DISTINCT FROM g.user_created_at
ORDER BY asked.n
""")


async def _different(
    vault: Vault, asked: list[_Seen]
) -> tuple[list[_Seen], list[_Seen], list[tuple[_Seen, int]]]:
    """Return the grants that the vault does not hold, those of which Auth0 shows something else than before, and
    those that the vault holds under another user, with their ids.
    """
    rows = [
        _identity(grant.key)
        | {
            "n": n, "access": seen.access and seen.access.hex(), "refresh": seen.refresh and seen.refresh.hex(),
            "updated_at": seen.updated_at and seen.updated_at.isoformat(),
            "created_at": grant.user_created_at and grant.user_created_at.isoformat(),
        }
        for n, (grant, seen) in enumerate(asked)
    ]  # fmt: skip
    found = await vault.run(_DIFFERENT, {"asked": json.dumps(rows)})
    unknown = [asked[n] for n, is_unknown, elsewhere in found if is_unknown and elsewhere is None]
    known = [asked[n] for n, is_unknown, _ in found if not is_unknown]
    return unknown, known, [(asked[n], elsewhere) for n, _, elsewhere in found if elsewhere is not None]


async def _held(connection: AsyncConnection, keys: Sequence[GrantKey]) -> dict[GrantKey, dict[str, Any]]:
    values = {
        "users": [key.user_id for key in keys],
        "connections": [key.connection for key in keys],
        "tenants": [key.tenant for key in keys],
        "subjects": [key.provider_user_id for key in keys],
    }
    rows = (await connection.execute(_HELD, values)).mappings()
    return {_key(row): row for row in map(dict[str, Any], rows)}


def _key(row: Mapping[str, Any]) -> GrantKey:
    return GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])


def _weigh_new(
    vault: Vault,
    grant: ShownGrant,
    shown: Shown,
    tombstone: Mapping[str, Any] | None,
    now: datetime,
    writes: _Writes,
    tally: Tally,
) -> None:
    """Judge one shown grant that the vault does not hold. What was erased comes back by a new login alone."""
    before = {**_EMPTY, **(tombstone or {})}
    verdict = judge(_as_held(before) if tombstone else None, shown, now)
    if verdict.stale:
        tally.stale += 1
    elif not (verdict.access or verdict.refresh):
        tally.unchanged += 1
    else:
        tally.new += 1
        writes.inserts.append(_taken(vault, grant, shown, verdict, before, now) | _identity(grant.key))


def _weigh(
    vault: Vault,
    grant: ShownGrant,
    shown: Shown,
    row: Mapping[str, Any],
    now: datetime,
    writes: _Writes,
    tally: Tally,
) -> None:
    """Judge one shown grant that the vault holds, and note down what to write for it."""
    verdict = judge(_as_held(row), shown, now)
    if verdict.stale:
        tally.stale += 1
        return
    if verdict.access or verdict.refresh:
        tally.changed += 1
        writes.updates.append(_taken(vault, grant, shown, verdict, row, now) | {"row_id": row["id"]})
        if row["awaited"]:
            writes.awaited.append(row["id"])
        return
    tally.unchanged += 1
    seen = _seen(grant, shown, row)
    if any(row[name] != value for name, value in seen.items()):
        writes.touches.append(seen | {"row_id": row["id"]})


def _as_held(row: Mapping[str, Any]) -> Held:
    return Held(
        shown_access=row["shown_access"],
        shown_refresh=row["shown_refresh"],
        shown_updated_at=row["shown_updated_at"],
        has_access=row["has_access"],
        expires_at=row["expires_at"],
        obtained_at=row["obtained_at"],
        renewable=row["state"] in ("active", "in_doubt"),
        from_auth0=row["obtained_from"] == "auth0",
    )


_EMPTY: Mapping[str, Any] = dict.fromkeys(_TAKEN) | {
    "access_version": 0, "refresh_version": 0, "attempts": 0, "awaited": False, "has_access": False, "has_refresh": False,
    "state": "unrenewable", "reason": "no_refresh_token", "obtained_from": "auth0",
}  # fmt: skip


def _identity(key: GrantKey) -> dict[str, Any]:
    return {
        "tenant": key.tenant,
        "connection": key.connection,
        "user_id": key.user_id,
        "provider_user_id": key.provider_user_id,
    }


def _seen(grant: ShownGrant, shown: Shown, row: Mapping[str, Any]) -> dict[str, Any]:
    """What Auth0 showed, kept where it now shows nothing: the same token shown again later is no news."""
    return {
        "shown_access": shown.access or row["shown_access"],
        "shown_refresh": shown.refresh or row["shown_refresh"],
        "shown_updated_at": shown.updated_at or row["shown_updated_at"],
        "user_created_at": grant.user_created_at or row["user_created_at"],
    }


def _taken(
    vault: Vault, grant: ShownGrant, shown: Shown, verdict: Verdict, row: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Build the row's new columns. Keys of ``_TAKEN`` that are absent here stay as they are."""
    columns = {name: row[name] for name in _TAKEN if name in row} | _seen(grant, shown, row)
    pair = grant.pair
    if verdict.access and pair.access:
        version = row["access_version"] + 1
        columns |= {
            "access_sealed": vault.access.seal(Place.of_grant(grant.key, "access", version), pair.access),
            "access_version": version,
            "expires_at": pair.expires_at,
            "obtained_at": grant.issued_at,
            "obtained_from": "auth0",
            "scopes": list(pair.scopes) if pair.scopes is not None else row["scopes"],
        }
    if verdict.refresh and pair.refresh:
        version = row["refresh_version"] + 1
        columns |= {
            "refresh_sealed": vault.refresh.seal(Place.of_grant(grant.key, "refresh", version), pair.refresh),
            "refresh_version": version,
            "refresh_expires_at": pair.refresh_expires_at,
        }
    if columns["state"] == "erased":  # a new login after it is new consent
        columns |= {"state": _EMPTY["state"], "reason": _EMPTY["reason"], "reason_since": None}
    if verdict.refresh or (grant.exchangeable and verdict.access):
        columns |= {
            "state": "active", "reason": None, "reason_since": None, "doubt_since": None, "attempts": 0,
            "last_error": None,
            # A claim on the token that is replaced is void: whatever it brings is older than this login.
            "claim_owner": None, "claim_began": None, "claim_until": None, "awaited": False,
        }  # fmt: skip
    if columns["state"] in ("active", "in_doubt") and columns["claim_owner"] is None:
        has_access = verdict.access or bool(row.get("has_access"))
        columns["due_at"] = (
            due.after_sync(
                columns["expires_at"], columns["obtained_at"], now, random.random(),  # noqa: S311  # jitter
                grant.upkeep, row.get("last_read_at"),
            )
            if has_access or grant.upkeep.sleeps(row.get("last_read_at"), now)
            else now
        )  # fmt: skip
    return columns


# A grant's connection gets a row even where Auth0 has not shown the connection itself. In one order, so that two
# syncs of the same new grants wait for each other and never in a circle.
_INSERT = text("""
WITH new AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new(
        strategy text, tenant text, connection text, user_id text, provider_user_id text, state text, reason text,
        access_sealed text, access_version bigint, refresh_sealed text, refresh_version bigint, expires_at timestamptz,
        refresh_expires_at timestamptz, scopes text[], obtained_at timestamptz, obtained_from text, shown_access text,
        shown_refresh text, shown_updated_at timestamptz, user_created_at timestamptz, due_at timestamptz)
), stubs AS (
    INSERT INTO connections (tenant, name, strategy, problem, problem_message)
    SELECT DISTINCT ON (tenant, connection) tenant, connection, strategy, 'not_shown',
        format('Auth0 has shown users of connection %s but not the connection itself: its client credentials are '
            'unknown. Run `token-vault sync`.', connection)
    FROM new ORDER BY tenant, connection
    ON CONFLICT DO NOTHING
)
INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, reason, access_sealed, access_version,
    refresh_sealed, refresh_version, expires_at, refresh_expires_at, scopes, obtained_at, obtained_from,
    shown_access, shown_refresh, shown_updated_at, user_created_at, due_at)
SELECT tenant, connection, user_id, provider_user_id, state, reason, convert_to(access_sealed, 'UTF8'), access_version,
    convert_to(refresh_sealed, 'UTF8'), refresh_version, expires_at, refresh_expires_at, scopes, obtained_at, obtained_from,
    decode(shown_access, 'hex'), decode(shown_refresh, 'hex'), shown_updated_at, user_created_at, due_at
FROM new ORDER BY user_id, connection, tenant, provider_user_id
ON CONFLICT DO NOTHING
RETURNING tenant, connection, user_id, provider_user_id
""")
_INSERTED = (
    "tenant", "connection", "user_id", "provider_user_id", "state", "reason", "access_sealed", "access_version",
    "refresh_sealed", "refresh_version", "expires_at", "refresh_expires_at", "scopes", "obtained_at",
    "obtained_from", *_SEEN, "due_at",
)  # fmt: skip


def _plain(name: str, value: object) -> object:
    """A column's value in JSON: ciphertexts are text already, fingerprints go as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.decode() if name.endswith("_sealed") else value.hex()
    return value.isoformat() if isinstance(value, datetime) else value


async def _insert(
    connection: AsyncConnection, inserts: list[dict[str, Any]], unknown: list[_Seen]
) -> set[GrantKey]:
    """Insert new grants; returns the keys that another sync has inserted at the same time."""
    strategies = {grant.key: grant.strategy for grant, _ in unknown}
    rows = [
        {name: _plain(name, columns[name]) for name in _INSERTED} | {"strategy": strategies[_key(columns)]}
        for columns in inserts
    ]
    inserted = (await connection.execute(_INSERT, {"rows": json.dumps(rows)})).mappings()
    return set(strategies) - {_key(dict(row)) for row in inserted}


async def _update(connection: AsyncConnection, writes: _Writes) -> None:
    for columns in writes.updates:
        row_id = columns.pop("row_id")
        await connection.execute(update(GrantRow).where(GrantRow.id == row_id).values(columns))
    if writes.touches:
        await connection.execute(
            update(GrantRow.__table__)  # type: ignore[arg-type]
            .where(GrantRow.id == bindparam("row_id"))
            .values({name: bindparam(name) for name in _SEEN}),
            writes.touches,
        )
    for row_id in writes.awaited:
        await notify(connection, row_id)


_NOTE_SIGHT = text("""
UPDATE grants g SET
    shown_updated_at = greatest(g.shown_updated_at, shown.updated_at),
    user_created_at = coalesce(shown.created_at, g.user_created_at)
FROM unnest(CAST(:users AS text[]), CAST(:connections AS text[]), CAST(:subjects AS text[]),
    CAST(:changed AS timestamptz[]), CAST(:made AS timestamptz[]))
    AS shown(user_id, connection, provider_user_id, updated_at, created_at)
WHERE g.tenant = :tenant AND shown.user_id = g.user_id AND shown.connection = g.connection
    AND shown.provider_user_id = g.provider_user_id AND (coalesce(g.shown_updated_at, '-infinity') < shown.updated_at
        OR coalesce(shown.created_at, g.user_created_at) IS DISTINCT FROM g.user_created_at)
""")


async def note_sight(vault: Vault, seen: Sequence[tuple[GrantKey, datetime, datetime | None]]) -> None:
    """Note up to when identities of one tenant were seen that Auth0 shows without tokens; what is held is kept.

    Args:
        seen: each with the ``updated_at`` and ``created_at`` of its user, as asked for by id.
    """
    if not seen:
        return
    values = {
        "tenant": seen[0][0].tenant,
        "users": [key.user_id for key, _, _ in seen],
        "connections": [key.connection for key, _, _ in seen],
        "subjects": [key.provider_user_id for key, _, _ in seen],
        "changed": [updated_at for _, updated_at, _ in seen],
        "made": [created_at for _, _, created_at in seen],
    }
    await vault.run(_NOTE_SIGHT, values)


_NOTE_READ = text("""
UPDATE grants SET last_read_at = :now,
    due_at = CASE WHEN state = 'active' AND claim_owner IS NULL AND attempts = 0 THEN least(due_at, :due_at) ELSE due_at END
WHERE id = :id AND (last_read_at IS NULL OR last_read_at < :noted)
""")


async def note_read(vault: Vault, grant_id: int, *, now: datetime, due_at: datetime) -> None:
    """Note that a grant is read, at most once in ``due.READ_NOTICE``, and wake it.

    Args:
        due_at: when it is due that is kept fresh from now on.
    """
    values = {"id": grant_id, "now": now, "noted": now - due.READ_NOTICE, "due_at": due_at}
    await vault.run(_NOTE_READ, values)


async def notify(connection: AsyncConnection, grant_id: int) -> None:
    """Wake whoever waits for this grant, when the transaction commits."""
    await connection.execute(select(func.pg_notify(CHANNEL, str(grant_id))))
