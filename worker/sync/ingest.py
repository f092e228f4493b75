"""Gives the vault what Auth0 shows of connections and users, whoever asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from token_vault.grant_key import GrantKey
from worker import providers
from worker.auth0 import Auth0Connection as ShownConnection
from worker.auth0 import Auth0User, ManagementClient, UserPage
from worker.auth0.errors import CALL_INDEPENDENT_ERRORS, Auth0Error, Auth0NotFound, MissingScope
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.sync.connection_notes import NO_SIGN_IN, connection_notes, lacks_sign_ins
from worker.sync.mapping import (
    has_tokens,
    incoming_admin_grant,
    incoming_grants,
    lists_may_hide_tokens,
    tokenless_identities,
)
from worker.sync.report import SyncReport
from worker.vault.advisory_locks import lock
from worker.vault.connections import presence
from worker.vault.connections.connection import store_connection
from worker.vault.grants import missing, queries, touch
from worker.vault.ingest import ingest
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# Auth0's search lags behind its users, and clocks may differ: nothing is concluded from what happened so lately.
SEARCH_LAG = timedelta(minutes=10)
# Users asked for by id at a time.
MAX_CONCURRENT_USER_CALLS = 4
# Grants are taken by so many users at a time.
USERS_PER_INGEST = 100


class SyncIngest:
    """Keeps what is shown of one tenant.

    Args:
        tenant: the tenant's name.
        vault: where it goes.
        connections: resolves each connection's client.
        auth0: the tenant's Management API, for what a list does not show.
    """

    def __init__(
        self, tenant: str, vault: Vault, connections: ConnectionResolver, auth0: ManagementClient
    ) -> None:
        self._tenant = tenant
        self._vault = vault
        self._connections = connections
        self._auth0 = auth0
        self._lists_carry_tokens = False

    async def load_connections(self) -> Mapping[tuple[str, str], ResolvedConnection]:
        """The connections as the vault has them."""
        return await self._connections.load([self._tenant])

    async def ingest_all_connections(self, report: SyncReport) -> None:
        """Read and keep all connections.

        Raises:
            MissingScope: connections cannot be read.
        """
        await self._auth0.require("read:connections")
        async with lock(self._vault, self._turn):
            shown = []
            async for connection in self._auth0.connections():
                await self._connection(connection, report)
                shown.append(connection.name)
            await self._mark_gone(shown)
        await self._check_options_scope(report)

    async def ingest_connection(self, name: str, report: SyncReport) -> None:
        """Read and keep one connection.

        Raises:
            Auth0NotFound: the tenant has none of this name.
            MissingScope: connections cannot be read.
        """
        await self._auth0.require("read:connections")
        async with lock(self._vault, self._turn):
            await self._connection(await self._auth0.connection(name), report)
        await self._check_options_scope(report)

    async def _mark_gone(self, shown: Sequence[str]) -> None:
        """Mark the connections that a list lacks, once Auth0 has said of each that there is none of its id."""
        absent = await presence.list_absent(self._vault, self._tenant, shown)
        for name, auth0_id in absent.items():
            if not await self._auth0.has_connection(auth0_id):
                now = await self._vault.now()
                await presence.mark_missing(self._vault, self._tenant, name, now=now)

    @property
    def _turn(self) -> str:
        """Connections have no time of change: what one sync was shown is stored before another sync asks."""
        return f"connections of {self._tenant}"

    async def _check_options_scope(self, report: SyncReport) -> None:
        try:
            await self._auth0.require("read:connections_options")
        except MissingScope as missing_scope:
            report.problems.append(str(missing_scope))

    async def _connection(self, shown: ShownConnection, report: SyncReport) -> None:
        now = await self._vault.now()
        await store_connection(
            self._vault,
            tenant=self._tenant,
            name=shown.name,
            auth0_id=shown.id,
            strategy=shown.strategy,
            options=None if shown.options is None else providers.public_options(shown.options),
            notes=connection_notes(shown),
            now=now,
        )
        report.connections += 1
        if lacks_sign_ins(shown):
            report.note(f"connection {shown.name}: {NO_SIGN_IN}")
        admin = incoming_admin_grant(shown, self._tenant, now)
        if admin is not None:
            report.stats.add(await ingest.ingest(self._vault, [admin], now=now))

    async def page(
        self,
        page: UserPage,
        known: Mapping[tuple[str, str], ResolvedConnection],
        report: SyncReport,
        *,
        full: bool,
        since: datetime | None = None,
    ) -> None:
        """Keep a page of a list, and ask by id for those whose tokens it may hide.

        Whether lists carry tokens is not documented. One that is seen says that they do: then an identity without
        any has none, and asking for its user would show nothing more.

        Args:
            full: ask for unchanged users too.
            since: when everybody was last seen: of whom the vault holds nothing, only who changed since is asked for.
        """
        self._lists_carry_tokens |= any(has_tokens(user) for user in page.users)
        hidden = (
            [] if self._lists_carry_tokens else [user for user in page.users if lists_may_hide_tokens(user)]
        )
        await self.users(page.users, known, report)
        report.seen += len(page.users)
        report.failed += len(page.malformed)
        report.problems += page.malformed
        if hidden:
            await self.ingest_by_id(await self._changed(hidden, full=full, since=since), known, report)

    async def ingest_by_id(
        self, user_ids: Sequence[str], known: Mapping[tuple[str, str], ResolvedConnection], report: SyncReport
    ) -> dict[str, Auth0User | None]:
        """Ask for users by id, keep them as they are now, and mark those whom Auth0 does not have.

        Returns:
            Each user, None where Auth0 has none; those who could not be read are left out.
        """
        found: dict[str, Auth0User | None] = {}
        for start in range(0, len(user_ids), USERS_PER_INGEST):
            asked_at = await self._vault.now()
            answers = await self._ask(user_ids[start : start + USERS_PER_INGEST], report)
            users = [user for user in answers.values() if user is not None]
            await self.users(users, known, report, marked_before=asked_at)
            await self.record_tokenless(users)
            found |= answers
        gone = [user_id for user_id, user in found.items() if user is None]
        report.gone += await missing.mark_users(self._vault, self._tenant, gone, now=await self._vault.now())
        return found

    async def users(
        self,
        users: Sequence[Auth0User],
        known: Mapping[tuple[str, str], ResolvedConnection],
        report: SyncReport,
        *,
        marked_before: datetime | None = None,
    ) -> None:
        """Keep what is news in the grants of users, and mark what the vault holds of them beside.

        Args:
            marked_before: what is shown does not seem gone any more if it was marked by then; of a list, if that
                is longer ago than it may lag behind.
        """
        if not users:
            return
        now = await self._vault.now()
        shown = {grant.key: grant for user in users for grant in incoming_grants(user, self._tenant, known)}
        report.stats.add(await ingest.ingest(self._vault, list(shown.values()), now=now))
        # Every user of Auth0's has an identity: an answer without any says nothing about which are gone.
        whole = [user for user in users if user.identities and not user.malformed]
        report.gone += await missing.mark_unlinked(
            self._vault, self._tenant, [user.user_id for user in whole], _keys(whole, self._tenant), now=now
        )
        await missing.unmark_observed(
            self._vault, self._tenant, _keys(users, self._tenant), before=marked_before or now - SEARCH_LAG
        )

    async def record_tokenless(self, users: Sequence[Auth0User]) -> None:
        """Note identities that show no token any more: else their users would be asked for each day, as changed."""
        scopes = await self._auth0.scopes()
        if scopes is None or "read:user_idp_tokens" in scopes:  # without it none would be shown of anybody
            await touch.touch_observed(self._vault, list(tokenless_identities(users, self._tenant)))

    async def _ask(self, user_ids: Sequence[str], report: SyncReport) -> dict[str, Auth0User | None]:
        """Ask for users by id. One whom Auth0 will not show, as for an id that is none, stands in nobody's way."""
        limit = asyncio.Semaphore(MAX_CONCURRENT_USER_CALLS)
        answers: dict[str, Auth0User | None] = {}

        async def one(user_id: str) -> None:
            async with limit:
                try:
                    answers[user_id] = await self._auth0.user(user_id)
                except Auth0NotFound:
                    answers[user_id] = None
                except CALL_INDEPENDENT_ERRORS:
                    raise
                except Auth0Error as refused:
                    report.failed += 1
                    report.problems.append(str(refused))
                    log.warning("sync.user_skipped", tenant=self._tenant, user_id=user_id, error=str(refused))

        asking = [asyncio.ensure_future(one(user_id)) for user_id in user_ids]
        try:
            await asyncio.gather(*asking)
        finally:  # the rest would go on asking, and nobody would keep what they are told
            for each in asking:
                each.cancel()
        return answers

    async def _changed(self, users: Sequence[Auth0User], *, full: bool, since: datetime | None) -> list[str]:
        """Those of a list who changed since the vault last saw them."""
        if full:
            return [user.user_id for user in users]
        last_shown = await queries.last_observed(self._vault, self._tenant, [user.user_id for user in users])
        return [
            user.user_id
            for user in users
            if user.updated_at is None
            or (
                last_shown[user.user_id] != user.updated_at
                if user.user_id in last_shown
                else since is None or user.updated_at >= since
            )
        ]


def _keys(users: Sequence[Auth0User], tenant: str) -> list[GrantKey]:
    return [
        GrantKey(tenant, identity.connection, user.user_id, identity.user_id)
        for user in users
        for identity in user.identities
    ]
