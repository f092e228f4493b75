"""Issuing, renewing and revoking the tokens of every provider."""

import secrets
from itertools import islice
from typing import Any

from emulators.clock import Clock
from emulators.idp import views
from emulators.idp.behaviour import Behaviour
from emulators.idp.tokens import AccessToken, Client, Grant, Identity, RefreshToken, Refused


class Issuer:
    """Issues, renews and revokes the tokens of every provider."""

    def __init__(self, clock: Clock, history: int = 5000) -> None:
        self._clock = clock
        self.history = history  # pairs remembered per grant
        self.clients: dict[tuple[str, str], Client] = {}
        self.double_spends = 0
        self._grants: dict[str, Grant] = {}
        self._by_identity: dict[Identity, list[Grant]] = {}
        self._by_refresh: dict[str, tuple[Grant, RefreshToken]] = {}
        self._by_access: dict[str, tuple[Grant, AccessToken]] = {}

    def login(
        self,
        behaviour: Behaviour,
        client: Client,
        identity: Identity,
        *,
        refresh: bool,
        life: float | None,
        at: float | None = None,
    ) -> tuple[Grant, AccessToken]:
        """Begin a new family, as a login with consent does."""
        grant = Grant(
            f"g{len(self._grants) + 1}", client.provider, client.client_id, identity, behaviour.scope
        )
        self._remember(grant)
        at = self._clock.now() if at is None else at
        first = self._new_refresh(behaviour, grant, at) if refresh and behaviour.issues_refresh else None
        return grant, self._new_access(behaviour, grant, first, at, life)

    def another_access(self, behaviour: Behaviour, grant: Grant, life: float | None) -> AccessToken:
        """Issue another access token, as a silent login does.

        It belongs to a family that exists.
        """
        current = grant.refresh[-1] if grant.refresh else None
        return self._new_access(behaviour, grant, current, self._clock.now(), life)

    def redeem(
        self, behaviour: Behaviour, provider: str, client_id: str, token: str
    ) -> tuple[Grant, AccessToken] | Refused:
        """Exchange a refresh token by the provider's rules.

        These are rotation, grace and reuse.
        """
        grant, presented = self._by_refresh.get(token, (None, None))
        if grant is None or presented is None or (grant.provider, grant.client_id) != (provider, client_id):
            return Refused("unknown")
        now = self._clock.now()
        presented.presented += 1
        presented.presented_at.append(now)
        self.double_spends += presented.spent_at is not None
        if presented.revoked:
            return Refused("revoked")
        if presented.spent_at is not None:
            if now - presented.spent_at >= behaviour.grace:
                return self._reused(behaviour, grant)
            if behaviour.grace_answer == "same" and presented.successor is not None:
                following = presented.successor.refresh
                if following is not None and following.spent_at is None:
                    return grant, presented.successor
                return self._reused(behaviour, grant)
        idle = behaviour.refresh_idle_life
        if idle is not None and now - presented.used_at >= idle:
            return Refused("expired")
        presented.used_at = now
        return grant, self._renew(behaviour, grant, presented, now)

    def exchange(
        self, behaviour: Behaviour, provider: str, client_id: str, token: str
    ) -> tuple[Grant, AccessToken] | Refused:
        """Exchange a live access token for a longer-lived one.

        This is how Facebook does it.
        """
        grant, current = self._by_access.get(token, (None, None))
        if grant is None or current is None or (grant.provider, grant.client_id) != (provider, client_id):
            return Refused("unknown")
        now = self._clock.now()
        if not current.live(now):
            return Refused("revoked" if current.revoked else "expired")
        return grant, self._new_access(behaviour, grant, None, now, behaviour.access_life)

    def grant_of(self, refresh_token: str) -> Grant | None:
        """Find a refresh token's family, dead or alive."""
        found = self._by_refresh.get(refresh_token)
        return None if found is None else found[0]

    def revoke(self, provider: str, client_id: str, token: str) -> Grant | Refused | None:
        """End a token's family for its client (RFC 7009, 2.1).

        None where no token is known by that name.
        """
        grant, _ = self._by_refresh.get(token) or self._by_access.get(token) or (None, None)
        if grant is None:
            return None
        if (grant.provider, grant.client_id) != (provider, client_id):
            return Refused("unknown")
        grant.revocations.append(self._clock.now())
        grant.revoke()
        return grant

    def families(self, after: int, count: int) -> dict[str, Any]:
        """List families from the `after`th on.

        Each with its refresh tokens' lives; `next` is None at the end.
        """
        now = self._clock.now()
        page = list(islice(self._grants.values(), after, after + count))
        following = after + count if after + count < len(self._grants) else None
        return {"families": [views.family(grant, now) for grant in page], "next": following}

    def find_access(self, token: str) -> tuple[Grant, AccessToken] | None:
        """Find an access token, dead or alive."""
        return self._by_access.get(token)

    def grants(self, identity: Identity) -> list[Grant]:
        """List the families of one identity, the oldest first."""
        return self._by_identity.get(identity, [])

    def ledger(self, identity: Identity) -> list[dict[str, Any]]:
        """List an identity's pairs, oldest first, as digests."""
        now = self._clock.now()
        pairs = [(grant, access) for grant in self.grants(identity) for access in grant.access]
        return [
            views.entry(grant, access, now) for grant, access in sorted(pairs, key=lambda p: p[1].issued_at)
        ]

    def live(self, identity: Identity) -> dict[str, str | None]:
        """Give the newest live tokens in plain text.

        These are `access_token` and `refresh_token`.
        """
        now = self._clock.now()
        access = [a for grant in self.grants(identity) for a in grant.access if a.live(now)]
        refresh = [
            r
            for grant in self.grants(identity)
            for r in grant.refresh
            if not r.revoked and r.spent_at is None
        ]
        access.sort(key=lambda token: token.issued_at)  # stable: of one instant the last issued stays last
        refresh.sort(key=lambda token: token.issued_at)
        return {
            "access_token": access[-1].value if access else None,
            "refresh_token": refresh[-1].value if refresh else None,
        }

    def newest(self, identity: Identity) -> tuple[str | None, str | None]:
        """Give the newest tokens, dead or alive, in plain text."""
        grants = self.grants(identity)[::-1]  # of one instant the family begun last counts
        access = max((each for grant in grants for each in grant.access[-1:]), key=_issued, default=None)
        refresh = max((each for grant in grants for each in grant.refresh[-1:]), key=_issued, default=None)
        return None if access is None else access.value, None if refresh is None else refresh.value

    def dump(self) -> list[dict[str, Any]]:
        """Write all families for the state file."""
        return [views.dump(grant) for grant in self._grants.values()]

    def load(self, grants: list[dict[str, Any]]) -> None:
        """Read what `dump` wrote.

        Raises KeyError, TypeError or ValueError when it is something else.
        """
        for raw in grants:
            grant = views.load(raw)
            self._remember(grant)
            self._by_refresh.update({token.value: (grant, token) for token in grant.refresh})
            self._by_access.update({token.value: (grant, token) for token in grant.access})

    def _remember(self, grant: Grant) -> None:
        self._grants[grant.id] = grant
        self._by_identity.setdefault(grant.identity, []).append(grant)

    def _reused(self, behaviour: Behaviour, grant: Grant) -> Refused:
        if behaviour.reuse_revokes_family:
            grant.revoke()
        return Refused("reused")

    def _renew(self, behaviour: Behaviour, grant: Grant, old: RefreshToken, now: float) -> AccessToken:
        if behaviour.old_access_dies:
            for access in reversed(grant.access):
                if access.revoked:
                    break  # the earlier ones died when this one did
                access.revoked = True
        following = old
        if behaviour.rotates:
            following = self._new_refresh(behaviour, grant, now)
        renewed = self._new_access(behaviour, grant, following, now, behaviour.access_life)
        if behaviour.rotates and behaviour.old_refresh_dies and old.spent_at is None:
            old.spent_at, old.successor = now, renewed
        return renewed

    def _new_refresh(self, behaviour: Behaviour, grant: Grant, at: float) -> RefreshToken:
        token = RefreshToken(behaviour.refresh_prefix + secrets.token_urlsafe(32), at, at)
        grant.refresh.append(token)
        self._by_refresh[token.value] = (grant, token)
        return token

    def _new_access(
        self, behaviour: Behaviour, grant: Grant, refresh: RefreshToken | None, at: float, life: float | None
    ) -> AccessToken:
        value = behaviour.access_prefix + secrets.token_urlsafe(48)
        token = AccessToken(value, at, None if life is None else at + life, refresh)
        grant.access.append(token)
        self._by_access[value] = (grant, token)
        if len(grant.access) > self.history:
            self._forget(grant)
        return token

    def _forget(self, grant: Grant) -> None:
        half = self.history // 2
        for access in grant.access[:-half]:
            del self._by_access[access.value]
        grant.access = grant.access[-half:]
        needed = {id(access.refresh) for access in grant.access}
        kept = [r for r in grant.refresh if id(r) in needed or (r.spent_at is None and not r.revoked)]
        for refresh in grant.refresh:
            if refresh not in kept:
                del self._by_refresh[refresh.value]
        grant.refresh = kept


def _issued(token: AccessToken | RefreshToken) -> float:
    return token.issued_at
