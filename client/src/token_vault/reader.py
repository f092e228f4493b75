"""What a reader judges and opens, whichever way it waits for the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from token_vault import environment
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import (
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    TokenNotFound,
)
from token_vault.fork_safety import begin_in_each_process
from token_vault.keyring import KeyRing
from token_vault.read_model import GrantStatus, Served, choose
from token_vault.refresh_request import Asking
from token_vault.secret import Secret
from token_vault.token import Token


class Reader:
    """The base of both readers; they add what waits: for rows, and to be told."""

    def __init__(
        self,
        database_url: str | Secret,
        access_keys: Sequence[str | Secret],
        *,
        redis_url: Secret | None = None,
        tenant: str | None = None,
    ) -> None:
        self._database_url = _secret(database_url)
        self._redis_url = redis_url
        self._ring = KeyRing("access", [_secret(key) for key in access_keys])
        self._asking: Asking | None = None
        self._tenant = tenant
        begin_in_each_process(self)

    def begin(self) -> None:
        """Begin with nothing open; called once more in each forked process."""
        self._asking = Asking(self._redis_url) if self._redis_url else None

    @classmethod
    def from_env(cls, *, tenant: str | None = None) -> Self:
        """Make a reader from ``DATABASE_URL``, ``VAULT_ACCESS_KEYS`` and, for on-demand refresh, ``REDIS_URL``.

        Without ``DATABASE_URL`` it reads the vault that runs under ``TOKEN_VAULT_HOME``.

        Raises:
            ConfigurationError: a variable is missing or wrong.
        """
        found = environment.ReaderEnvironment.read()
        return cls(found.database_url, found.access_keys, redis_url=found.redis_url, tenant=tenant)

    def _pick(self, rows: Sequence[tuple[object, ...]], user_id: str, connection: str) -> Served:
        served = choose(
            [row for row in map(Served._make, rows) if self._tenant in (None, row.tenant)], user_id
        )
        if served is None or served.state == "erased":
            who = f"user {user_id}" if user_id else "the admin"
            where = f" in tenant {self._tenant}" if self._tenant else ""
            raise TokenNotFound(f"the vault has no token of {who} for connection {connection}{where}")
        return served

    def _open(self, served: Served) -> Token:
        if served.access_ciphertext is None:
            raise TokenNotFound(f"the vault has no access token of {served.key}")
        place = EncryptionContext.of_grant(served.key, "access", served.access_version)
        scopes = None if served.scopes is None else tuple(served.scopes)
        return Token(self._ring.decrypt(place, served.access_ciphertext).reveal(), served.expires_at, scopes)

    def _stand(self, served: Served, standing: GrantStatus | None, min_ttl: float | None) -> Token | None:
        """Judge a token that is not fresh: hand it out all the same, or None where a refresh may help.

        Raises:
            ReauthorizationRequired, TokenExpired, TemporarilyUnavailable: a refresh cannot help now.
        """
        state = standing.state if standing else "erased"
        if state == "reauthorization_required":
            raise ReauthorizationRequired(served.reason or "unknown", served.reason_since)
        if state in ("unrenewable", "expired"):
            if served.expires_at is None and served.access_ciphertext is not None:
                return self._open(served)  # of unknown age, and nobody can renew it
            raise TokenExpired(
                f"the token of {served.key} ends too soon and cannot be renewed "
                f"({standing.reason if standing else state})"
            )
        if state == "erased":
            raise TokenNotFound(f"the vault has no token of {served.key}")
        if state == "blocked" and standing is not None:
            raise TemporarilyUnavailable(
                f"connection {served.connection} is blocked ({standing.reason}): the operator has to mend it",
                standing.seconds_blocked,
            )
        life = served.expires_at - served.obtained_at if served.expires_at and served.obtained_at else None
        renewed = served.obtained_from == "renewal"
        if renewed and min_ttl is not None and life is not None and life.total_seconds() <= min_ttl:
            raise TokenExpired(
                f"tokens of connection {served.connection} live {life.total_seconds():.0f} s, "
                f"less than the {min_ttl:.0f} s asked for: ask for less"
            )
        return None

    @staticmethod
    def _is_over(served: Served, standing: GrantStatus | None) -> bool:
        """Whether a refresh that ended was ours: not one for somebody whom the token at hand suited."""
        return standing is None or standing.attempts > 0 or not served.is_fresh(None)

    def _note(self, served: Served) -> None:
        if self._asking is not None and served.wants_notice:
            self._asking.note_read(served)

    def _asker(self, served: Served) -> Asking:
        if self._asking is None:
            raise TemporarilyUnavailable(
                f"the token of {served.key} is not fresh, and without REDIS_URL no refresh can be asked for",
                5,
            )
        return self._asking

    @staticmethod
    def _late(served: Served, standing: GrantStatus | None) -> TemporarilyUnavailable:
        return TemporarilyUnavailable(
            f"no fresh token of {served.key} came in time", standing.seconds_to_retry if standing else 5
        )


def _secret(value: str | Secret) -> Secret:
    return value if isinstance(value, Secret) else Secret(value)
