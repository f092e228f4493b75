"""The vault's status, for ``token-vault status`` and dashboards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import text

from worker.vault import location, pauses
from worker.vault.db.sql import load
from worker.vault.vault import Vault

_GRANTS = load(__file__, "grants_by_state")


_LATE = load(__file__, "late")


_CONNECTIONS = load(__file__, "connections")


_LAST_RUNS = text("""
SELECT run.* FROM unnest(CAST(:tenants AS text[])) AS named (tenant) CROSS JOIN LATERAL (
    SELECT tenant, scope, started_at, finished_at, seen, new, changed, unchanged, stale, gone, failed, resumed, notes, error
    FROM sync_runs WHERE tenant = named.tenant AND scope = :scope ORDER BY started_at DESC LIMIT 1
) run ORDER BY run.tenant
""")


_RENEWALS = text("""
SELECT outcome, sum(count)::bigint AS last_hour,
    coalesce(sum(count) FILTER (WHERE minute = date_trunc('minute', now()) - interval '1 minute'), 0)::bigint AS last_minute
FROM renewal_counts WHERE tenant = ANY(:tenants) AND minute > now() - interval '1 hour' GROUP BY outcome ORDER BY outcome
""")


_EVENTS = text("""
SELECT count(*) FILTER (WHERE d.state = 'pending') AS undelivered, count(*) FILTER (WHERE d.state = 'failed') AS failed
FROM deliveries d JOIN outbox e ON e.id = d.event_id WHERE d.state <> 'delivered' AND e.tenant = ANY(:tenants)
""")


_CONSENTS = load(__file__, "consents_by_week")


async def count_ending_consents(vault: Vault, tenants: Sequence[str]) -> list[dict[str, Any]]:
    """Count ending consents by week and connection."""
    async with vault.engine.connect() as connection:
        return [
            dict(row) for row in (await connection.execute(_CONSENTS, {"tenants": list(tenants)})).mappings()
        ]


async def load_status(vault: Vault, tenants: Sequence[str]) -> dict[str, Any]:
    """Return the vault's status, by topic.

    It says whether the vault may be a copy, and its database read-only; what is paused; grants by state; connections;
    each tenant's last full sync and last sync of changes; renewals, how late they are, and what holds due ones back;
    events. A renewable access token that has ended counts as ended, whatever its grant's state.
    """
    values = {"tenants": list(tenants)}
    paused = [asdict(pause) for pause in await pauses.list_pauses(vault, tenants)]
    copy, read_only = await vault.location_difference(), await vault.is_read_only()
    async with vault.engine.connect() as connection:
        grants = await connection.execute(_GRANTS, values)
        connections = await connection.execute(_CONNECTIONS, values)
        full = await connection.execute(_LAST_RUNS, values | {"scope": "all"})
        changes = await connection.execute(_LAST_RUNS, values | {"scope": "changes"})
        renewals = await connection.execute(_RENEWALS, values)
        due = (await connection.execute(_LATE, values)).mappings().one()
        events = await connection.execute(_EVENTS, values)
        return {
            "copy": copy and location.describe(copy),
            "read_only": read_only,
            "pauses": paused,
            "grants": {state: count for state, count in grants},  # noqa: C416  # rows are not pairs to dict()
            "connections": _connections([dict(row) for row in connections.mappings()]),
            "last_sync": [dict(row) for row in full.mappings()],
            "last_changes": [dict(row) for row in changes.mappings()],
            "renewals": _renewals([dict(row) for row in renewals.mappings()]),
            "late": {name: due[name] for name in ("grants", "behind")},
            "held_back": {why: due[why] for why in ("away", "blocked", "paused") if due[why]},
            "events": dict(events.mappings().one()),
        }


def _connections(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        columns = dict(row)
        state, count, expiry = columns.pop("state"), columns.pop("grants"), columns.pop("next_expiry")
        lacking = columns.pop("without_access_token") or 0
        connection = found.setdefault(
            (row["tenant"], row["name"]),
            columns | {"grants": {}, "next_expiry": None, "without_access_token": 0},
        )
        connection["without_access_token"] += lacking
        if state is not None:
            connection["grants"][state] = count
        if expiry is not None and (connection["next_expiry"] is None or expiry < connection["next_expiry"]):
            connection["next_expiry"] = expiry
    return list(found.values())


def _renewals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    per_minute: Counter[str] = Counter({row["outcome"]: row["last_minute"] for row in rows})
    last_hour: Counter[str] = Counter({row["outcome"]: row["last_hour"] for row in rows})
    return {
        "per_minute": per_minute["renewed"],
        "last_minute": dict(+per_minute),
        "last_hour": dict(+last_hour),
    }
