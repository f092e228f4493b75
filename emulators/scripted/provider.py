"""A provider that answers by script and keeps the truth."""

from collections import Counter, deque
from collections.abc import Iterable
from random import Random
from threading import RLock

import jwt

from emulators.clock import Clock
from emulators.scripted.grants import IssuedPair, Policy, Presentation, ScriptedClient, ScriptedGrant
from emulators.scripted.library import Wording
from emulators.scripted.request import ClientAuthentication, TokenRequest
from emulators.scripted.script import Script, json_answer
from emulators.scripted.shape import Exchange, Shape, Trouble

JWT_KEY = "scripted-provider-signing-key-of-32-bytes"


class ScriptedProvider:
    """One token endpoint.

    Safe to use from several threads, and the same for the same seed.
    An answer is what stands next in the grant's queue, then in the provider's; else the truth of client and grant
    chooses the shape from the wording. A queued shape that exchanges the token waits for one that lives; a queued
    refusal changes nothing of the truth.
    """

    def __init__(
        self,
        name: str = "scripted",
        *,
        clock: Clock | None = None,
        policy: Policy | None = None,
        wording: Wording | None = None,
        seed: int = 1,
    ) -> None:
        self.name = name
        self.clock = clock or Clock()
        self.policy = policy or Policy()
        self.wording = wording or Wording()
        self.clients: dict[str, ScriptedClient] = {}
        self.grants: dict[str, ScriptedGrant] = {}
        self.ledger: list[Presentation] = []
        self.counts: Counter[str] = Counter()  # by shape
        self.out_of_service_until = 0.0
        self._random = Random(seed)
        self._by_refresh: dict[str, tuple[ScriptedGrant, IssuedPair]] = {}
        self._by_access: dict[str, tuple[ScriptedGrant, IssuedPair]] = {}
        self._queue: deque[Shape] = deque()
        self._queues: dict[str, deque[Shape]] = {}
        self._wordings: dict[str, Wording] = {}
        self._lock = RLock()

    # What a test sets

    def add_client(self, client_id: str, secret: str) -> ScriptedClient:
        """Register a client."""
        with self._lock:
            self.clients[client_id] = ScriptedClient(client_id, secret)
            return self.clients[client_id]

    def add_grant(
        self,
        name: str,
        client_id: str,
        *,
        scopes: Iterable[str] = ("read", "write"),
        wording: Wording | None = None,
    ) -> ScriptedGrant:
        """Let a user consent.

        A former consent of that name ends. Gives the grant with its first pair.
        """
        with self._lock:
            now = self.clock.now()
            grant = ScriptedGrant(name, client_id, tuple(scopes), now, used_at=now)
            if wording is not None:
                self._wordings[name] = wording
            self.grants[name] = grant
            self._issue(grant, now, jwt_access=False, new_refresh=True)
            return grant

    def kill(self, name: str) -> None:
        """Let a grant die: its user must consent again."""
        self.grants[name].dead = True

    def throttle(self, name: str, seconds: float) -> None:
        """Throttle one grant."""
        self.grants[name].throttled_until = self.clock.now() + seconds

    def throttle_client(self, client_id: str, seconds: float) -> None:
        """Throttle all grants of one client."""
        self.clients[client_id].throttled_until = self.clock.now() + seconds

    def take_out_of_service(self, seconds: float) -> None:
        """Let the provider be unavailable."""
        self.out_of_service_until = self.clock.now() + seconds

    def queue(self, *shapes: Shape, grant: str | None = None) -> None:
        """Queue shapes for the next requests.

        For those of one grant, or of any.
        """
        with self._lock:
            queue = self._queue if grant is None else self._queues.setdefault(grant, deque())
            queue.extend(shapes)

    # What a test asks

    def alive(self, name: str) -> bool:
        """Whether the provider would still renew a grant.

        For its client, with its newest refresh token.
        """
        return not self._is_dead(self.grants[name], self.clock.now())

    def takes(self, refresh_token: str) -> bool:
        """Whether a refresh token would be exchanged for its client.

        One that was spent is not, after its grace: a caller that holds no other has lost the grant.
        """
        grant, pair = self._by_refresh.get(refresh_token, (None, None))
        client = None if grant is None else self.clients.get(grant.client_id)
        return client is not None and self._redeemable(grant, pair, client, self.clock.now())

    def accepts(self, access_token: str) -> bool:
        """Whether the provider's API takes an access token."""
        grant, pair = self._by_access.get(access_token, (None, None))
        if grant is None or pair is None or grant.dead:
            return False
        replaced = self.policy.old_access_dies and pair is not grant.pairs[-1]
        return not replaced and (pair.ends_at is None or self.clock.now() < pair.ends_at)

    def presentations(self, grant: str | None = None) -> list[Presentation]:
        """List requests, of one grant or all, oldest first."""
        with self._lock:
            return [each for each in self.ledger if grant in (None, each.grant)]

    @property
    def double_spends(self) -> int:
        """Count requests that presented a spent refresh token.

        In its grace or not.
        """
        return sum(each.reused for each in self.presentations())

    # The endpoint

    def answer(self, request: TokenRequest) -> Script:
        """Carry out a token request, and give its answer."""
        with self._lock:
            now = self.clock.now()
            grant, pair = self._by_refresh.get(request.refresh_token, (None, None))
            shape = self._choose(request, grant, pair, now)
            reused = pair is not None and pair.spent_at is not None
            issued = None
            if shape.carried_out and grant is not None and pair is not None:
                issued = self._exchange(grant, pair, shape, now)
                script = shape.write(self._told(grant, issued, request, now))
            else:
                script = shape.write(self._nothing(request, now))
                if reused and self.policy.reuse_kills and grant is not None and shape.trouble is Trouble.USER:
                    grant.dead = True
            self.counts[shape.name] += 1
            self.ledger.append(
                Presentation(
                    now,
                    None if grant is None else grant.name,
                    request.refresh_token,
                    request.client,
                    request.headers,
                    request.body,
                    shape.name,
                    shape.trouble,
                    issued is not None,
                    reused,
                    None if issued is None else issued.refresh_token,
                )
            )
            return script

    def _choose(
        self, request: TokenRequest, grant: ScriptedGrant | None, pair: IssuedPair | None, now: float
    ) -> Shape:
        wording = self.wording if grant is None else self._wordings.get(grant.name, self.wording)
        client = self._authenticated(request.client)
        redeemable = client is not None and self._redeemable(grant, pair, client, now)
        if (queued := self._queued(grant, redeemable)) is not None:
            return queued
        if request.problem is not None:
            return _malformed(request.problem)
        if now < self.out_of_service_until:
            return wording.unavailable
        if client is None:
            return wording.wrong_client
        if now < max(client.throttled_until, 0.0 if grant is None else grant.throttled_until):
            return wording.throttled
        if redeemable:
            return wording.success
        if grant is not None and grant.client_id != client.client_id:
            return wording.other_client
        return wording.dead_grant

    def _queued(self, grant: ScriptedGrant | None, redeemable: bool) -> Shape | None:
        for queue in (self._queues.get(grant.name, deque()) if grant is not None else deque(), self._queue):
            if queue and (redeemable or not queue[0].carried_out):
                return queue.popleft()
        return None

    def _authenticated(self, shown: ClientAuthentication) -> ScriptedClient | None:
        for method, client_id, secret in shown.readings():
            client = self.clients.get(client_id)
            taken = client is not None and client.state == "active" and method in self.policy.client_auth
            if client is not None and taken and (method == "none" or secret == client.secret):
                return client
        return None

    def _is_dead(self, grant: ScriptedGrant, now: float) -> bool:
        policy = self.policy
        idle = policy.idle_life is not None and now - grant.used_at >= policy.idle_life
        over = policy.hard_life is not None and now - grant.consented_at >= policy.hard_life
        return grant.dead or idle or over

    def _redeemable(
        self, grant: ScriptedGrant | None, pair: IssuedPair | None, client: ScriptedClient, now: float
    ) -> bool:
        if grant is None or pair is None or grant.client_id != client.client_id or self._is_dead(grant, now):
            return False
        if self.grants[grant.name] is not grant:
            return False  # the user consented again, and this is the former consent
        if pair.spent_at is None:
            return True
        if now - pair.spent_at >= self.policy.grace:
            return False
        # The same pair is repeated until its refresh token is used.
        return self.policy.grace_answer == "new" or pair.successor is None or pair.successor.spent_at is None

    def _exchange(self, grant: ScriptedGrant, pair: IssuedPair, shape: Shape, now: float) -> IssuedPair:
        grant.used_at = now
        if pair.spent_at is not None and self.policy.grace_answer == "same" and pair.successor is not None:
            return pair.successor
        issued = self._issue(
            grant, now, jwt_access=shape.access_token == "jwt", new_refresh=self.policy.rotates
        )
        if self.policy.rotates and pair.spent_at is None:
            pair.spent_at, pair.successor = now, issued
        return issued

    def _issue(self, grant: ScriptedGrant, now: float, *, jwt_access: bool, new_refresh: bool) -> IssuedPair:
        life = self.policy.access_life
        value = f"at_{self.name}_{self._random.getrandbits(160):040x}"
        if jwt_access:
            claims = {"sub": grant.name, "jti": value, "iat": int(now)}
            end = {} if life is None else {"exp": int(now + life)}
            value = jwt.encode({**claims, **end}, JWT_KEY, algorithm="HS256")
        refresh = f"rt_{self.name}_{self._random.getrandbits(160):040x}" if new_refresh else None
        issued = IssuedPair(value, refresh, now, None if life is None else now + life)
        grant.pairs.append(issued)
        self._by_access[value] = (grant, issued)
        if refresh is not None:
            self._by_refresh[refresh] = (grant, issued)
        return issued

    def _told(self, grant: ScriptedGrant, issued: IssuedPair, request: TokenRequest, now: float) -> Exchange:
        hard = self.policy.hard_life
        return Exchange(
            now=now,
            access_token=issued.access_token,
            refresh_token=issued.refresh_token,
            presented=request.refresh_token,
            client_id=grant.client_id,
            life=None if issued.ends_at is None else issued.ends_at - now,
            scopes=grant.scopes,
            idle_life=self.policy.idle_life,
            hard_life=None if hard is None else grant.consented_at + hard - now,
            random=self._random,
        )

    def _nothing(self, request: TokenRequest, now: float) -> Exchange:
        """What a refusal may tell: nothing of a pair."""
        return Exchange(
            now, "", None, request.refresh_token, request.client.client_id, None, (), None, None, self._random
        )


def _malformed(problem: str) -> Shape:
    return Shape(
        f"malformed_request_{problem}",
        Trouble.OPERATOR,
        carried_out=False,
        source="RFC 6749, 5.2",
        write=lambda _: json_answer({"error": problem}, 400),
    )
