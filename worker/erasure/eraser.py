"""Confirms that what seems gone is gone, and erases it.

What is held of a user is never erased because a list did not show them: Auth0 is asked by id, and whether the
identity is another user's now. A refresh token that we have renewed exists nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import httpx
import structlog

from token_vault.errors import ConfigurationError
from token_vault.grant_key import GrantKey
from worker.auth0 import Auth0User, ManagementClient
from worker.auth0.errors import CALL_INDEPENDENT_ERRORS, Auth0Error, MissingScope
from worker.erasure.revocation import RevocationOutcome, revoke
from worker.providers import Client
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.settings import Deletion, EventKind
from worker.sync.ingest import SyncIngest
from worker.sync.report import SyncReport
from worker.vault import outbox
from worker.vault.db.advisory_locks import held_alone
from worker.vault.db.database import Vault
from worker.vault.grants import erase, missing, queries
from worker.vault.grants.erase import Erased
from worker.vault.grants.missing import Missing
from worker.vault.grants.relink import move
from worker.vault.sync_state import export_diff, runs

log = structlog.get_logger(__name__)

GRANTS_PER_BATCH = 100
# A sweep that is held back is recorded this often.
HELD_BACK_INTERVAL = timedelta(hours=1)
# So few users may always seem gone at once, unless they are more than half of the tenant's.
MAX_USERS_UNQUESTIONED = 20


@dataclass(slots=True)
class ErasureReport:
    """What was erased.

    Attributes:
        erased: how many grants.
        found: how many that seemed gone Auth0 has after all.
        waiting: how many are left for the next sweep: in use just now, or not to be read.
        not_revoked: how many were erased here, but could not be revoked at their provider as configured.
        problems: what the operator has to know, each a whole sentence.
        skipped: another process sweeps.
    """

    tenant: str
    erased: int = 0
    found: int = 0
    waiting: int = 0
    not_revoked: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: bool = False


class Eraser:
    """Erases one tenant's grants.

    Args:
        tenant: the tenant's name.
        vault: where they are.
        connections: resolves each connection's client, for revocation.
        auth0: the tenant's Management API.
        http: as ``sending.http_client`` makes it.
        settings: what the operator has set.
    """

    def __init__(
        self,
        tenant: str,
        vault: Vault,
        connections: ConnectionResolver,
        auth0: ManagementClient,
        http: httpx.AsyncClient,
        settings: Deletion,
    ) -> None:
        self._tenant = tenant
        self._vault = vault
        self._connections = connections
        self._auth0 = auth0
        self._http = http
        self._settings = settings
        self._keeping = SyncIngest(tenant, vault, connections, auth0)

    async def sweep(self, *, anyway: bool = False) -> ErasureReport:
        """Confirm and erase all that has seemed gone for long enough; one process at a time, others skip.

        Args:
            anyway: the operator knows how many seem gone, and says that it is so: nothing is held back or waited for.

        Raises:
            Auth0Error, ConfigurationError: after what was confirmed until then is erased.
        """
        swept = ErasureReport(self._tenant)
        now = await self._vault.now()
        before = now if anyway else now - timedelta(seconds=self._settings.settle)
        await erase.forget_tombstones(self._vault, before=now - timedelta(seconds=self._settings.keep))
        async with held_alone(self._vault, f"sweep of {self._tenant}") as alone:
            if not alone:
                swept.skipped = True
                return swept
            if not anyway and (too_many := await self._too_many()):
                swept.problems.append(too_many)
                log.error("erasure.held_back", tenant=self._tenant, problem=too_many)
                last = await runs.last_began(self._vault, self._tenant, "sweep")
                if last is None or now - last > HELD_BACK_INTERVAL:
                    await runs.note_sweep(self._vault, tenant=self._tenant, began=now, gone=0, error=too_many)
                return swept
            await self._sweep_connections(before, swept, anyway=anyway)
            report, after = SyncReport(self._tenant, "sweep"), 0
            while found := await missing.waiting(
                self._vault, self._tenant, before=before, after=after, limit=GRANTS_PER_BATCH
            ):
                after = found[-1].id
                await self._confirm(found, report, swept)
            swept.problems += report.problems
            if swept.erased:
                await runs.note_sweep(
                    self._vault, tenant=self._tenant, began=now, gone=swept.erased, error=None
                )
                log.info("erasure.done", tenant=self._tenant, erased=swept.erased)
        return swept

    async def forget(self, user_id: str) -> ErasureReport:
        """Erase all that is held of a user, whether Auth0 has the user or not.

        What Auth0 goes on showing of the user is not taken again; a new login is.
        """
        swept = ErasureReport(self._tenant)
        try:  # a login that was not seen yet would pass for a new one
            await self._keeping.ingest_by_id(
                [user_id], await self._keeping.load_connections(), SyncReport(self._tenant, "user")
            )
        except (Auth0Error, MissingScope, ConfigurationError) as error:
            log.warning("erasure.not_seen_before", tenant=self._tenant, problem=str(error))
        await export_diff.asked(self._vault, self._tenant, [user_id])
        held = await queries.keys(self._vault, self._tenant, user_id)
        await self._erase([(grant_id, key) for grant_id, key in held], "forgotten", swept)
        if not swept.waiting:  # of grants that were moved or unlinked before, too
            async with self._vault.engine.begin() as transaction:
                await outbox.forget_user(transaction, self._tenant, user_id)
        log.info("erasure.forgotten", tenant=self._tenant, erased=swept.erased)
        return swept

    async def _sweep_connections(self, before: datetime, swept: ErasureReport, *, anyway: bool) -> None:
        """Erase what only the connection itself has: the admin's tokens and, once nobody needs it, its client."""
        names, gone, everything = await missing.waiting_connections(self._vault, self._tenant, before=before)
        if not anyway and 2 * gone > everything:
            swept.problems.append(
                f"{gone} of {everything} connections seem to be gone from Auth0's tenant {self._tenant}: their admin "
                "tokens are kept. Where it is so, run `token-vault sync --erase`; else check that the tenant is the "
                "right one"
            )
            return
        for name in names:
            if await self._is_revoked(name, swept):
                async with self._vault.engine.begin() as transaction:
                    erased = await erase.erase_connection(transaction, self._tenant, name)
                swept.erased += erased
                if erased:
                    log.info("erasure.connection", tenant=self._tenant, connection=name)

    async def _is_revoked(self, name: str, swept: ErasureReport) -> bool:
        """Revoke a connection's admin grant where that is configured; False where it is in use just now."""
        admin = await queries.admin(self._vault, self._tenant, name)
        if admin is None:
            return True
        client = (await self._connections.load([self._tenant], name))[self._tenant, name].client
        return await self._revoke(admin, client, swept)

    async def _too_many(self) -> str | None:
        """Why nothing is erased, where more seem gone than is likely: a wrong tenant, or a search that failed."""
        marked = await missing.count(self._vault, self._tenant)
        # One of one, or one of two, may well be deleted; all of a few are more likely another tenant's.
        if marked <= 1 or (
            marked <= MAX_USERS_UNQUESTIONED
            and await missing.present(self._vault, self._tenant, limit=marked) >= marked
        ):
            return None
        gone, everybody = await missing.share(self._vault, self._tenant)
        if gone <= self._settings.share * everybody:
            return None
        return (
            f"{gone} of {everybody} users in the vault seem to be gone from Auth0's tenant {self._tenant}, more than "
            f"the share of {self._settings.share:g} that may be erased unasked: nothing was. Where it is so, run "
            "`token-vault sync --erase`; else check that the tenant and its scopes are the right ones"
        )

    async def _confirm(self, suspects: Sequence[Missing], report: SyncReport, swept: ErasureReport) -> None:
        """Ask Auth0 by id for the users of these grants, and by identity for those that no user of theirs has."""
        known = await self._keeping.load_connections()
        asked = list(dict.fromkeys(each.key.user_id for each in suspects))
        users = await self._keeping.ingest_by_id(asked, known, report)
        present = [each for each in suspects if _has(users.get(each.key.user_id), each.key)]
        await missing.found(self._vault, [each.id for each in present])
        swept.found += len(present)
        unreadable = [
            each for each in suspects if each.key.user_id not in users or _is_partial(users[each.key.user_id])
        ]
        swept.waiting += len(set(unreadable) - set(present))
        kept = set(present) | set(unreadable)
        for user_id in asked:
            gone = []
            for each in suspects:
                if each.key.user_id != user_id or each in kept:
                    continue
                if await self._may_be_elsewhere(each, known, report, swept):
                    swept.waiting += 1
                else:
                    gone.append((each.id, each.key))
            # What is another's moves first, so that the last one erased is known to be the user's last.
            if gone:
                await self._erase(gone, "deleted" if users.get(user_id) is None else "unlinked", swept)

    async def _may_be_elsewhere(
        self,
        suspect: Missing,
        known: Mapping[tuple[str, str], ResolvedConnection],
        report: SyncReport,
        swept: ErasureReport,
    ) -> bool:
        """Whether another user may have the identity now: asking for that user moves the grant, with our tokens."""
        key = suspect.key
        try:
            holders = await self._auth0.users_with_identity(key.connection, key.provider_user_id)
        except CALL_INDEPENDENT_ERRORS:
            raise
        except Auth0Error as refused:  # a search for this one: the others are not to wait for it
            swept.problems.append(str(refused))
            return True
        found = await self._keeping.ingest_by_id([user.user_id for user in holders], known, report)
        users = [user for user in found.values() if user is not None]
        await move(self._vault, list(_moves(suspect, users)), now=await self._vault.now())
        await self._keeping.record_tokenless(users)
        return bool(holders)

    async def _erase(self, grants: Iterable[tuple[int, GrantKey]], reason: str, swept: ErasureReport) -> None:
        """Revoke where that is configured, then overwrite with nothing."""
        known = await self._connections.load([self._tenant])
        for grant_id, key in grants:
            connection = known.get((key.tenant, key.connection))
            client = connection.client if connection else None
            if not await self._revoke(grant_id, client, swept):
                continue
            now = await self._vault.now()
            async with self._vault.engine.begin() as transaction:
                erased = await erase.erase(self._vault, transaction, grant_id, key, reason=reason, now=now)
                if erased is Erased.LAST and reason != "unlinked":
                    await outbox.tell(
                        transaction,
                        EventKind.FORGOTTEN,
                        tenant=key.tenant,
                        user_id=key.user_id,
                        state="erased",
                        reason=reason,
                    )
            swept.erased += erased is not Erased.NOTHING

    async def _revoke(self, grant_id: int, client: Client | None, swept: ErasureReport) -> bool:
        """Revoke a grant where that is configured; False where it is in use just now."""
        if client is None or client.revocation_url is None:
            return True
        outcome = await revoke(self._vault, self._http, grant_id, client, now=await self._vault.now())
        swept.waiting += outcome is RevocationOutcome.BUSY
        swept.not_revoked += outcome is RevocationOutcome.FAILED
        return outcome is not RevocationOutcome.BUSY


def _has(user: Auth0User | None, key: GrantKey) -> bool:
    return user is not None and any(
        (identity.connection, identity.user_id) == (key.connection, key.provider_user_id)
        for identity in user.identities
    )


def _moves(suspect: Missing, users: Iterable[Auth0User]) -> Iterator[tuple[int, GrantKey, datetime | None]]:
    """Where a grant goes whose identity shows no token with the user who has it now: no sync would take it there."""
    for user in users:
        for identity in user.identities:
            key = GrantKey(suspect.key.tenant, identity.connection, user.user_id, identity.user_id)
            if key == replace(suspect.key, user_id=user.user_id) and not (
                identity.access_token or identity.refresh_token
            ):
                yield suspect.id, key, user.updated_at


def _is_partial(user: Auth0User | None) -> bool:
    """Whether an answer cannot tell which identities are gone."""
    return user is not None and (bool(user.malformed) or not user.identities)
