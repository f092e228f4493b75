"""The values that providers take and return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from token_vault.secret import Secret
from worker.token_pair import TokenPair


class ClientAuth(StrEnum):
    """How the client authenticates at the token endpoint.

    Sources: RFC 6749 §2.3, RFC 7523 §2.2.

    Parsing also accepts OpenID Connect's names, e.g. ``client_secret_basic``.
    """

    POST = "post"
    BASIC = "basic"
    BASIC_RAW = "basic-raw"
    """Basic without percent-encoding id and secret, for servers that do not decode them."""
    NONE = "none"
    PRIVATE_KEY_JWT = "private_key_jwt"

    @classmethod
    def _missing_(cls, value: object) -> ClientAuth | None:
        spelled = {"client_secret_post": cls.POST, "client_secret_basic": cls.BASIC}
        return spelled.get(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class ErrorWords:
    """A provider's own error codes and phrases, by blame.

    An entry without blanks is an error code. One with blanks is a phrase, which is searched in the descriptions of an
    error. A phrase takes precedence over a code, as it is more precise, except over a code that says to wait. Case does
    not matter.

    Attributes:
        user: this grant is dead.
        operator: the client is refused.
        wait: nobody has to act; the refresh token was not spent.
        in_doubt: the request may have been executed.
    """

    user: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    wait: tuple[str, ...] = ()
    in_doubt: tuple[str, ...] = ()

    def extended(self, **words: tuple[str, ...]) -> ErrorWords:
        """Return these words, with others that take precedence."""
        return ErrorWords(**{name: (*more, *getattr(self, name)) for name, more in words.items()})

    def by_blame(self) -> tuple[tuple[RefusalBlame, tuple[str, ...]], ...]:
        """Return the words of each blame, the mildest first."""
        return (
            (RefusalBlame.NOBODY, self.wait),
            (RefusalBlame.IN_DOUBT, self.in_doubt),
            (RefusalBlame.OPERATOR, self.operator),
            (RefusalBlame.USER, self.user),
        )


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The key of a client that signs its assertions.

    Attributes:
        private_key: RSA or EC, unencrypted, in PEM.
        certificate: in PEM; its thumbprints are sent in the header, as Microsoft Entra ID requires.
        key_id: the key's id at the provider.
        audience: of the assertions; None for the token endpoint.
        issuer: of the assertions; None for the client's id.
    """

    private_key: Secret
    certificate: str | None = None
    key_id: str | None = None
    audience: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """The operator's settings for a connection; they override Auth0's."""

    provider: str | None = None
    token_url: str | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    client_auth: ClientAuth | None = None
    client_key: ClientKey | None = None
    scope: str | None = None
    redirect_uri: str | None = None
    revocation_url: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, Secret] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Client:
    """A connection's OAuth client at its provider.

    It has everything that a renewal needs besides the token.

    Attributes:
        revocation_url: where tokens of an erased grant are revoked (RFC 7009); None if nowhere.
        extra: further request parameters, e.g. ``scope``, ``resource``, ``redirect_uri``.
        headers: further request headers; an ``Authorization`` among them replaces the secret.
        key: signs the assertions of ``private_key_jwt``.
    """

    provider: str
    token_url: str
    client_id: str
    client_secret: Secret | None
    auth: ClientAuth
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)
    revocation_url: str | None = None
    headers: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    key: ClientKey | None = field(default=None, repr=False)

    @property
    def credentials(self) -> tuple[str | Secret | None, ...]:
        """Return everything that identifies the client, for its fingerprint."""
        pairs = (*sorted(self.extra.items()), *sorted(self.headers.items()))
        key = self.key and (self.key.private_key, self.key.certificate, self.key.key_id, self.key.audience)
        issuer = (self.key.issuer,) if self.key and self.key.issuer else ()
        return (
            *(self.provider, self.token_url, self.client_id, self.client_secret, self.auth),
            *(part for pair in pairs for part in pair),
            *(key or ()),
            *issuer,
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """Why no grant of a connection can be renewed.

    Attributes:
        code: ``development_keys``, ``missing_options``, ``no_token_url``, ``no_client_secret``,
            ``unsupported_strategy``, ``insecure_token_url``, ``unknown_provider`` or ``bad_option``.
        message: what is wrong, where, and who has to fix it.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True, repr=False)
class TokenRequest:
    """One HTTP request to a token endpoint.

    Its repr leaves out query, headers and body, which hold secrets.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None

    def __repr__(self) -> str:
        parts = urlsplit(self.url)
        return f"TokenRequest({self.method} {parts.hostname}{parts.path})"


@dataclass(frozen=True, slots=True)
class Renewed:
    """The provider issued a token, or extended the current one.

    Attributes:
        pair: if ``refresh`` is None, the old one stays in use; if ``access`` is None, there was only a refresh token.
        prolonged: the answer has no token, but extends the current access token to ``pair.expires_at``.
    """

    pair: TokenPair
    prolonged: bool = False


class RefusalBlame(StrEnum):
    """Who has to act after a refusal."""

    USER = "user"
    """The provider's verdict on this grant: the user must consent again."""
    OPERATOR = "operator"
    """The connection's client is refused; its grants are not affected."""
    NOBODY = "nobody"
    """Wait, then try again; the refresh token was not spent."""
    IN_DOUBT = "in_doubt"
    """The request may have been executed, but its outcome is not known."""
    UNKNOWN = "unknown"
    """A refusal with an unknown code: try a few times, then report it to the operator."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider issued no token.

    Attributes:
        code: an error code that is safe to show: at most 64 characters of ``a-z0-9_``.
        retry_after: seconds that the provider asked to wait; None if it did not say.
        spent: whether the refresh token may have been spent.
    """

    blame: RefusalBlame
    code: str
    retry_after: float | None = None
    spent: bool = False
