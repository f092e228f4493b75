"""The vault's tables, as typed models.

Only the vault uses them; migrations are checked against them.
"""

from worker.vault.db.tables.base import Base
from worker.vault.db.tables.connections import ConnectionRow
from worker.vault.db.tables.consumers import ConsumerRow
from worker.vault.db.tables.grants import GRANT_STATES, GrantRow
from worker.vault.db.tables.location import VaultLocation
from worker.vault.db.tables.outbox import DeliveryRow, OutboxRow
from worker.vault.db.tables.pauses import PauseRow
from worker.vault.db.tables.processes import LeaseRow, WorkerHeartbeatRow
from worker.vault.db.tables.renewal import (
    RefreshDigestRow,
    RefreshRequestRow,
    RefusalRow,
    RenewalCount,
    ResourceTokenRow,
)
from worker.vault.db.tables.revocations import RevocationRow
from worker.vault.db.tables.secrets import ManagementTokenRow, VaultSecret
from worker.vault.db.tables.sync import ChangedUserRow, SyncCursorRow, SyncRun, UserToSync

__all__ = [
    "GRANT_STATES",
    "Base",
    "ChangedUserRow",
    "ConnectionRow",
    "ConsumerRow",
    "DeliveryRow",
    "GrantRow",
    "LeaseRow",
    "ManagementTokenRow",
    "OutboxRow",
    "PauseRow",
    "RefreshDigestRow",
    "RefreshRequestRow",
    "RefusalRow",
    "RenewalCount",
    "ResourceTokenRow",
    "RevocationRow",
    "SyncCursorRow",
    "SyncRun",
    "UserToSync",
    "VaultLocation",
    "VaultSecret",
    "WorkerHeartbeatRow",
]
