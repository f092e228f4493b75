"""The rows that a reader reads, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import AmbiguousAccount, ConfigurationError
from token_vault.freshness import READ_NOTE_INTERVAL, default_min_ttl
from token_vault.grant_key import GrantKey
from token_vault.token_target import DEFAULT_TARGET, TokenTarget

# The channel that announces the end of a refresh on demand; the payload is the grant's id.
CHANNEL = "token_vault_grants"

# The columns that a cached token depends on: a change of any other does not make it outdated. Two different rows have
# the same hash with probability 2^-64.
_HASH = """hash_record_extended(ROW(s.id, s.tenant, s.connection, s.user_id, s.provider_user_id, s.state, s.reason,
    s.reason_since, s.access_ciphertext IS NULL, s.access_version, s.expires_at, s.scopes, s.obtained_at,
    s.obtained_from, s.extra_ciphertext), 0)"""
_HASH_TARGET = """hash_record_extended(ROW(s.id, s.tenant, s.connection, s.user_id, s.provider_user_id, s.state,
    s.extra_ciphertext, r.ciphertext IS NULL, r.version, r.expires_at, r.scopes, r.obtained_at), 0)"""

# The columns of ``served_tokens`` in the order of ``Served``, and the database's time, as the reader's clock may be
# wrong.
_SERVED = """
SELECT s.id, s.tenant, s.connection, s.user_id, s.provider_user_id, s.state, s.reason, s.reason_since,
    s.access_ciphertext, s.access_version, s.expires_at, s.scopes, s.obtained_at, s.obtained_from, s.last_read_at,
    s.extra_ciphertext, now(), '', '', NULL, NULL, NULL, {hash}
FROM served_tokens s
"""
_BY_USER = "WHERE s.user_id = %s AND s.connection = %s"
SELECT_SERVED = f"{_SERVED.format(hash='NULL')} {_BY_USER}"
SELECT_SERVED_HASHED = f"{_SERVED.format(hash=_HASH)} {_BY_USER}"
SELECT_GRANT = f"{_SERVED.format(hash='NULL')} WHERE s.id = %s"

# The same for a token for another resource or other scopes, its first two parameters; there may be no such token yet.
# Postgres does not push a join's condition into a view with a security barrier, so a plain join reads all grants.
# OFFSET 0 keeps the subquery lateral, and the condition a parameter of it.
_JOIN_TARGET = """
LEFT JOIN LATERAL (
    SELECT * FROM served_resource_tokens
    WHERE grant_id = s.id AND resource = target.resource AND scope = target.scope OFFSET 0) AS r ON true
"""
_SERVED_TARGET = f"""
SELECT s.id, s.tenant, s.connection, s.user_id, s.provider_user_id, s.state, s.reason, s.reason_since, r.ciphertext,
    coalesce(r.version, 0), r.expires_at, r.scopes, r.obtained_at, 'renewal', s.last_read_at,
    s.extra_ciphertext, now(),
    target.resource, target.scope, r.refusal, r.refusal_blame, r.refused_at, {{hash}}
FROM served_tokens s CROSS JOIN (VALUES (%s::text, %s::text)) AS target(resource, scope) {_JOIN_TARGET}
"""  # noqa: S608  # our own columns
SELECT_SERVED_TARGET = f"{_SERVED_TARGET.format(hash='NULL')} {_BY_USER}"
SELECT_SERVED_TARGET_HASHED = f"{_SERVED_TARGET.format(hash=_HASH_TARGET)} {_BY_USER}"
SELECT_GRANT_TARGET = f"{_SERVED_TARGET.format(hash='NULL')} WHERE s.id = %s"

# The current hashes of many rows, NULL where a row is gone, and the database's time in Unix seconds.
HASH_SERVED = f"""
SELECT asked.number, s.hash, extract(epoch FROM now())::float8
FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS asked(number, user_id, connection)
LEFT JOIN LATERAL (
    SELECT {_HASH} AS hash FROM served_tokens s
    WHERE s.user_id = asked.user_id AND s.connection = asked.connection OFFSET 0) AS s ON true
"""  # noqa: S608  # our own columns
HASH_SERVED_TARGETS = f"""
SELECT target.number, s.hash, extract(epoch FROM now())::float8
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])
    AS target(number, user_id, connection, resource, scope)
LEFT JOIN LATERAL (
    SELECT {_HASH_TARGET} AS hash FROM served_tokens s {_JOIN_TARGET}
    WHERE s.user_id = target.user_id AND s.connection = target.connection OFFSET 0) AS s ON true
"""  # noqa: S608  # our own columns

SELECT_CONNECTIONS = """
SELECT DISTINCT connection FROM served_tokens
WHERE user_id = %(user_id)s AND state <> 'erased' AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s) ORDER BY connection
"""

# The status of a grant whose token is not fresh, including problems of its connection.
SELECT_STATUS = """
SELECT state, reason, coalesce(extract(epoch FROM blocked_until - now()), 0)::float8,
    coalesce(extract(epoch FROM next_renewal_at - now()), 0)::float8, attempts, coalesce(in_flight_until > now(), false)
FROM token_status WHERE id = %s
"""

# Requests a refresh; parameters: the grant's id, the life wanted and the wait, both in seconds. A reader needs EXECUTE
# on it, besides SELECT on both views.
# The commit does not wait for the disk: if a crash of Postgres loses the request, the next read makes it again.
REQUEST_REFRESH = """
SELECT request_refresh(%s::bigint, %s::float8, %s::float8), set_config('synchronous_commit', 'off', true)
"""

# Reports that an API refused a token; parameters: the grant's id and the version of its access token. A reader needs
# EXECUTE on it.
REPORT_REJECTED = "SELECT report_rejected(%s::bigint, %s::bigint)"

# As REQUEST_REFRESH for a target; its resource and scope are the last parameters.
REQUEST_REFRESH_TARGET = """
SELECT request_refresh(%s::bigint, %s::float8, %s::float8, %s::text, %s::text),
    set_config('synchronous_commit', 'off', true)
"""

# Appended to one of the statements above; parameters: the app's request id and traceparent, for the workers' log and
# traces.
OF_REQUEST = """ FROM set_config('token_vault.request_id', %s::text, true) AS named,
    set_config('token_vault.traceparent', %s::text, true) AS traced"""

# After a provider refused a target, no token for it is requested for this long.
REFUSAL_SECONDS = 60.0


class GrantStatus(NamedTuple):
    """The status of a grant.

    Attributes:
        state, reason: as in ``token_status``.
        blocked_for: seconds until its connection's circuit allows a call, or a pause ends; 0 if neither is known.
        next_renewal_in: seconds until the next renewal is due.
        attempts: failed renewals in a row.
        in_flight: whether a renewal is under way.
    """

    state: str
    reason: str | None
    blocked_for: float
    next_renewal_in: float
    attempts: int
    in_flight: bool

    @property
    def must_wait(self) -> bool:
        """Whether no refresh can come now.

        The last one failed, or the provider has an outage.
        """
        backs_off = self.attempts > 0 and self.next_renewal_in > 0
        return not self.in_flight and (backs_off or self.blocked_for > 0)

    @property
    def seconds_blocked(self) -> float:
        """Seconds for which the connection's circuit stays open at least."""
        return max(1.0, self.blocked_for)

    @property
    def seconds_to_retry(self) -> float:
        """Seconds until the next renewal, a minute at the most."""
        return min(max(1.0, self.next_renewal_in), 60.0)


class Served(NamedTuple):
    """One row of ``served_tokens``, the token still encrypted."""

    id: int
    tenant: str
    connection: str
    user_id: str
    provider_user_id: str
    state: str
    reason: str | None
    reason_since: datetime | None
    access_ciphertext: bytes | None
    access_version: int
    expires_at: datetime | None
    scopes: list[str] | None
    obtained_at: datetime | None
    obtained_from: str
    last_read_at: datetime | None
    extra_ciphertext: bytes | None
    now: datetime
    resource: str
    scope: str
    refusal: str | None
    refusal_blame: str | None
    refused_at: datetime | None
    row_hash: int | None  # selected for a cache only

    @property
    def key(self) -> GrantKey:
        """The grant's natural key."""
        return GrantKey(self.tenant, self.connection, self.user_id, self.provider_user_id)

    @property
    def target(self) -> TokenTarget:
        """What the token is for."""
        if not (self.resource or self.scope):
            return DEFAULT_TARGET
        return TokenTarget(self.resource, self.scope)

    @property
    def context(self) -> EncryptionContext:
        """The encryption context of the access token."""
        if self.target.is_default:
            return EncryptionContext.of_access_token(self.key, self.access_version, self.expires_at)
        return EncryptionContext.of_resource_token(
            self.key, self.target, self.access_version, self.expires_at
        )

    @property
    def is_refused(self) -> bool:
        """Whether the provider has just refused this target."""
        return self.refused_at is not None and (self.now - self.refused_at).total_seconds() < REFUSAL_SECONDS

    @property
    def wants_note(self) -> bool:
        """Whether this read has to be noted.

        True where the grant is renewed on read, and the last note is old.
        """
        return self.last_read_at is not None and self.now - self.last_read_at > READ_NOTE_INTERVAL

    def is_fresh(self, min_ttl: float | None, now: datetime | None = None) -> bool:
        """Whether the token may be handed out.

        Args:
            min_ttl: seconds of life that the token must have left; None for the life that timely renewal leaves.
            now: the database's time by default.
        """
        if self.access_ciphertext is None or self.state == "erased":
            return False
        if self.expires_at is None:
            if min_ttl is not None and min_ttl > 0:
                return False  # its end is unknown
            # Its end is unknown. It is served if it came from the provider itself or cannot be renewed. One that came
            # from Auth0 may be old, so it is renewed first. One of a dead grant would be served without end, so it is not.
            renewed = self.obtained_from == "renewal" and self.state != "reauthorization_required"
            return renewed or self.state == "unrenewable"
        if min_ttl is None:
            min_ttl = default_min_ttl(self.expires_at, self.obtained_at).total_seconds()
        # A token that has ended is not fresh, even for a negative min_ttl.
        return (self.expires_at - (now or self.now)).total_seconds() > max(min_ttl, 0)


def choose(found: Sequence[Served], user_id: str, account: str | None = None) -> Served | None:
    """Pick the grant that is meant.

    A user may have several identities of one connection.

    Args:
        found: the grants of one user and connection.
        user_id: Auth0's user id; it ends with the account of the primary identity.
        account: the user's id at the provider; None for the primary identity, or the only one.

    Raises:
        AmbiguousAccount: several are left, and none of them is the primary identity.
        ConfigurationError: several tenants have this user, and none was named.
    """
    left = [served for served in found if served.state != "erased"]
    if account is not None:
        left = [served for served in left if served.provider_user_id == account]
    if len({served.tenant for served in left}) > 1:
        raise ConfigurationError(
            "several tenants have this user and connection: name the tenant, by TokenVault(…, tenant=…) or --tenant"
        )
    if len(left) > 1:
        accounts = sorted(served.provider_user_id for served in left)
        left = [served for served in left if user_id.endswith(f"|{served.provider_user_id}")]
        if len(left) != 1:
            raise AmbiguousAccount(accounts)
    return left[0] if left else None
