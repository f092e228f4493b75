"""What goes wrong at a provider over days, by seed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random

from emulators.scripted.invented_shapes import invent
from emulators.scripted.provider import ScriptedProvider
from emulators.scripted.shape import Shape, Trouble
from emulators.scripted.transient_shapes import (
    BROKEN_CONNECTION_SHAPES,
    IN_DOUBT_SHAPES,
    THROTTLED_SHAPES,
    UNAVAILABLE_SHAPES,
)

INCIDENTS = (
    "death",  # a grant dies
    "consent",  # a user consents again: a new pair, which the caller has to be given
    "passing_answer",  # one answer of one grant passes
    "lost_answer",  # one request of one grant is carried out, and its answer is lost
    "throttled_grant",
    "throttled_client",
    "outage",  # the provider is away
    "disabled_client",  # for a while
    "changed_secret",  # for a while: the provider takes another one
)
LONGEST_SECONDS = {
    "throttled_grant": 3600.0,
    "throttled_client": 1800.0,
    "outage": 4 * 3600.0,
    "disabled_client": 12 * 3600.0,
    "changed_secret": 12 * 3600.0,
}
PASSING_SHAPES = [
    *THROTTLED_SHAPES.values(),
    *UNAVAILABLE_SHAPES.values(),
    *BROKEN_CONNECTION_SHAPES.values(),
]
LOST_SHAPES = [shape for shape in IN_DOUBT_SHAPES.values() if shape.name != "hanging"]  # it needs real time
INVENTED_SHARE = 0.3  # of passing answers


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that goes wrong.

    Attributes:
        at: seconds since the epoch.
        kind: one of `INCIDENTS`.
        subject: the grant or client; "" where it is the provider itself.
        seconds: how long it lasts, if it passes.
        shape: of the answer, for one that is queued.
    """

    at: float
    kind: str
    subject: str = ""
    seconds: float = 0.0
    shape: Shape | None = None


class Incidents:
    """A provider's troubles in a stretch of time, the same for the same seed.

    Args:
        provider: with all its clients and grants.
        seconds: the length of the stretch, from the provider's present time on.
        counts: how many of each kind; none of a kind that is not named.
        spared: grants that nothing happens to alone.
    """

    def __init__(
        self,
        provider: ScriptedProvider,
        seconds: float,
        counts: Mapping[str, int],
        *,
        seed: int,
        spared: Collection[str] = (),
    ) -> None:
        if unknown := set(counts) - set(INCIDENTS):
            raise ValueError(f"no incident is called {', '.join(sorted(unknown))}")
        self._provider = provider
        self._random = Random(seed)
        self._start, self._seconds = provider.clock.now(), seconds
        self._grants = sorted(set(provider.grants) - set(spared))
        made = [self._make(kind) for kind in INCIDENTS for _ in range(counts.get(kind, 0))]
        self.pending = sorted(made, key=lambda incident: incident.at)
        self._restored: list[tuple[float, str, str]] = []  # when, client id, secret

    def apply(self) -> list[Incident]:
        """Let happen what is due by the provider's clock, and give it."""
        now = self._provider.clock.now()
        due = [incident for incident in self.pending if incident.at <= now]
        self.pending = self.pending[len(due) :]
        for incident in due:
            self._happen(incident)
        for restored in [each for each in self._restored if each[0] <= now]:
            self._restored.remove(restored)
            self._restore(*restored[1:])
        return due

    @property
    def next_at(self) -> float | None:
        """When something happens or passes next; None: nothing does any more."""
        moments = [incident.at for incident in self.pending[:1]] + [at for at, _, _ in self._restored]
        return min(moments, default=None)

    def _make(self, kind: str) -> Incident:
        at = self._start + self._random.random() * self._seconds
        seconds = self._random.random() * LONGEST_SECONDS.get(kind, 0.0)
        match kind:
            case "outage":
                return Incident(at, kind, seconds=seconds)
            case "throttled_client" | "disabled_client" | "changed_secret":
                return Incident(at, kind, self._random.choice(sorted(self._provider.clients)), seconds)
            case "passing_answer":
                invented = self._random.random() < INVENTED_SHARE
                known = self._random.choice(PASSING_SHAPES)
                shape = invent(Trouble.NOBODY, self._random) if invented else known
                return Incident(at, kind, self._random.choice(self._grants), shape=shape)
            case "lost_answer":
                shape = self._random.choice(LOST_SHAPES)
                return Incident(at, kind, self._random.choice(self._grants), shape=shape)
            case _:
                return Incident(at, kind, self._random.choice(self._grants), seconds)

    def _happen(self, incident: Incident) -> None:
        provider, subject, seconds = self._provider, incident.subject, incident.seconds
        match incident.kind:
            case "death":
                provider.kill(subject)
            case "consent":
                former = provider.grants[subject]
                provider.add_grant(subject, former.client_id, scopes=former.scopes)
            case "throttled_grant":
                provider.throttle(subject, seconds)
            case "throttled_client":
                provider.throttle_client(subject, seconds)
            case "outage":
                provider.take_out_of_service(seconds)
            case "passing_answer" | "lost_answer" if incident.shape is not None:
                provider.queue(incident.shape, grant=subject)
            case _:
                self._break_client(incident)

    def _break_client(self, incident: Incident) -> None:
        client = self._provider.clients[incident.subject]
        if any(client_id == client.client_id for _, client_id, _ in self._restored):
            return  # it is broken already
        self._restored.append((incident.at + incident.seconds, client.client_id, client.secret))
        if incident.kind == "disabled_client":
            client.state = "disabled"
        else:
            client.secret = f"changed-{self._random.getrandbits(64):016x}"

    def _restore(self, client_id: str, secret: str) -> None:
        client = self._provider.clients[client_id]
        client.state, client.secret = "active", secret
