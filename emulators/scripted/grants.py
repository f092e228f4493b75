"""A scripted provider's policy, clients, grants and requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from emulators.scripted.request import ClientAuthentication
from emulators.scripted.shape import Trouble

ClientState = Literal["active", "disabled", "deleted"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a provider treats tokens.

    Attributes:
        rotates: a new refresh token with each renewal; the presented one is spent.
        grace: seconds in which a spent refresh token is still taken.
        grace_answer: within the grace, a "new" pair, or the "same" as was answered before.
        reuse_kills: a spent refresh token after its grace kills the grant.
        access_life: seconds; None: access tokens do not end.
        old_access_dies: a renewal ends earlier access tokens.
        idle_life, hard_life: seconds until a grant dies unused, and in any case.
        client_auth: ways of client authentication that are taken.
    """

    rotates: bool = True
    grace: float = 0.0
    grace_answer: Literal["new", "same"] = "new"
    reuse_kills: bool = False
    access_life: float | None = 3600.0
    old_access_dies: bool = False
    idle_life: float | None = None
    hard_life: float | None = None
    client_auth: frozenset[str] = frozenset({"post", "basic", "basic-raw"})


@dataclass(slots=True, eq=False)
class ScriptedClient:
    """An OAuth client as the provider knows it."""

    client_id: str
    secret: str
    state: ClientState = "active"
    throttled_until: float = 0.0


@dataclass(slots=True, eq=False)
class IssuedPair:
    """An access token, and the refresh token beside it.

    That came with it, or stayed where the provider does not rotate.
    """

    access_token: str
    refresh_token: str | None
    issued_at: float
    ends_at: float | None
    spent_at: float | None = None  # when the refresh token was exchanged for another
    successor: "IssuedPair | None" = None


@dataclass(slots=True, eq=False)
class ScriptedGrant:
    """What one user consented to, as the provider sees it."""

    name: str
    client_id: str
    scopes: tuple[str, ...]
    consented_at: float
    pairs: list[IssuedPair] = field(default_factory=list)
    dead: bool = False
    throttled_until: float = 0.0
    used_at: float = 0.0

    @property
    def access_token(self) -> str:
        """The access token issued last."""
        return self.pairs[-1].access_token

    @property
    def refresh_token(self) -> str:
        """The refresh token that the provider takes."""
        return next(pair.refresh_token for pair in reversed(self.pairs) if pair.refresh_token is not None)


@dataclass(frozen=True, slots=True)
class Presentation:
    """A request to the token endpoint, and its true outcome.

    Attributes:
        grant: its name; None where nobody has that refresh token.
        shape: the name of the answer's shape.
        carried_out: the refresh token was exchanged.
        reused: the refresh token had been spent before.
        issued: the new refresh token, whether or not the caller has got it.
    """

    at: float
    grant: str | None
    refresh_token: str
    client: ClientAuthentication
    headers: Mapping[str, str]
    body: bytes
    shape: str
    trouble: Trouble
    carried_out: bool
    reused: bool
    issued: str | None
