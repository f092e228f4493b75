"""Confirms with Auth0 that missing grants are gone.

A grant is not erased only because a list did not show it: the user is read by id, and the identity is searched, as it
may be another user's now. A refresh token that the vault has renewed exists nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from token_vault.grant_key import GrantKey
from worker.auth0 import Auth0User, ManagementClient
from worker.auth0.errors import CALL_INDEPENDENT_ERRORS, Auth0Error
from worker.erasure.report import ErasureReport
from worker.resolved_connections import ResolvedConnection
from worker.sync.ingest import SyncIngest
from worker.sync.report import SyncReport
from worker.vault.grants import missing
from worker.vault.grants.missing import MissingGrant
from worker.vault.grants.relink import relink
from worker.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Confirms the missing grants of one sweep.

    Attributes:
        vault: has the grants.
        auth0: the tenant's Management API.
        ingest: ingests the users that were read.
        ingested: the report of these ingests.
        report: the sweep's report.
    """

    vault: Vault
    auth0: ManagementClient
    ingest: SyncIngest
    ingested: SyncReport
    report: ErasureReport

    async def confirm(
        self, suspects: Sequence[MissingGrant]
    ) -> AsyncIterator[tuple[list[tuple[int, GrantKey]], str]]:
        """Yield each user's grants that are gone, and the reason.

        The grants' users are read by id. Grants that these do not have any more are searched by their identity.
        """
        known = await self.ingest.load_connections()
        user_ids = list(dict.fromkeys(each.key.user_id for each in suspects))
        users = await self.ingest.ingest_by_id(user_ids, known, self.ingested)
        undecided = await self._sort_out(suspects, users)
        for user_id in user_ids:
            gone: list[tuple[int, GrantKey]] = []
            for each in undecided:
                if each.key.user_id != user_id:
                    continue
                if await self._may_be_elsewhere(each, known):
                    self.report.waiting += 1
                else:
                    gone.append((each.id, each.key))
            # Grants that are another user's now have been moved by here, so the erasure knows a user's last grant.
            if gone:
                yield gone, "deleted" if users.get(user_id) is None else "unlinked"

    async def _sort_out(
        self, suspects: Sequence[MissingGrant], users: Mapping[str, Auth0User | None]
    ) -> list[MissingGrant]:
        """Unmark grants that Auth0 has; return those that it lacks."""
        present = [each for each in suspects if _has(users.get(each.key.user_id), each.key)]
        await missing.unmark(self.vault, [each.id for each in present])
        self.report.found += len(present)
        unreadable = [
            each for each in suspects if each.key.user_id not in users or _is_partial(users[each.key.user_id])
        ]
        self.report.waiting += len(set(unreadable) - set(present))
        decided = set(present) | set(unreadable)
        return [each for each in suspects if each not in decided]

    async def _may_be_elsewhere(
        self, suspect: MissingGrant, known: Mapping[tuple[str, str], ResolvedConnection]
    ) -> bool:
        """Return whether another user may have the identity now.

        If one has, that user is ingested, and the grant is moved there with its renewed tokens.
        """
        key = suspect.key
        try:
            holders = await self.auth0.users_with_identity(key.connection, key.provider_user_id)
        except CALL_INDEPENDENT_ERRORS:
            raise
        except Auth0Error as refused:  # concerns only this search: the other grants can still be confirmed
            self.report.problems.append(str(refused))
            return True
        found = await self.ingest.ingest_by_id([user.user_id for user in holders], known, self.ingested)
        users = [user for user in found.values() if user is not None]
        await relink(self.vault, list(_moves(suspect, users)), now=await self.vault.now())
        await self.ingest.record_tokenless(users)
        return bool(holders)


def _has(user: Auth0User | None, key: GrantKey) -> bool:
    return user is not None and any(
        (identity.connection, identity.user_id) == (key.connection, key.provider_user_id)
        for identity in user.identities
    )


def _moves(
    suspect: MissingGrant, users: Iterable[Auth0User]
) -> Iterator[tuple[int, GrantKey, datetime | None]]:
    """Yield new keys of a grant without tokens at Auth0.

    Without a token a sync would not move it to the user who has the identity now.
    """
    for user in users:
        for identity in user.identities:
            key = GrantKey(suspect.key.tenant, identity.connection, user.user_id, identity.user_id)
            if key == replace(suspect.key, user_id=user.user_id) and not (
                identity.access_token or identity.refresh_token
            ):
                yield suspect.id, key, user.updated_at


def _is_partial(user: Auth0User | None) -> bool:
    """Return whether a user's identities could not all be read."""
    return user is not None and (bool(user.malformed) or not user.identities)
