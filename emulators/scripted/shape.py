"""A kind of answer, with the truth behind it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, Literal

from emulators.scripted.script import Script

Json = dict[str, Any]


class Trouble(StrEnum):
    """Who has to act, in truth, whatever the answer says."""

    NONE = "none"  # the grant was renewed
    USER = "user"  # the grant is dead: consent again
    OPERATOR = "operator"  # the client is wrong: its users' grants live
    NOBODY = "nobody"  # it passes


@dataclass(frozen=True, slots=True)
class Exchange:
    """What an answer may tell.

    Attributes:
        now: seconds since the epoch.
        access_token, refresh_token: the new pair; no new refresh token where the provider does not rotate.
        presented: the refresh token of the request.
        life: of the access token in seconds; None: it does not end.
        idle_life, hard_life: seconds until the consent ends unused, and in any case; None: no such end.
        random: for what no caller may rely on; the same for the same seed.
    """

    now: float
    access_token: str
    refresh_token: str | None
    presented: str
    client_id: str
    life: float | None
    scopes: tuple[str, ...]
    idle_life: float | None
    hard_life: float | None
    random: Random


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of answer.

    Attributes:
        name: unique in the library.
        trouble: who has to act, in truth.
        carried_out: the provider has exchanged the refresh token, whether or not the answer says so.
        source: whose answer it is, and where it is told of.
        write: makes the answer.
        omits: what of the new pair a reader need not find in it: "access_token", "refresh_token", "end".
        access_token: what the access token is made of.
    """

    name: str
    trouble: Trouble
    carried_out: bool
    source: str
    write: Callable[[Exchange], Script]
    omits: frozenset[str] = frozenset()
    access_token: Literal["opaque", "jwt"] = "opaque"

    @property
    def in_doubt(self) -> bool:
        """Whether the exchange was carried out, unknown to the caller."""
        return self.trouble is Trouble.NOBODY and self.carried_out


def collect(*shapes: Shape) -> dict[str, Shape]:
    """Make a part of the library.

    Raises ValueError for a name that is there twice.
    """
    named = {shape.name: shape for shape in shapes}
    if len(named) != len(shapes):
        raise ValueError("two shapes have one name")
    return named
