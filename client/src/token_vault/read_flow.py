"""The decisions of a read, without I/O.

A flow is a generator: it yields a step, and the reader performs it and sends back the result. The readers for threads
and for asyncio run the same flow; they differ only in how they query, listen and wait.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import (
    AccessDenied,
    ConfigurationError,
    MissingScopes,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    TokenNotFound,
    VaultError,
)
from token_vault.keyring import KeyRing
from token_vault.read_model import (
    OF_REQUEST,
    REPORT_REJECTED,
    REQUEST_REFRESH,
    REQUEST_REFRESH_TARGET,
    SELECT_SERVED,
    SELECT_SERVED_HASHED,
    SELECT_SERVED_TARGET,
    SELECT_SERVED_TARGET_HASHED,
    SELECT_STATUS,
    GrantStatus,
    Served,
    choose,
)
from token_vault.read_records import SERVED, ReadRecord
from token_vault.read_steps import Flow, Listen, NoteRead, Query, RecordRead, Step, Wait
from token_vault.token import Token
from token_vault.token_cache import TokenCache, cache_key
from token_vault.token_query import TokenQuery
from token_vault.token_target import TokenTarget
from token_vault.trace_context import current_traceparent

# Threads and queries need a finite number of seconds.
MAX_WAIT_SECONDS = 86_400.0
# A wakeup may get lost, so the row is polled as well.
POLL_SECONDS = 2.0
# `retry_after` where the status names no time.
RETRY_SECONDS = 5.0
# The same while the operator has paused renewal until further notice.
PAUSED_RETRY_SECONDS = 60.0
# A rejected token is not handed out again for this long: workers force a renewal of one grant once a minute at most.
REJECTED_SECONDS = 60.0
# Bounds the memory of rejected tokens: beyond it all are forgotten, and APIs refuse some of them once more.
MAX_REJECTED_GRANTS = 10_000


class ReadFlow:
    """Decides how a token is read.

    Args:
        ring: the access ring.
        tenant: the tenant's name; None where the vault has one only.
    """

    def __init__(self, ring: KeyRing, tenant: str | None) -> None:
        self._ring = ring
        self._tenant = tenant
        self.cache: TokenCache | None = None
        self._rejected: dict[tuple[int, TokenTarget], tuple[int, float]] = {}

    def record_rejected(self, token: Token, request_id: str | None = None) -> Query:
        """Remember a rejected token; return the query that reports it.

        It is not handed out again for a while: the renewal that follows brings a new one.

        Raises:
            ValueError: the token was not read from a vault.
        """
        if token.grant_id is None or token.access_version is None:
            raise ValueError("this token does not come from a reader")
        if len(self._rejected) >= MAX_REJECTED_GRANTS:
            self._rejected.clear()
        rejected = (token.access_version, time.monotonic() + REJECTED_SECONDS)
        self._rejected[token.grant_id, token.target] = rejected
        if self.cache is not None:
            self.cache.forget(token.grant_id)
        if token.target.is_default:
            return _named(Query(REPORT_REJECTED, (token.grant_id, token.access_version)), request_id)
        # Asks for more life than this token has left, so that only another token will do.
        left = (token.expires_at - datetime.now(UTC)).total_seconds() if token.expires_at else 0.0
        target = (token.target.resource, token.target.scope)
        wanted = max(left, 0.0) + REJECTED_SECONDS
        request = Query(REQUEST_REFRESH_TARGET, (token.grant_id, wanted, REJECTED_SECONDS, *target))
        return _named(request, request_id)

    def _is_rejected(self, served: Served) -> bool:
        if not self._rejected:
            return False
        version, until = self._rejected.get((served.id, served.target), (None, 0.0))
        return version == served.access_version and time.monotonic() < until

    def _is_fresh(self, query: TokenQuery, served: Served) -> bool:
        return served.is_fresh(query.min_ttl) and not self._is_rejected(served)

    def token(self, query: TokenQuery) -> Flow:
        """Read a fresh token.

        The reader throws in the error of a step; it leaves the flow with user and connection.

        Raises:
            VaultError: as ``TokenVault.user_token`` says.
        """
        try:
            try:
                token = yield from self._token(query)
            except VaultError as error:
                with suppress(VaultError):  # the caller has to learn why there is no token, not this
                    yield RecordRead(self._record(query, type(error).__name__))
                raise
            yield RecordRead(self._record(query, SERVED, token))
        except VaultError as error:
            error.user_id, error.connection = query.user_id, query.connection
            raise
        return token

    def _record(self, query: TokenQuery, outcome: str, token: Token | None = None) -> ReadRecord:
        return ReadRecord(
            query.user_id,
            query.connection,
            outcome,
            tenant=token.tenant if token else self._tenant,
            account=token.account if token else query.account,
            request_id=query.request_id,
            reason=query.reason,
            at=time.monotonic(),
        )

    def _token(self, query: TokenQuery) -> Flow:
        key = cache_key(query.user_id, query.connection, query.account, query.target)
        mark: object = None
        if self.cache is not None:
            if (cached := self.cache.find(key, query.min_ttl, query.needs)) is not None:
                return cached.token
            mark = self.cache.begin_read()
        rows = yield from self._rows(query)
        if self.cache is not None:
            self.cache.compare(key, [row.row_hash for row in rows])
        served = self._choose(rows, query, query.account)
        if self._is_fresh(query, served):
            if served.wants_note:
                yield NoteRead(served.id)
            fresh = self._decrypt(query, served)
            if self.cache is not None:
                self.cache.put(mark, key, fresh, served, [row.row_hash for row in rows])
            return fresh
        status = yield from self._status(served)
        token = self._serve_unrenewable(query, served, status)
        if token is not None:
            return token
        _raise_unless_refreshable(served, status, query.min_ttl)
        _raise_if_refused(served)
        return (yield from self._refresh(query, served))

    def _refresh(self, query: TokenQuery, served: Served) -> Flow:
        wait = min(query.wait, MAX_WAIT_SECONDS)
        deadline = time.monotonic() + wait
        wakeup = yield Listen(served.id, wait)
        # A refresh that ended before listening began woke nobody, so the row is read again.
        served = yield from self._read(query, served.provider_user_id)
        if self._is_fresh(query, served):
            return self._decrypt(query, served)
        yield _request(query, served, wait)
        status = None
        while (remaining := deadline - time.monotonic()) > 0:
            # Anybody may send a wakeup; only the row says whether the token is fresh.
            yield Wait(wakeup, min(remaining, POLL_SECONDS))
            served = yield from self._read(query, served.provider_user_id)
            if self._is_fresh(query, served):
                return self._decrypt(query, served)
            status = yield from self._status(served)
            _raise_unless_refreshable(served, status, query.min_ttl)
            _raise_if_refused(served)
            if status.must_wait:
                break
        raise TemporarilyUnavailable(
            "no fresh token came in time", status.seconds_to_retry if status else RETRY_SECONDS
        )

    def _read(self, query: TokenQuery, account: str | None = None) -> Generator[Step, Any, Served]:
        rows = yield from self._rows(query)
        return self._choose(rows, query, query.account if account is None else account)

    def _rows(self, query: TokenQuery) -> Generator[Step, Any, list[Served]]:
        is_cached = self.cache is not None
        if query.target.is_default:
            statement = SELECT_SERVED_HASHED if is_cached else SELECT_SERVED
            rows = yield Query(statement, (query.user_id, query.connection))
        else:
            statement = SELECT_SERVED_TARGET_HASHED if is_cached else SELECT_SERVED_TARGET
            target = (query.target.resource, query.target.scope)
            rows = yield Query(statement, (*target, query.user_id, query.connection))
        return [Served._make(row) for row in rows]

    def _choose(self, rows: Sequence[Served], query: TokenQuery, account: str | None) -> Served:
        found = [row for row in rows if self._tenant in (None, row.tenant)]
        served = choose(found, query.user_id, account)
        if served is None:
            where = f" in tenant {self._tenant}" if self._tenant else ""
            what = "token of this account" if query.account else "such token"
            raise TokenNotFound(f"the vault has no {what}{where}")
        return served

    def _status(self, served: Served) -> Generator[Step, Any, GrantStatus]:
        rows = yield Query(SELECT_STATUS, (served.id,))
        if not rows:
            raise TokenNotFound("the vault has no such token")
        return GrantStatus._make(rows[0])

    def _serve_unrenewable(self, query: TokenQuery, served: Served, status: GrantStatus) -> Token | None:
        """Serve a token of unknown end that cannot be renewed."""
        unrenewable = status.state in ("unrenewable", "expired")
        is_wanted = not _wants_life(query.min_ttl) and not self._is_rejected(served)
        if unrenewable and is_wanted and served.expires_at is None and served.access_ciphertext is not None:
            return self._decrypt(query, served)
        return None

    def _decrypt(self, query: TokenQuery, served: Served) -> Token:
        if served.access_ciphertext is None:
            raise TokenNotFound("the vault has no access token of them")
        scopes = None if served.scopes is None else tuple(served.scopes)
        if scopes is not None and (missing := [scope for scope in query.needs if scope not in scopes]):
            raise MissingScopes(scopes, missing)
        return Token(
            self._ring.decrypt(served.context, served.access_ciphertext).reveal(),
            served.expires_at,
            scopes,
            extra=self._extra(served),
            tenant=served.tenant,
            account=served.provider_user_id,
            grant_id=served.id,
            access_version=served.access_version,
            target=served.target,
        )

    def _extra(self, served: Served) -> dict[str, str]:
        if served.extra_ciphertext is None:
            return {}
        text = self._ring.decrypt(EncryptionContext.of_extra(served.key), served.extra_ciphertext)
        extra: dict[str, str] = json.loads(text.reveal())
        return extra


def _wants_life(min_ttl: float | None) -> bool:
    return min_ttl is not None and min_ttl > 0


def _request(query: TokenQuery, served: Served, wait: float) -> Query:
    if query.target.is_default:
        return _named(Query(REQUEST_REFRESH, (served.id, query.min_ttl, wait)), query.request_id)
    target = (query.target.resource, query.target.scope)
    return _named(Query(REQUEST_REFRESH_TARGET, (served.id, query.min_ttl, wait, *target)), query.request_id)


def _named(query: Query, request_id: str | None) -> Query:
    """Add the app's request id and trace to a request."""
    traceparent = current_traceparent()
    if request_id is traceparent is None:
        return query
    return Query(query.statement + OF_REQUEST, (*query.values, request_id, traceparent))


def _raise_if_refused(served: Served) -> None:
    """Raise if a token for this target was just refused.

    The grant itself is not affected.

    Raises:
        ReauthorizationRequired, AccessDenied, ConfigurationError: by who has to act.
    """
    if not served.is_refused:
        return
    code, target = served.refusal or "unknown", served.target
    if served.refusal_blame == "user":
        message = f"the user has to consent to {target} ({code})"
        raise ReauthorizationRequired(code, served.refused_at, message)
    if served.refusal_blame == "denied":
        raise AccessDenied(f"the operator's setting resources does not name {target}")
    raise ConfigurationError(
        f"the provider gives no token for {target} ({code}): ask for what its client may have"
    )


def _raise_unless_refreshable(served: Served, status: GrantStatus, min_ttl: float | None) -> None:
    """Raise if a refresh cannot help.

    Raises:
        ReauthorizationRequired, TokenExpired, TemporarilyUnavailable, TokenNotFound: by why it cannot.
    """
    if status.state == "reauthorization_required":
        raise ReauthorizationRequired(served.reason or "unknown", served.reason_since)
    if (
        served.expires_at is None
        and _wants_life(min_ttl)
        and (served.obtained_from == "renewal" or status.state == "unrenewable")
    ):
        raise TokenExpired(
            "nobody knows when this token ends, as its provider does not say: ask without min_ttl, and report by "
            "rejected() a token that an API refuses"
        )
    if status.state in ("unrenewable", "expired"):
        raise TokenExpired(f"the token ends too soon and cannot be renewed ({status.reason or status.state})")
    if status.state == "erased":
        raise TokenNotFound("the vault has no such token")
    if status.state == "paused":
        raise TemporarilyUnavailable(
            "renewal is paused by the operator: the token is renewed when `token-vault resume` ends that",
            status.blocked_for or PAUSED_RETRY_SECONDS,
        )
    if status.state == "blocked":
        raise TemporarilyUnavailable(
            f"the connection is blocked ({status.reason}): the operator has to fix it", status.seconds_blocked
        )
    life = served.expires_at - served.obtained_at if served.expires_at and served.obtained_at else None
    renewed = served.obtained_from == "renewal"
    if renewed and min_ttl is not None and life is not None and life.total_seconds() <= min_ttl:
        raise TokenExpired(
            f"tokens of this connection live {life.total_seconds():.0f} s, "
            f"no longer than the {min_ttl:.0f} s asked for: ask for less"
        )
