"""Who calls: an application, an API key, a user."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from worker.api.access_tokens import AccessToken, Verifier, refuse
from worker.api.consumers import Consumers
from worker.api.problems import ApiProblem
from worker.consumer_rules import API_KEY_PREFIX, ConsumerRules

READ_SCOPE = "read:idp_tokens"
REFRESH_SCOPE = "refresh:idp_tokens"
PROXY_SCOPE = "proxy:idp"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, its credential verified.

    Attributes:
        consumer: the rules of the application or API key; None for a user, or an unknown application.
        token: its access token; None with an API key.
    """

    consumer: ConsumerRules | None
    token: AccessToken | None = field(default=None)

    def reading(self) -> ConsumerRules:
        """Return the rules of a consumer that may read tokens.

        Raises:
            ApiProblem: ``not-allowed``, in words that say what is missing.
        """
        return self._allowed(READ_SCOPE)

    def refreshing(self) -> ConsumerRules:
        """Return the rules of one that may force refreshes.

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

    def _allowed(self, scope: str) -> ConsumerRules:
        if self.token is not None and not self.token.is_machine:
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
    """Finds out who calls.

    Args:
        consumers: who may read what.
        verifier: of access tokens; None where ``[api]`` has no audience.
    """

    def __init__(self, consumers: Consumers, verifier: Verifier | None) -> None:
        self._consumers = consumers
        self._verifier = verifier

    async def caller(self, request: Request) -> Caller:
        """Verify the credential of a request.

        Raises:
            ApiProblem: ``invalid-token``.
            TemporarilyUnavailable: nobody can tell now.
        """
        credential = _credential(request)
        await self._consumers.load()
        if credential.startswith(API_KEY_PREFIX):
            consumer = self._consumers.of_api_key(credential)
            if consumer is None:
                refuse("no consumer has this API key")
            return Caller(consumer)
        if self._verifier is None:
            refuse("this API takes API keys alone: the operator has set no audience in [api]")
        token = await self._verifier.verify(credential, self._consumers.client_ids)
        if token.thumbprint is not None:
            refuse("this token is bound to a key (DPoP), whose proofs this API does not verify")
        consumer = self._consumers.of_client(token.client_id) if token.client_id else None
        return Caller(consumer, token)


def _credential(request: Request) -> str:
    given = request.headers.getlist("authorization")
    if not given:
        raise ApiProblem(
            "invalid-token",
            "no credential: send Authorization: Bearer with an access token or an API key",
            headers={"WWW-Authenticate": 'Bearer realm="token-vault"'},
        )
    scheme, _, credential = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not credential.strip():
        refuse("the header Authorization has to be one: Bearer and the credential")
    return credential.strip()
