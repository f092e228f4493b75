"""Erases grants that Auth0 does not have any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from token_vault.errors import ConfigurationError
from token_vault.grant_key import GrantKey
from worker.auth0 import ManagementClient
from worker.auth0.errors import Auth0Error, MissingScope
from worker.erasure.confirmation import Confirmation
from worker.erasure.report import ErasureReport
from worker.erasure.revocation import RevocationOutcome, revoke
from worker.plural import pluralize
from worker.renewal.http import HttpClient
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.settings import Deletion, EventKind
from worker.sync.ingest import SyncIngest
from worker.sync.report import SyncReport
from worker.vault import outbox
from worker.vault.connections import presence
from worker.vault.grants import erase, missing, queries
from worker.vault.grants.erase import ErasureResult
from worker.vault.leases import try_lease
from worker.vault.sync_state import export_diff, runs
from worker.vault.vault import Vault
from worker.vault.wakeups import wake

log = structlog.get_logger(__name__)

# How many missing grants are confirmed together.
GRANTS_PER_BATCH = 100
# At most so often it is recorded that a sweep was held back.
HELD_BACK_INTERVAL = timedelta(hours=1)
# So many users may be erased at once without the operator's confirmation, unless they are more than half of the tenant's.
MAX_USERS_UNQUESTIONED = 20


class Eraser:
    """Erases one tenant's grants.

    Args:
        tenant: the tenant's name.
        vault: has the grants.
        connections: resolves each connection's OAuth client, for revocation.
        auth0: the tenant's Management API.
        http: the client that ``renewal.http`` makes.
        settings: the operator's.
    """

    def __init__(
        self,
        tenant: str,
        vault: Vault,
        connections: ConnectionResolver,
        auth0: ManagementClient,
        http: HttpClient,
        settings: Deletion,
    ) -> None:
        self._tenant = tenant
        self._vault = vault
        self._connections = connections
        self._auth0 = auth0
        self._http = http
        self._settings = settings
        self._ingest = SyncIngest(tenant, vault, connections, auth0)

    async def sweep(self, *, anyway: bool = False) -> ErasureReport:
        """Confirm and erase grants that have been missing long enough.

        Only one process sweeps at a time; others do nothing.

        Args:
            anyway: whether to erase however many are missing, and however briefly. The operator has confirmed it.

        Raises:
            Auth0Error, ConfigurationError: the sweep stopped. Grants confirmed before are erased.
        """
        report = ErasureReport(self._tenant)
        now = await self._vault.now()
        before = now if anyway else now - timedelta(seconds=self._settings.settle)
        await erase.delete_old_tombstones(self._vault, before=now - timedelta(seconds=self._settings.keep))
        async with try_lease(self._vault, f"sweep of {self._tenant}") as alone:
            if not alone:
                report.skipped = True
                return report
            if not anyway and (too_many := await self._too_many()):
                report.problems.append(too_many)
                await self._record_held_back(too_many, now)
                return report
            await self._sweep_connections(before, report, anyway=anyway)
            await self._sweep_grants(before, report)
            if report.erased:
                await runs.record_sweep(
                    self._vault, tenant=self._tenant, started_at=now, gone=report.erased, error=None
                )
                log.info("erasure.finished", tenant=self._tenant, erased=report.erased)
        return report

    async def withdraw(self, user_ids: Sequence[str]) -> None:
        """Stop serving tokens of users whom Auth0 lacks.

        Their grants are erased later, by a sweep: an identity may be another user's now, who gets the renewed tokens
        then. If too many users are missing, nothing is withdrawn.

        Args:
            user_ids: users that were just read by id, and not found.
        """
        if await self._too_many():
            return
        withdrawn = await missing.withdraw(self._vault, self._tenant, user_ids, now=await self._vault.now())
        if withdrawn:
            await wake(self._vault, withdrawn)
            log.info("erasure.withdrawn", tenant=self._tenant, grants=len(withdrawn))

    async def forget(self, user_id: str) -> ErasureReport:
        """Erase a user's grants, even if Auth0 has them.

        They are not ingested again from Auth0's copy, but a new login is.
        """
        report = ErasureReport(self._tenant)
        try:  # otherwise a login that was not ingested yet would later be taken for a new one
            await self._ingest.ingest_by_id(
                [user_id], await self._ingest.load_connections(), SyncReport(self._tenant, "user")
            )
        except (Auth0Error, MissingScope, ConfigurationError) as error:
            log.warning("erasure.lookup_failed", tenant=self._tenant, error=str(error))
        await export_diff.delete_users_to_sync(self._vault, self._tenant, [user_id])
        held = await queries.list_keys(self._vault, self._tenant, user_id)
        await self._erase([(grant_id, key) for grant_id, key in held], "forgotten", report)
        if not report.waiting:  # also events of grants that were moved or unlinked before
            async with self._vault.engine.begin() as transaction:
                await outbox.delete_users_events(transaction, self._tenant, user_id)
        log.info("erasure.user_forgotten", tenant=self._tenant, erased=report.erased)
        return report

    async def _record_held_back(self, reason: str, now: datetime) -> None:
        log.error("erasure.held_back", tenant=self._tenant, error=reason)
        last = await runs.last_started(self._vault, self._tenant, "sweep")
        if last is None or now - last > HELD_BACK_INTERVAL:
            await runs.record_sweep(self._vault, tenant=self._tenant, started_at=now, gone=0, error=reason)

    async def _sweep_grants(self, before: datetime, report: ErasureReport) -> None:
        ingested, after = SyncReport(self._tenant, "sweep"), 0
        confirmation = Confirmation(self._vault, self._auth0, self._ingest, ingested, report)
        while suspects := await missing.list_missing(
            self._vault, self._tenant, before=before, after=after, limit=GRANTS_PER_BATCH
        ):
            after = suspects[-1].id
            async for gone, reason in confirmation.confirm(suspects):
                await self._erase(gone, reason, report)
        report.problems += ingested.problems

    async def _sweep_connections(self, before: datetime, report: ErasureReport, *, anyway: bool) -> None:
        """Erase missing connections' admin grants and OAuth clients.

        A client is kept while other grants need it.
        """
        names, gone, everything = await presence.count_missing(self._vault, self._tenant, before=before)
        if not anyway and 2 * gone > everything:
            some = pluralize(gone, f"of {everything} connections seems", f"of {everything} connections seem")
            report.problems.append(
                f"{some} to be gone from Auth0's tenant {self._tenant}: their admin tokens are kept. Where it is so, "
                "run `token-vault sync --erase`; else check that the tenant is the right one"
            )
            return
        for name in names:
            if await self._revoke_admin(name, report):
                async with self._vault.engine.begin() as transaction:
                    erased = await erase.erase_connection(transaction, self._tenant, name)
                report.erased += len(erased)
                await wake(self._vault, erased)
                if erased:
                    log.info("erasure.connection_erased", tenant=self._tenant, connection=name)

    async def _revoke_admin(self, name: str, report: ErasureReport) -> bool:
        """Revoke an admin grant; return False if in use."""
        admin = await queries.find_admin_grant(self._vault, self._tenant, name)
        if admin is None:
            return True
        connection = (await self._connections.load([self._tenant], name))[self._tenant, name]
        return await self._revoke(admin, connection, report)

    async def _too_many(self) -> str | None:
        """Return a message if too many users are missing.

        Then the tenant may be the wrong one, or a search may have failed.
        """
        marked = await missing.count_missing_users(self._vault, self._tenant)
        # One missing user is plausible even in a tiny tenant. If all of a few are missing, the tenant is probably wrong.
        if marked <= 1 or (
            marked <= MAX_USERS_UNQUESTIONED
            and await missing.count_present_grants(self._vault, self._tenant, limit=marked) >= marked
        ):
            return None
        gone, everybody = await missing.count_users(self._vault, self._tenant)
        if gone <= self._settings.share * everybody:
            return None
        some = f"of {everybody} users in the vault"
        return (
            f"{pluralize(gone, f'{some} seems', f'{some} seem')} to be gone from Auth0's tenant {self._tenant}, more than "
            f"the share of {self._settings.share:g} that may be erased unasked: nothing was. Where it is so, run "
            "`token-vault sync --erase`; else check that the tenant and its scopes are the right ones"
        )

    async def _erase(
        self, grants: Iterable[tuple[int, GrantKey]], reason: str, report: ErasureReport
    ) -> None:
        """Revoke grants, if configured, then erase them."""
        known = await self._connections.load([self._tenant])
        for grant_id, key in grants:
            connection = known.get((key.tenant, key.connection))
            if not await self._revoke(grant_id, connection, report):
                continue
            now = await self._vault.now()
            async with self._vault.engine.begin() as transaction:
                erased = await erase.erase(self._vault, transaction, grant_id, key, reason=reason, now=now)
                if erased is ErasureResult.LAST and reason != "unlinked":
                    await outbox.emit(
                        transaction,
                        EventKind.FORGOTTEN,
                        tenant=key.tenant,
                        user_id=key.user_id,
                        state="erased",
                        reason=reason,
                    )
            await wake(self._vault, [grant_id])
            report.erased += erased is not ErasureResult.NOTHING

    async def _revoke(
        self, grant_id: int, connection: ResolvedConnection | None, report: ErasureReport
    ) -> bool:
        """Revoke a grant, if configured; return False if in use."""
        client = connection.client if connection else None
        provider = connection.provider if connection else None
        if client is None or provider is None or client.revocation_url is None:
            return True
        now = await self._vault.now()
        outcome = await revoke(self._vault, self._http, grant_id, client, provider, now=now)
        report.waiting += outcome is RevocationOutcome.BUSY
        report.not_revoked += outcome is RevocationOutcome.FAILED
        return outcome is not RevocationOutcome.BUSY
