"""The base of the readers for threads and for asyncio."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self, get_args

from token_vault.cache_checks import CacheChecks
from token_vault.environment import ReaderEnvironment, split_keys
from token_vault.fork_safety import begin_in_each_process
from token_vault.keyring import KeyRing
from token_vault.postgres_address import PostgresAddress
from token_vault.read_flow import ReadFlow
from token_vault.read_records import AuditMode, ReadRecorder, counted_reads
from token_vault.secret import Secret
from token_vault.token import Token
from token_vault.token_cache import TokenCache
from token_vault.transport_security import require_tls

DEFAULT_WAIT_SECONDS = 5.0

# While no worker handles its note, a reader notes the same grant again only after this time.
NOTE_INTERVAL_SECONDS = 60.0
# Bounds the memory of notes: beyond it all are forgotten, and some grants are noted twice.
MAX_NOTED_GRANTS = 10_000


class Reader:
    """The base of both readers; each adds its I/O.

    Args:
        database_url: of the vault.
        access_keys: the access ring, newest first; or one string, as ``VAULT_ACCESS_KEYS`` has it.
        tenant: the tenant's name, where the vault has several.
        audit: ``batched`` records reads in the background; ``strict`` hands out no token before its read is
            recorded; ``off`` is for programs that record reads themselves.
        direct_url: Postgres' own address, if ``database_url`` names a pooler, which passes on no wakeups.
        cache: serve tokens from memory that were read recently; changes take effect within a second.

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
        # The arguments are rebound, so that no traceback shows their plain values.
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
        """Reset all state; called again in each forked process."""
        self._recorder = ReadRecorder(self._address)
        self._checks: CacheChecks | None = None
        # Set where a cached token may be returned without the flow: the cache counts the read, or it needs no record.
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
        """Create a reader from ``DATABASE_URL`` and ``VAULT_ACCESS_KEYS``.

        ``DATABASE_DIRECT_URL`` is Postgres' own address, if ``DATABASE_URL`` names a pooler.
        Without ``DATABASE_URL``, the reader uses the vault that runs under ``TOKEN_VAULT_HOME``.

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
        """Drop a token from the cache, because it was replaced.

        Without a cache it does nothing.
        """
        if self._flow.cache is not None and token.grant_id is not None:
            self._flow.cache.forget(token.grant_id)

    def _is_counted(self, request_id: str | None, reason: str | None) -> bool:
        """Whether a cached read needs no record of its own."""
        return self._audit == "off" or request_id is reason is None

    def _is_to_be_noted(self, grant_id: int) -> bool:
        """Whether this reader did not note the grant recently.

        A note costs a round trip, and the row keeps asking for one until a worker has handled it.
        """
        now = time.monotonic()
        if now - self._noted.get(grant_id, -NOTE_INTERVAL_SECONDS) < NOTE_INTERVAL_SECONDS:
            return False
        if len(self._noted) >= MAX_NOTED_GRANTS:
            self._noted.clear()
        self._noted[grant_id] = now
        return True


def _secret(value: str | Secret) -> Secret:
    return value if isinstance(value, Secret) else Secret(value)
