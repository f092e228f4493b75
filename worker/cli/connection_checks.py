"""What ``doctor`` looks at of connections and their renewal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from worker.cli import output
from worker.cli.checks import Check, CheckResult
from worker.cli.status import describe_lateness, describe_missing_access
from worker.plural import pluralize

if TYPE_CHECKING:
    from worker.runtime import Runtime
    from worker.settings import Settings


async def check_connections(runtime: Runtime) -> list[Check]:
    """Name the connections that have a problem.

    Those of the TOML file that Auth0 does not have are among them, and tenants that only the vault has.
    """
    from worker.vault.grants.queries import list_tenants
    from worker.vault.status.status import load_status

    strangers = find_unconfigured(runtime.settings, await list_tenants(runtime.vault))
    known: list[dict[str, Any]] = (await load_status(runtime.vault, runtime.tenants))["connections"]
    if not known:
        return [
            *strangers,
            Check("connections", CheckResult.WARN, "none is known yet: run `token-vault sync`"),
        ]
    said = pluralize(len(known), "is known, and has no problem", "are known, and none has a problem")
    wrong = [*find_unknown(runtime.settings, known), *_wrong(known)]
    return [*strangers, *(wrong or [Check("connections", CheckResult.OK, said)])]


def find_unconfigured(settings: Settings, tenants: Iterable[str]) -> list[Check]:
    """Name tenants of the vault that the settings lack."""
    said = (
        "the vault has grants of it, and it is not configured here: what runs with these settings renews none of its "
        "grants. Configure it again, by this name"
    )
    return [
        Check(f"tenant {name}", CheckResult.WARN, said) for name in tenants if name not in settings.tenants
    ]


def find_unknown(settings: Settings, known: Iterable[Mapping[str, Any]]) -> Iterable[Check]:
    """Name connections of the TOML file that Auth0 lacks.

    Args:
        settings: that name connections.
        known: each connection's tenant, name and problem, as of the last sync.
    """
    from worker.settings.problems import suggest

    there = [row for row in known if row["problem"] != "deleted"]
    for name, configured in settings.connections.items():
        names = {row["name"] for row in there if configured.tenant in (None, row["tenant"])}
        if name not in names:
            where = f"tenant {configured.tenant}" if configured.tenant else "Auth0"
            said = (
                f"is in the TOML file, and {where} had no such connection at the last sync"
                f"{suggest(name, sorted(names)) or '.'} Correct the name, or where it is new run `token-vault sync`"
            )
            yield Check(f"connection {name}", CheckResult.WARN, said)


async def check_renewal(runtime: Runtime) -> list[Check]:
    """Tell how far renewal is behind, and what has ended."""
    from worker.vault.status.status import load_status

    return [judge_renewal(await load_status(runtime.vault, runtime.tenants))]


def judge_renewal(found: Mapping[str, Any]) -> Check:
    """Judge the status of renewal.

    What is held back is no trouble of renewal; the checks of connections and pauses say why it is.
    """
    lateness = describe_lateness(found)
    ended = found["grants"].get("ended", 0)
    tokens = (
        pluralize(ended, "token that could be renewed has", "tokens that could be renewed have") + " ended"
    )
    if found["late"]["grants"]:
        said = (
            f"{lateness}; {tokens}: see that beat runs, a worker takes from renew, and "
            "nothing above is wrong; more workers help where all is well"
        )
        return Check("renewal", CheckResult.WARN, said)
    if found["held_back"]:
        said = f"{lateness}, for reasons that are named above" + (f"; {tokens}" if ended else "")
        return Check("renewal", CheckResult.HINT, said)
    if ended:
        said = (
            f"is on time, and {tokens}: as it should be where tokens are renewed on read; "
            "else `token-vault list --state ended` names them and why"
        )
        return Check("renewal", CheckResult.HINT, said)
    return Check("renewal", CheckResult.OK, "is on time, and no token is past its end")


def _wrong(connections: Iterable[dict[str, Any]]) -> Iterable[Check]:
    """Name the connections whose grants are not renewed.

    Connections that bring no tokens at all are fine.
    """
    for row in connections:
        name = f"connection {row['name']}"
        if row["circuit_blame"] == "nobody":
            yield Check(
                name, CheckResult.WARN,
                f"the provider is away ({row['circuit_code']}) since {output.format_value(row['circuit_opened_at'])}: "
                "it is probed every few minutes, and what waited is renewed when it is back",
            )  # fmt: skip
        elif row["circuit_code"]:
            yield Check(
                name, CheckResult.FAIL,
                f"the provider refuses its client ({row['circuit_code']}) since {output.format_value(row['circuit_opened_at'])}: "
                "correct its client id and secret at Auth0, then run `token-vault sync`; its users need do nothing",
            )  # fmt: skip
        elif row["problem"] and row["grants"]:
            yield Check(name, CheckResult.WARN, row["problem_message"])
        elif row["without_access_token"]:
            yield Check(name, CheckResult.WARN, describe_missing_access(row))
        for note in row["notes"]:
            yield Check(name, CheckResult.WARN, note)
