"""Authenticates callers: applications, API keys and users."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from worker.api.access_tokens import AccessToken, Verifier, refuse
from worker.api.consumers import Consumers
from worker.api.dpop import BoundRequest, ProofVerifier, challenge
from worker.api.problems import ApiProblem
from worker.consumer_rules import API_KEY_PREFIX, ConsumerRules

READ_SCOPE = "read:idp_tokens"
REFRESH_SCOPE = "refresh:idp_tokens"
PROXY_SCOPE = "proxy:idp"
# Schemes of the header Authorization, in lower case.
BEARER, DPOP = "bearer", "dpop"

# Names the user for whom an application calls a provider.
USER_HEADER = "x-token-vault-user"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose credential is verified.

    Attributes:
        consumer: the rules of the application or API key. None for a user, and for an application that is no consumer.
        token: its access token. None with an API key.
    """

    consumer: ConsumerRules | None
    token: AccessToken | None = field(default=None)

    def reading(self) -> ConsumerRules:
        """Return its rules, if it may read tokens.

        Raises:
            ApiProblem: ``not-allowed``; it says what is missing.
        """
        return self._allowed(READ_SCOPE)

    def refreshing(self) -> ConsumerRules:
        """Return its rules, if it may force refreshes.

        Raises:
            ApiProblem: ``not-allowed``.
        """
        self._allowed(READ_SCOPE)
        consumer = self._allowed(REFRESH_SCOPE)
        if not consumer.refresh:
            raise ApiProblem("not-allowed", f"the entry [consumers.{consumer.name}] has no refresh = true")
        return consumer

    def user_id(self) -> str:
        """Return the user who calls through a front end.

        Raises:
            ApiProblem: ``not-allowed``.
        """
        if self.token is None or self.token.is_machine:
            raise ApiProblem("not-allowed", "this takes a user's access token, and this is an application's")
        if PROXY_SCOPE not in self.token.scopes:
            raise ApiProblem("not-allowed", f"the token has no scope {PROXY_SCOPE}")
        return self.token.subject

    def proxied_user(self, named: str | None) -> str:
        """Return the user for whom a provider is called.

        Args:
            named: the user whom the caller names. An application must name one, a user must not.

        Raises:
            ApiProblem: ``not-allowed``, or ``bad-request`` if an application names no user.
        """
        if self.is_user:
            if named is not None:
                raise ApiProblem(
                    "not-allowed",
                    f"a user's access token is for that user alone: {USER_HEADER} is for applications",
                )
            return self.user_id()
        consumer = self._allowed(PROXY_SCOPE)
        if not consumer.impersonate:
            raise ApiProblem(
                "not-allowed",
                "the proxy takes a user's access token, and this is an application's: the entry "
                f"[consumers.{consumer.name}] has no impersonate = true",
            )
        if named is None:
            raise ApiProblem("bad-request", f"an application names the user in the header {USER_HEADER}")
        return named

    @property
    def is_user(self) -> bool:
        """Whether a user calls, through a front end."""
        return self.token is not None and not self.token.is_machine

    def _allowed(self, scope: str) -> ConsumerRules:
        if self.is_user:
            raise ApiProblem("not-allowed", "a user's token reads no token: front ends use the proxy")
        if self.consumer is None:
            raise ApiProblem(
                "not-allowed",
                "no entry in [consumers.*] has this application's client_id: the operator adds it",
            )
        if self.token is not None and scope not in self.token.scopes:
            raise ApiProblem("not-allowed", f"the token has no scope {scope}")
        return self.consumer


class Authentication:
    """Authenticates callers.

    Args:
        consumers: which consumers there are, and what each may read.
        verifier: of access tokens. None if ``[api]`` has no audience.
        proofs: verifies proofs of possession (DPoP). None if ``[api]`` has no public_url.
    """

    def __init__(
        self, consumers: Consumers, verifier: Verifier | None, proofs: ProofVerifier | None = None
    ) -> None:
        self._consumers = consumers
        self._verifier = verifier
        self._proofs = proofs

    async def caller(self, request: Request) -> Caller:
        """Verify the credential of a request.

        Raises:
            ApiProblem: ``invalid-token``.
            TemporarilyUnavailable: the consumers or the issuer's keys are not known now.
        """
        scheme, credential = self._credential(request)
        await self._consumers.load()
        if credential.startswith(API_KEY_PREFIX):
            consumer = self._consumers.of_api_key(credential)
            if consumer is None:
                refuse("no consumer has this API key")
            if scheme == DPOP:
                refuse("an API key is bound to no key: send it as Authorization: Bearer")
            return Caller(consumer)
        if self._verifier is None:
            refuse("this API takes API keys alone: the operator has set no audience in [api]")
        token = await self._verifier.verify(credential, self._consumers.client_ids)
        self._check_binding(request, scheme, credential, token)
        consumer = self._consumers.of_client(token.client_id) if token.client_id else None
        return Caller(consumer, token)

    def _check_binding(self, request: Request, scheme: str, credential: str, token: AccessToken) -> None:
        """Verify the proof that a bound token needs.

        Raises:
            ApiProblem: ``invalid-token``.
            TemporarilyUnavailable: too many proofs have to be remembered.
        """
        if token.thumbprint is None:
            if scheme == DPOP:
                refuse("this token is bound to no key: send it as Authorization: Bearer")
            return
        if self._proofs is None:
            refuse(
                "this token is bound to a key (DPoP), whose proofs name this API's URL: the operator sets public_url "
                "in [api]"
            )
        if scheme != DPOP:
            refuse(
                "this token is bound to a key (DPoP): send it as Authorization: DPoP, with a proof in the header DPoP"
            )
        path: bytes = request.scope["raw_path"]
        self._proofs.verify(
            BoundRequest(
                request.headers.getlist("dpop"),
                credential,
                token.thumbprint,
                request.method,
                path.decode("latin-1"),
            )
        )

    def _credential(self, request: Request) -> tuple[str, str]:
        given = [value for name, value in request.scope["headers"] if name == b"authorization"]
        if not given:
            bearer = 'Bearer realm="token-vault"'
            raise ApiProblem(
                "invalid-token",
                "no credential: send Authorization: Bearer with an access token or an API key",
                headers={"WWW-Authenticate": f"{bearer}, {challenge()}" if self._proofs else bearer},
            )
        scheme, _, credential = given[0].decode("latin-1").partition(" ")
        if len(given) > 1 or scheme.lower() not in (BEARER, DPOP) or not credential.strip():
            refuse("the header Authorization has to be one: Bearer, or DPoP, and the credential")
        return scheme.lower(), credential.strip()
