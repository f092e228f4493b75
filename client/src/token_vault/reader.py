"""The base of both readers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self, get_args

from token_vault.cache_checks import CacheChecks
from token_vault.environment import ReaderEnvironment, split_keys
from token_vault.fork_safety import begin_in_each_process
from token_vault.keyring import KeyRing
from token_vault.postgres_address import PostgresAddress
from token_vault.read_flow import ReadFlow, TokenQuery
from token_vault.read_records import AuditMode, ReadRecorder, counted_reads
from token_vault.secret import Secret
from token_vault.token import Token
from token_vault.token_cache import TokenCache
from token_vault.token_target import DEFAULT_TARGET, TokenTarget
from token_vault.transport_security import require_tls

DEFAULT_WAIT_SECONDS = 5.0

# A read is noted once in this time by one reader, while no worker takes the note.
NOTE_INTERVAL_SECONDS = 60.0
# Grants whose notes are remembered; then all are forgotten, which costs some notes twice.
MAX_NOTED_GRANTS = 10_000


class Reader:
    """The base of both readers; they add the I/O.

    Args:
        database_url: of the vault.
        access_keys: the access ring, newest first; or one string, as ``VAULT_ACCESS_KEYS`` has it.
        tenant: the tenant's name, where the vault has several.
        audit: ``batched`` records reads in the background; ``strict`` hands out no token before its read is
            recorded; ``off`` is for who records reads itself.
        direct_url: of the vault without a pooler; wakeups come over it alone.
        cache: serve tokens from memory that were read a moment ago; each change is seen within a second.

    Raises:
        ConfigurationError: the address cannot be read, there is no key, or one is not a Fernet key.
    """

    def __init__(
        self,
        database_url: str | Secret,
        access_keys: str | Secret | Sequence[str | Secret],
        *,
        tenant: str | None = None,
        audit: AuditMode = "batched",
        direct_url: str | Secret | None = None,
        cache: bool = False,
    ) -> None:
        if audit not in get_args(AuditMode):
            raise ValueError(f"audit is one of {', '.join(get_args(AuditMode))}")
        # Rebound, so that no traceback from here on shows them.
        self._address = PostgresAddress.parse(database_url := _secret(database_url))
        require_tls(self._address)
        self._direct = self._address
        if direct_url is not None:
            direct_url = _secret(direct_url)
            self._direct = PostgresAddress.parse(direct_url, "DATABASE_DIRECT_URL")
            require_tls(self._direct)
        if isinstance(access_keys, str | Secret):
            access_keys = split_keys(_secret(access_keys).reveal())
        access_keys = keys = [_secret(key) for key in access_keys]
        self._flow = ReadFlow(KeyRing("access", keys), tenant)
        self._noted: dict[int, float] = {}
        self._audit = audit
        self._caches = cache
        begin_in_each_process(self)

    def begin(self) -> None:
        """Open nothing yet; called again in each forked process."""
        self._recorder = ReadRecorder(self._address)
        self._checks: CacheChecks | None = None
        # The cache, where reads of it are counted or need no record.
        self._fast: TokenCache | None = None
        if self._caches:
            counts = self._audit == "batched"
            self._checks = CacheChecks(self._address, counts=counts)
            self._flow.cache = cache = self._checks.cache
            self._fast = None if self._audit == "strict" else cache
            if counts:
                self._recorder.collect = lambda: counted_reads(cache)

    @classmethod
    def from_env(
        cls, *, tenant: str | None = None, audit: AuditMode = "batched", cache: bool = False
    ) -> Self:
        """Make a reader from ``DATABASE_URL`` and ``VAULT_ACCESS_KEYS``.

        ``DATABASE_DIRECT_URL`` leads past a pooler, where there is one.
        Without ``DATABASE_URL`` it reads the vault that runs under ``TOKEN_VAULT_HOME``.

        Raises:
            ConfigurationError: a variable is missing or wrong.
        """
        found = ReaderEnvironment.read()
        return cls(
            found.database_url,
            found.access_keys,
            tenant=tenant,
            audit=audit,
            direct_url=found.direct_url,
            cache=cache,
        )

    def _close_checks(self) -> None:
        if self._checks is not None:
            self._checks.close()

    def forget(self, token: Token) -> None:
        """Read a token anew: somebody has had it replaced.

        Of no effect without a cache.
        """
        if self._flow.cache is not None and token.grant_id is not None:
            self._flow.cache.forget(token.grant_id)

    def _is_counted(self, request_id: str | None, reason: str | None) -> bool:
        """Whether a cached read needs no record of its own."""
        return self._audit == "off" or request_id is reason is None

    def _is_to_be_noted(self, grant_id: int) -> bool:
        """Whether this reader has not noted the grant lately.

        A note costs a round trip, and nothing changes at once.
        """
        now = time.monotonic()
        if now - self._noted.get(grant_id, -NOTE_INTERVAL_SECONDS) < NOTE_INTERVAL_SECONDS:
            return False
        if len(self._noted) >= MAX_NOTED_GRANTS:
            self._noted.clear()
        self._noted[grant_id] = now
        return True


def user_query(
    user_id: str,
    connection: str,
    account: str | None,
    min_ttl: float | None,
    wait: float,
    needs: Sequence[str] = (),
    target: TokenTarget = DEFAULT_TARGET,
    request_id: str | None = None,
    reason: str | None = None,
) -> TokenQuery:
    """Check what an app asks for of a user.

    Raises:
        TypeError, ValueError: the caller's mistake; Postgres would be blamed for it.
    """
    _check_names(user_id=user_id, connection=connection)
    if account is not None:
        _check_names(account=account)
    _check_texts(request_id, reason)
    return TokenQuery(
        user_id, connection, account, min_ttl, wait, _checked_scopes(needs), target, request_id, reason
    )


def admin_query(
    connection: str,
    min_ttl: float | None,
    wait: float,
    needs: Sequence[str] = (),
    target: TokenTarget = DEFAULT_TARGET,
    request_id: str | None = None,
    reason: str | None = None,
) -> TokenQuery:
    """Check what an app asks for of an admin.

    Raises as ``user_query``.
    """
    _check_names(connection=connection)
    _check_texts(request_id, reason)
    return TokenQuery("", connection, None, min_ttl, wait, _checked_scopes(needs), target, request_id, reason)


def _checked_scopes(needs: Sequence[str]) -> tuple[str, ...]:
    if isinstance(needs, str):
        raise TypeError("needs is a sequence of scopes: (scope,)")
    return tuple(needs)


def _check_texts(*texts: object) -> None:
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError("request_id and reason are strings")


def _check_names(**names: object) -> None:
    for argument, value in names.items():
        if not isinstance(value, str):
            raise TypeError(f"user_id, connection and account are strings, and {argument} is not")
        if not value:  # an empty user id names the admin grant in the tables: no mistake may ask for that one
            raise ValueError(f"{argument} is empty")


def _secret(value: str | Secret) -> Secret:
    return value if isinstance(value, Secret) else Secret(value)
