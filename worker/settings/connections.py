"""The operator's settings of providers and connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, model_validator

from worker.settings.checks import EndpointUrl, Headers, SecretHeaders
from worker.settings.section import SecretField, Section

Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86_400, allow_inf_nan=False)]


class RenewalPolicySettings(Section):
    """How grants are kept fresh: always, or when read.

    Attributes:
        read_window: seconds. Under ``on-read`` a grant is kept fresh for so long after a read.
        keep_alive: seconds. A refresh token is used at the latest so long after its last use.
    """

    renew: Literal["eager", "on-read"] | None = None
    # Reads are noted twice a day at the most: a shorter window could close between two notes.
    read_window: Annotated[float, Field(ge=86_400, le=10 * 365 * 86_400, allow_inf_nan=False)] | None = None
    keep_alive: Seconds | None = None


class ErrorWordSettings(Section):
    """A provider's own error words, by who has to act.

    Attributes:
        user: the grant is dead.
        operator: the client is refused.
        wait: nobody has to act.
        in_doubt: the request may have been carried out.
    """

    user: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    wait: tuple[str, ...] = ()
    in_doubt: tuple[str, ...] = ()


ClientAuthName = Literal[
    "post", "basic", "basic-raw", "none", "client_secret_post", "client_secret_basic", "private_key_jwt"
]


class ProviderSettings(RenewalPolicySettings):
    """The operator's settings of a provider.

    They correct a built-in declaration, or make a new generic one.

    Attributes:
        rotates: whether a renewal ends the refresh token that it spent.
        grace: seconds for which a spent refresh token still works.
        idle_life: seconds that a refresh token lives unused.
        absolute_life: seconds that it lives at most.
        margin: seconds before a token's end at which it is renewed.
        expires_unit: the unit of ``expires_in``.
        lists_addresses: whether it accepts refresh tokens only from addresses of ``egress``.
        default_life: seconds that an access token lives if the answer does not say.
        token_url, refresh_url, client_auth, method, json_body, headers, grant_type, sends, token_parameter, parameter_names,
            extra, within, access_token, refresh_token, prolongs, expires_in, scope_separator, keeps,
            refresh_end_is_hard, error_names, error_words: as ``Provider`` describes them.
    """

    rotates: bool | None = None
    grace: Annotated[float, Field(ge=0, le=10 * 365 * 86_400, allow_inf_nan=False)] | None = None
    idle_life: Seconds | None = None
    absolute_life: Seconds | None = None
    margin: Seconds | None = None
    expires_unit: Literal["seconds", "milliseconds", "absolute"] | None = None
    default_life: Seconds | None = None
    lists_addresses: bool | None = None

    token_url: EndpointUrl | None = None
    refresh_url: EndpointUrl | None = None
    client_auth: ClientAuthName | None = None
    method: Literal["POST", "GET"] | None = None
    json_body: bool | None = None
    headers: Headers | None = Field(default=None, repr=False)
    grant_type: str | None = None
    sends: Literal["refresh_token", "access_token", "nothing"] | None = None
    token_parameter: str | None = None
    parameter_names: Mapping[str, str] | None = None
    extra: Mapping[str, str] | None = Field(default=None, repr=False)

    within: tuple[str, ...] | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    prolongs: Mapping[str, str] | None = None
    expires_in: str | None = None
    scope_separator: str | None = Field(default=None, min_length=1)
    keeps: Annotated[tuple[str, ...], Field(max_length=16)] | None = None
    refresh_end_is_hard: bool | None = None
    error_names: tuple[str, ...] | None = None
    error_words: ErrorWordSettings | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.keep_alive and self.idle_life and self.keep_alive >= self.idle_life:
            raise ValueError("keep_alive must be shorter than idle_life, or the refresh token dies before")
        if self.grace and self.rotates is False:
            raise ValueError("grace has no meaning where rotates is false: a refresh token outlives its use")
        return self


class ConnectionSettings(RenewalPolicySettings):
    """The operator's settings of a connection.

    Each overrides what Auth0 shows.

    Attributes:
        client_secret: with ``basic`` an empty one is sent as an empty password.
        client_key: signs the assertions of ``private_key_jwt``; PEM.
        client_key_id: the key's id at the provider.
        client_certificate: of that key, in PEM: Microsoft Entra ID wants its thumbprint.
        client_assertion_audience: ``aud`` of the assertions; by default the provider's token endpoint.
        client_assertion_issuer: ``iss`` of the assertions; by default ``client_id``.
        headers: further headers of each token request.
        resources: patterns of the resources and scopes that readers may ask tokens for, besides the connection's own.
            None for any that the user has consented to.
        egress: the addresses from which its tokens may be sent. None for those of the whole file, if the provider lists
            addresses.
    """

    tenant: str | None = None
    provider: str | None = None
    token_url: EndpointUrl | None = None
    client_id: str | None = None
    client_secret: SecretField | None = None
    client_auth: ClientAuthName | None = None
    client_key: SecretField | None = None
    client_key_id: str | None = None
    client_certificate: str | None = None
    client_assertion_audience: str | None = None
    client_assertion_issuer: str | None = None
    scope: str | None = None
    redirect_uri: str | None = None
    revocation_url: EndpointUrl | None = None
    extra: Mapping[str, str] = Field(default_factory=dict, repr=False)
    headers: SecretHeaders = Field(default_factory=dict)
    resources: tuple[str, ...] | None = None
    egress: tuple[IPvAnyNetwork, ...] | None = None
