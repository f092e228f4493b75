"""``token-vault keys``: the vault's encryption keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json
from worker.plural import pluralize

if TYPE_CHECKING:
    from token_vault.keyring import KeyRing, RingName
    from token_vault.secret import Secret
    from worker.vault.claims.spool import Spool
    from worker.vault.rotation.rotate import RotationStats

app = typer.Typer(help="The vault's encryption keys.", no_args_is_help=True)


class Ring(StrEnum):
    """Which ring a key is for."""

    ACCESS = "access"
    REFRESH = "refresh"


@app.command()
def generate(
    ring: Annotated[Ring | None, typer.Option(help="Print the bare key for one ring.")] = None,
    as_json: Json = False,
) -> int:
    """Make new keys for both rings, as environment variables.

    They are printed here and kept nowhere.
    """
    from token_vault.keyring import VARIABLES, KeyRing

    made: dict[str, str] = {name: KeyRing.generate().reveal() for name in VARIABLES if ring in (None, name)}
    if as_json:
        output.print_json(made)
    elif ring is not None:
        output.print_line(made[ring])
    else:
        for name, key in made.items():
            output.print_line(f"VAULT_{name.upper()}_KEYS={key}")
    return ExitCode.OK


@app.command()
def status(as_json: Json = False) -> int:
    """Count what each key of each ring has encrypted.

    Covers the vault and this machine's spool.

    Every ciphertext is opened for it, as none names its key. Exits 1 where one does not open.
    """
    from worker.vault.rotation import rotate as rotating

    environment.configure_log()
    with _at_hand() as (url, rings, spool), output.progress_bar("ciphertexts") as bar:
        stats = rotating.inspect(url, rings, spool, bar)
    ok = not any(column.undecryptable for column in stats)
    _show(stats, rings, ok=ok, as_json=as_json, reencrypted=None)
    return ExitCode.OK if ok else ExitCode.FAILED


@app.command()
def rotate(as_json: Json = False) -> int:
    """Encrypt everything under the first key of its ring.

    Safe beside running workers and readers, once all of them have the new key in their rings. Where it is killed,
    run it again. Exits 0 when every ciphertext is under the first key of its ring, and older keys may go.
    """
    from worker.vault.rotation import rotate as rotating

    environment.configure_log()
    with _at_hand() as (url, rings, spool):
        with output.progress_bar("ciphertexts") as bar:
            stats = rotating.rotate(url, rings, spool, bar)
        reencrypted = {(column.ring, column.content): column.reencrypted for column in stats}
        if any(reencrypted.values()):
            # Meanwhile a worker may have encrypted rows that were passed already, under its own first key.
            with output.progress_bar("looking once more") as bar:
                stats = rotating.inspect(url, rings, spool, bar)
    ok = all(_is_settled(ring, _of_ring(stats, name)) for name, ring in rings.items())
    _show(stats, rings, ok=ok, as_json=as_json, reencrypted=reencrypted)
    return ExitCode.OK if ok else ExitCode.FAILED


def _of_ring(stats: Sequence[RotationStats], name: RingName) -> list[RotationStats]:
    return [column for column in stats if column.ring == name]


def _is_settled(ring: KeyRing, stats: Sequence[RotationStats]) -> bool:
    """Whether a rotation of this ring is complete."""
    from worker.vault.rotation.rotate import are_older_keys_removable

    if len(ring.fingerprints) == 1:
        return not any(column.outdated for column in stats)
    return are_older_keys_removable(stats)


@contextmanager
def _at_hand() -> Iterator[tuple[Secret, dict[RingName, KeyRing], Spool | None]]:
    """Yield the database's address, the rings, and the spool.

    Only rings whose keys are given here; the spool comes with the refresh ring.
    """
    from token_vault.keyring import KeyRing
    from worker.vault.claims.spool import Spool

    settings = environment.load_settings()
    given = {"access": settings.access_keys, "refresh": settings.refresh_keys}
    names = [name for name in environment.RING_NAMES if given[name]] or environment.RING_NAMES
    with environment.running_vault(rings=names) as complete:
        keys = {"access": complete.access_keys, "refresh": complete.refresh_keys}
        rings = {name: KeyRing(name, keys[name]) for name in environment.RING_NAMES if keys[name]}
        spool = Spool(complete.spool, rings["refresh"]) if "refresh" in rings else None
        yield environment.database_url(complete), rings, spool


def _show(
    stats: Sequence[RotationStats],
    rings: dict[RingName, KeyRing],
    *,
    ok: bool,
    as_json: bool,
    reencrypted: dict[tuple[RingName, str], int] | None,
) -> None:
    if as_json:
        output.print_json({"ok": ok} | _document(stats, rings, reencrypted))
        return
    columns = ["ring", "what", "first key", "older keys", "none of the keys"]
    rows = [
        [
            column.ring,
            column.content,
            column.by_key[0],
            _older(column, rings[column.ring]) or 0,
            column.undecryptable,
        ]
        for column in stats
    ]
    if reencrypted is not None:
        columns.insert(2, "re-encrypted")
        for row, column in zip(rows, stats, strict=True):
            row.insert(2, reencrypted[column.ring, column.content])
    output.print_table(columns, rows)
    for name, ring in rings.items():
        output.print_line(_verdict(name, ring, _of_ring(stats, name)))
    for column in stats:
        _name_problems(column)
    for name in environment.RING_NAMES:
        if name not in rings:
            output.print_notice(f"the {name} ring was left alone: VAULT_{name.upper()}_KEYS is not set here")


def _older(column: RotationStats, ring: KeyRing) -> str:
    return ", ".join(
        f"{count} under {ring.fingerprints[position]}"
        for position, count in sorted(column.by_key.items())
        if position and count
    )


def _verdict(name: RingName, ring: KeyRing, stats: Sequence[RotationStats]) -> str:
    """Say whether a ring's older keys may go."""
    variable, first, *older = f"VAULT_{name.upper()}_KEYS", *ring.fingerprints
    outdated = sum(column.outdated for column in stats)
    if not outdated and not _is_settled(ring, stats):
        has_check = any(each.source == "check" and each.by_key[0] for each in stats)
        lacks = "nothing of it but its check" if has_check else "no check row of it"
        return f"{name} ring: keep every key in {variable}: this database holds {lacks}. See that it is the vault's"
    if not outdated:
        said = f"{name} ring: all is under the first key ({first}); "
        return said + (
            f"{', '.join(older)} may be taken out of {variable}" + _ELSEWHERE * (name == "refresh")
            if older
            else "there is no other"
        )
    ciphertexts = pluralize(outdated, "ciphertext is", "ciphertexts are")
    if any(column.undecryptable for column in stats):
        return f"{name} ring: keep every key in {variable}, as {ciphertexts} not under the first ({first})"
    return (
        f"{name} ring: keep the older keys in {variable}: {ciphertexts} not under the first key ({first}). "
        "See that every worker has it first in its ring, then run `token-vault keys rotate`"
    )


_ELSEWHERE = ", once the spools of the workers on other machines are rotated too, or empty"


def _name_problems(column: RotationStats) -> None:
    for problem in column.problems:
        output.print_notice(problem)
    if column.undecryptable > len(column.problems):
        output.print_notice(
            f"… and {column.undecryptable - len(column.problems)} more of the {column.content}"
        )
    if column.undecryptable:
        output.print_notice(
            f"{column.content}: put a key that is missing back at the end of VAULT_{column.ring.upper()}_KEYS and run this "
            f"again; where it is lost, or the ciphertext itself is wrong, {_FIXES[column.content]}"
        )


_FIXES = {
    "check of the ring": "the vault opens for nobody",
    "access tokens": "renewal replaces them; those that cannot be renewed, their users by signing in",
    "access tokens to revoke": "they live until they expire",
    "refresh tokens to revoke": "their users have to end the app's access at the provider",
    "fingerprint key": "the vault opens for nobody",
    "connections' options": "the next sync brings them anew",
    "management tokens": "the next call to Auth0 mints one",
    "refresh tokens": "their users have to sign in again",
    "answers in this machine's spool": "their users have to sign in again",
}


def _document(
    stats: Sequence[RotationStats],
    rings: dict[RingName, KeyRing],
    reencrypted: dict[tuple[RingName, str], int] | None,
) -> dict[str, Any]:
    from worker.vault.rotation.rotate import are_older_keys_removable

    return {
        "rings": {
            name: {
                "keys": list(ring.fingerprints),
                "older_keys_removable": are_older_keys_removable(_of_ring(stats, name)),
            }
            for name, ring in rings.items()
        },
        "left_alone": [name for name in environment.RING_NAMES if name not in rings],
        "ciphertexts": [
            {
                "ring": column.ring,
                "what": column.content,
                "by_key": {key: column.by_key[n] for n, key in enumerate(rings[column.ring].fingerprints)},
                "none": column.undecryptable,
                "problems": column.problems,
            }
            | ({} if reencrypted is None else {"re_encrypted": reencrypted[column.ring, column.content]})
            for column in stats
        ],
    }
