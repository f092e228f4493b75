"""Pulls connections and users of one tenant from Auth0 into the vault."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from worker import providers
from worker.auth0 import Connection as ShownConnection
from worker.auth0 import ManagementClient, User, UserPage
from worker.connections import Connection, Connections
from worker.errors import Auth0Error, Auth0NotFound, MalformedAnswer, MissingScope
from worker.sync.showing import carries_tokens, may_hide_tokens, shown_admin_grant, shown_grants
from worker.vault import connections as table
from worker.vault import grants, listing, records
from worker.vault.database import Vault
from worker.vault.grants import Tally
from worker.vault.sharing import held, held_alone

log = structlog.get_logger(__name__)

# Users asked for by id at a time, where the list does not show their tokens.
BY_ID_AT_A_TIME = 4
# Pages being stored while another is read.
PAGES_AT_A_TIME = 2

CONNECTION_SCOPES = ("read:connections", "read:connections_options")
USER_SCOPES = ("read:users", "read:user_idp_tokens")

Progress = Callable[[int, int | None], None]
"""Called with the users seen so far, and how many there are where Auth0 says so."""


@dataclass(slots=True)
class Report:
    """What a sync did.

    Attributes:
        tenant: the tenant's name.
        scope: ``all``, ``user`` or ``connection``.
        connections: how many were read.
        seen: how many users were read.
        failed: how many entries could not be read; ``problems`` names them.
        tally: what became of their grants.
        problems: what the operator has to know, each a whole sentence.
        skipped: another process is at this sync already, and nothing was done.
    """

    tenant: str
    scope: str
    connections: int = 0
    seen: int = 0
    failed: int = 0
    tally: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)
    skipped: bool = False

    @property
    def ok(self) -> bool:
        """Whether all that was asked for is in the vault."""
        return not self.problems and not self.failed and not self.skipped


class Sync:
    """Syncs one tenant.

    Args:
        tenant: the tenant's name.
        vault: where grants go.
        connections: resolves each connection's client.
        auth0: the tenant's Management API.
    """

    def __init__(self, tenant: str, vault: Vault, connections: Connections, auth0: ManagementClient) -> None:
        self._tenant = tenant
        self._vault = vault
        self._connections = connections
        self._auth0 = auth0
        self._lists_carry_tokens = False

    async def everything(self, *, full: bool = False, progress: Progress | None = None) -> Report:
        """Sync all connections, then all users; one process at a time, others skip.

        Args:
            full: ask for every user again, unchanged ones included.
            progress: called after each page.

        Raises:
            Auth0Error, ConfigurationError: after what was read until then is committed.
        """
        async with held_alone(self._vault, f"sync of {self._tenant}") as alone:
            if not alone:
                return Report(self._tenant, "all", skipped=True)
            return await self._recorded("all", lambda report: self._all(report, full, progress))

    async def connection(self, name: str, *, full: bool = False, progress: Progress | None = None) -> Report:
        """Sync one connection and the users who have an identity of it.

        Raises:
            Auth0NotFound: the tenant has no such connection.
            Auth0Error, ConfigurationError: as ``everything``.
        """

        async def run(report: Report) -> None:
            await self._auth0.require("read:connections")
            async with self._connections_alone():
                await self._keep_connection(await self._auth0.connection(name), report)
            await self._check_options_scope(report)
            await self._users(report, full, progress, connection=name)

        return await self._recorded("connection", run)

    async def connections(self) -> Report:
        """Sync all connections, and no users.

        Raises:
            Auth0Error, ConfigurationError: as ``everything``.
        """
        return await self._recorded("connections", self._all_connections)

    async def user(self, user_id: str) -> Report:
        """Sync one user.

        Raises:
            Auth0NotFound: the tenant has no such user.
            Auth0Error, ConfigurationError: as ``everything``.
        """

        async def run(report: Report) -> None:
            await self._auth0.require(*USER_SCOPES)
            user = await self._auth0.user(user_id)
            known = await self._connections.load([self._tenant])
            if any((self._tenant, identity.connection) not in known for identity in user.identities):
                # A connection made since the last sync: without it there is nothing to renew with.
                await self._connections_if_allowed(report)
                known = await self._connections.load([self._tenant])
            await self._keep_users([user], known, report, await self._vault.now())
            report.failed += len(user.malformed)
            report.problems += user.malformed

        return await self._recorded("user", run)

    async def _recorded(self, scope: str, run: Callable[[Report], Awaitable[None]]) -> Report:
        """Run a sync and keep a record of how it went, whether it ends well or not."""
        report = Report(self._tenant, scope)
        run_id = await records.begin_run(
            self._vault, tenant=self._tenant, scope=scope, now=await self._vault.now()
        )
        error: str | None = "interrupted"
        try:
            await run(report)
            error = "; ".join(report.problems[:5]) or None
        except Exception as failure:
            error = str(failure) if isinstance(failure, Auth0Error | MissingScope) else type(failure).__name__
            raise
        finally:
            await records.update_run(
                self._vault, run_id, seen=report.seen, failed=report.failed, tally=report.tally,
                finished_at=await self._vault.now(), error=error,
            )  # fmt: skip
        log.info("sync.finished", tenant=self._tenant, scope=scope, seen=report.seen, failed=report.failed)
        return report

    async def _all(self, report: Report, full: bool, progress: Progress | None) -> None:
        await self._connections_if_allowed(report)
        await self._users(report, full, progress)

    async def _connections_if_allowed(self, report: Report) -> None:
        """Users are worth having without connections: what is served until it ends is better than nothing."""
        try:
            await self._all_connections(report)
        except MissingScope as missing:
            report.problems.append(str(missing))

    async def _all_connections(self, report: Report) -> None:
        await self._auth0.require("read:connections")
        async with self._connections_alone():
            async for connection in self._auth0.connections():
                await self._keep_connection(connection, report)
        await self._check_options_scope(report)
        await self._connections.load([self._tenant])

    def _connections_alone(self) -> AbstractAsyncContextManager[None]:
        """Connections have no time of change: what one sync was shown is stored before another sync asks."""
        return held(self._vault, f"connections of {self._tenant}")

    async def _check_options_scope(self, report: Report) -> None:
        try:
            await self._auth0.require("read:connections_options")
        except MissingScope as missing:
            report.problems.append(str(missing))

    async def _keep_connection(self, shown: ShownConnection, report: Report) -> None:
        now = await self._vault.now()
        notes = list(providers.notes(shown.options))
        if shown.options is None:
            notes.append(
                "Auth0 shows no options of this connection: grant the scope read:connections_options "
                "to the machine-to-machine application"
            )
        await table.store(
            self._vault,
            tenant=self._tenant,
            name=shown.name,
            auth0_id=shown.id,
            strategy=shown.strategy,
            options=None if shown.options is None else providers.public_options(shown.options),
            notes=notes,
            now=now,
        )
        report.connections += 1
        admin = shown_admin_grant(shown, self._tenant, now)
        if admin is not None:
            report.tally.add(await grants.take(self._vault, [admin], now=now))

    async def _users(
        self, report: Report, full: bool, progress: Progress | None, connection: str | None = None
    ) -> None:
        await self._auth0.require(*USER_SCOPES)
        known = await self._connections.load([self._tenant])
        now = await self._vault.now()
        storing: deque[asyncio.Task[None]] = deque()
        try:
            async with aclosing(self._auth0.users(connection=connection)) as pages:
                async for page in pages:
                    # While pages are stored the next is read; never more than a few, so that memory stays flat.
                    if len(storing) == PAGES_AT_A_TIME:
                        # Waited for and not awaited: a stop meanwhile does not tear the page apart.
                        await asyncio.wait([storing[0]])
                        storing.popleft().result()
                    storing.append(asyncio.create_task(self._keep_page(page, known, report, full, now)))
                    if progress:
                        progress(report.seen, page.total)
        finally:
            # What was read is stored, whatever ended the reading; the first failure is told.
            results = await asyncio.gather(*storing, return_exceptions=True)
        for failure in results:
            if isinstance(failure, BaseException):
                raise failure
        if progress:
            progress(report.seen, report.seen)

    async def _keep_page(
        self,
        page: UserPage,
        known: dict[tuple[str, str], Connection],
        report: Report,
        full: bool,
        now: datetime,
    ) -> None:
        # Whether lists carry tokens is not documented. One that is seen says that they do: then an identity
        # without any has none, and asking for its user would show nothing more.
        self._lists_carry_tokens |= any(carries_tokens(user) for user in page.users)
        hidden = [] if self._lists_carry_tokens else [user for user in page.users if may_hide_tokens(user)]
        await self._keep_users(page.users, known, report, now)
        report.failed += len(page.malformed)
        report.problems += page.malformed
        if hidden:
            await self._keep_users(await self._by_id(hidden, full, report), known, report, now, again=True)

    async def _keep_users(
        self,
        users: Sequence[User],
        known: dict[tuple[str, str], Connection],
        report: Report,
        now: datetime,
        *,
        again: bool = False,
    ) -> None:
        shown = {grant.key: grant for user in users for grant in shown_grants(user, self._tenant, known)}
        tally = await grants.take(self._vault, list(shown.values()), now=now)
        report.tally.add(tally)
        report.seen += 0 if again else len(users)

    async def _by_id(self, users: Sequence[User], full: bool, report: Report) -> list[User]:
        """Ask by id for those users of a list whose tokens it did not show, and who changed since."""
        last_shown = await listing.last_shown(self._vault, self._tenant, [user.user_id for user in users])
        wanted = [
            user.user_id
            for user in users
            if full or user.updated_at is None or last_shown.get(user.user_id) != user.updated_at
        ]
        limit = asyncio.Semaphore(BY_ID_AT_A_TIME)

        async def one(user_id: str) -> User | None:
            async with limit:
                try:
                    return await self._auth0.user(user_id)
                except Auth0NotFound:
                    return None  # deleted since the list was made
                except MalformedAnswer as malformed:
                    report.failed += 1
                    report.problems.append(str(malformed))
                    return None

        return [user for user in await asyncio.gather(*map(one, wanted)) if user is not None]
