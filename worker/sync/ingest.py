"""Stores a tenant's connections and users in the vault."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from worker import providers
from worker.auth0 import Auth0Connection, Auth0User, ManagementClient, UserPage
from worker.auth0.errors import MissingScope
from worker.resolved_connections import ConnectionResolver
from worker.sync.connection_notes import NO_SIGN_IN, connection_notes, lacks_sign_ins
from worker.sync.mapping import (
    Connections,
    has_tokens,
    identity_keys,
    incoming_admin_grant,
    incoming_grants,
    is_whole,
    lists_may_hide_tokens,
    tokenless_identities,
)
from worker.sync.report import SyncReport
from worker.sync.user_lookup import fetch_users
from worker.vault.connections import presence
from worker.vault.connections.connection import store_connection
from worker.vault.grants import missing, queries, touch
from worker.vault.ingest import ingest
from worker.vault.leases import lease
from worker.vault.vault import Vault

# Auth0's search lags behind changes, and clocks may differ: nothing is concluded about a time more recent than this.
SEARCH_LAG = timedelta(minutes=10)
# Users read by id that are stored together.
USERS_PER_INGEST = 100


class SyncIngest:
    """Reads and stores the connections and users of one tenant.

    Args:
        tenant: the tenant's name.
        vault: stores them.
        connections: resolves each connection's client.
        auth0: the tenant's Management API.
    """

    def __init__(
        self, tenant: str, vault: Vault, connections: ConnectionResolver, auth0: ManagementClient
    ) -> None:
        self._tenant = tenant
        self._vault = vault
        self._connections = connections
        self._auth0 = auth0
        self._lists_carry_tokens = False

    async def load_connections(self) -> Connections:
        """Return the connections as stored in the vault."""
        return await self._connections.load([self._tenant])

    async def ingest_all_connections(self, report: SyncReport) -> None:
        """Read and store all connections.

        Raises:
            MissingScope: connections cannot be read.
        """
        await self._auth0.require("read:connections")
        async with lease(self._vault, self._connections_lease):
            listed = []
            async for connection in self._auth0.connections():
                await self._store_connection(connection, report)
                listed.append(connection.name)
            await self._mark_missing_connections(listed)
        await self._check_options_scope(report)

    async def ingest_connection(self, name: str, report: SyncReport) -> None:
        """Read and store one connection.

        Raises:
            Auth0NotFound: the tenant has none of this name.
            MissingScope: connections cannot be read.
        """
        await self._auth0.require("read:connections")
        async with lease(self._vault, self._connections_lease):
            await self._store_connection(await self._auth0.connection(name), report)
        await self._check_options_scope(report)

    async def _mark_missing_connections(self, listed: Sequence[str]) -> None:
        """Mark connections missing from the list, once confirmed by id."""
        absent = await presence.list_absent(self._vault, self._tenant, listed)
        for name, auth0_id in absent.items():
            if not await self._auth0.has_connection(auth0_id):
                now = await self._vault.now()
                await presence.mark_missing(self._vault, self._tenant, name, now=now)

    @property
    def _connections_lease(self) -> str:
        """The lease under which connections are read and stored.

        Auth0 gives no time of change for them: without the lease, an older answer could be stored after a newer one.
        """
        return f"connections of {self._tenant}"

    async def _check_options_scope(self, report: SyncReport) -> None:
        try:
            await self._auth0.require("read:connections_options")
        except MissingScope as error:
            report.problems.append(str(error))

    async def _store_connection(self, connection: Auth0Connection, report: SyncReport) -> None:
        now = await self._vault.now()
        await store_connection(
            self._vault,
            tenant=self._tenant,
            name=connection.name,
            auth0_id=connection.id,
            strategy=connection.strategy,
            options=None if connection.options is None else providers.public_options(connection.options),
            notes=connection_notes(connection),
            now=now,
        )
        report.connections += 1
        if lacks_sign_ins(connection):
            report.note(f"connection {connection.name}: {NO_SIGN_IN}")
        admin = incoming_admin_grant(connection, self._tenant, now)
        if admin is not None:
            report.stats.add(await ingest.ingest(self._vault, [admin], now=now))

    async def ingest_page(
        self,
        page: UserPage,
        connections: Connections,
        report: SyncReport,
        *,
        now: datetime,
        full: bool,
        since: datetime | None = None,
    ) -> list[Auth0User]:
        """Store a page; read users whose tokens it hides.

        Auth0 does not document whether lists contain tokens. The first token in a list proves that they do: then an
        identity without a token has none, and reading its user by id would not show more.

        Args:
            now: the database's time.
            full: also read unchanged users.
            since: the time of the last full sync: a user without a row in the vault is read only if changed since.

        Returns:
            The users who were not read by id, for whom the page is the newest answer.
        """
        self._lists_carry_tokens = self._lists_carry_tokens or any(has_tokens(user) for user in page.users)
        await self._ingest_grants(page.users, connections, report, now=now)
        if self._lists_carry_tokens:
            return list(page.users)
        hidden = [user for user in page.users if lists_may_hide_tokens(user)]
        changed = await self._filter_changed(hidden, full=full, since=since)
        read = await self.ingest_by_id(changed, connections, report)
        return [user for user in page.users if user.user_id not in read]

    async def ingest_by_id(
        self, user_ids: Sequence[str], connections: Connections, report: SyncReport
    ) -> dict[str, Auth0User | None]:
        """Read users by id and store them; mark missing ones.

        Returns:
            Each user, None if Auth0 has none; users who could not be read are left out.
        """
        found: dict[str, Auth0User | None] = {}
        for start in range(0, len(user_ids), USERS_PER_INGEST):
            asked_at = await self._vault.now()
            answers = await fetch_users(self._auth0, user_ids[start : start + USERS_PER_INGEST], report)
            users = [user for user in answers.values() if user is not None]
            await self.ingest_users(users, connections, report, marked_before=asked_at)
            await self.record_tokenless(users)
            found |= answers
        missing_ids = [user_id for user_id, user in found.items() if user is None]
        report.gone += await missing.mark_users(
            self._vault, self._tenant, missing_ids, now=await self._vault.now()
        )
        return found

    async def ingest_users(
        self,
        users: Sequence[Auth0User],
        connections: Connections,
        report: SyncReport,
        *,
        marked_before: datetime | None = None,
    ) -> None:
        """Upsert users' grants, and mark their other grants missing.

        Args:
            marked_before: the users' grants are unmarked that were marked missing before this time. None if the users
                were read at an unknown time: then only marks older than the search lag are removed.
        """
        if not users:
            return
        now = await self._vault.now()
        await self._ingest_grants(users, connections, report, now=now)
        whole = [user for user in users if is_whole(user)]
        report.gone += await missing.mark_unlinked(
            self._vault,
            self._tenant,
            [user.user_id for user in whole],
            identity_keys(whole, self._tenant),
            now=now,
        )
        await missing.unmark_observed(
            self._vault,
            self._tenant,
            identity_keys(users, self._tenant),
            before=marked_before or now - SEARCH_LAG,
        )

    async def _ingest_grants(
        self, users: Sequence[Auth0User], connections: Connections, report: SyncReport, *, now: datetime
    ) -> None:
        incoming = {
            grant.key: grant for user in users for grant in incoming_grants(user, self._tenant, connections)
        }
        report.stats.add(await ingest.ingest(self._vault, list(incoming.values()), now=now))

    async def record_tokenless(self, users: Sequence[Auth0User]) -> None:
        """Record that identities were observed without a token.

        Otherwise their users would count as changed, and be read each day.
        """
        scopes = await self._auth0.scopes()
        if scopes is None or "read:user_idp_tokens" in scopes:  # without this scope no identity shows a token
            await touch.touch_observed(self._vault, list(tokenless_identities(users, self._tenant)))

    async def _filter_changed(
        self, users: Sequence[Auth0User], *, full: bool, since: datetime | None
    ) -> list[str]:
        """Return the ids of users who changed since last observed."""
        if full:
            return [user.user_id for user in users]
        last_observed = await queries.last_observed(
            self._vault, self._tenant, [user.user_id for user in users]
        )
        return [
            user.user_id
            for user in users
            if user.updated_at is None
            or (
                last_observed[user.user_id] != user.updated_at
                if user.user_id in last_observed
                else since is None or user.updated_at >= since
            )
        ]
