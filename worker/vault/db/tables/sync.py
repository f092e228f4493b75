"""Tables of sync runs and cursors."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Identity,
    Index,
    Integer,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class SyncRun(Base):
    """A run of a sync, and how it ended."""

    __tablename__ = "sync_runs"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str]
    scope: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seen: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    new: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    changed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    unchanged: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    stale: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Grants whose identity Auth0 no longer has: marked missing by a sync, or erased by a sweep.
    gone: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Whether it reached its end, even with problems.
    complete: Mapped[bool] = mapped_column(server_default=text("false"))
    # How often it was resumed: a killed full scan does not start over.
    resumed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    notes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    error: Mapped[str | None]

    __table_args__ = (Index("sync_runs_latest_idx", "tenant", "started_at"),)


class SyncCursorRow(Base):
    """How far a sync has read.

    It is committed with each page, so a killed sync resumes there.
    """

    __tablename__ = "sync_cursors"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    # `users` and `users of …`: a full scan by creation. `updated`: a scan by change. `log`, `events`: Auth0's feeds.
    # `export`: a reconciliation by an export job.
    feed: Mapped[str] = mapped_column(primary_key=True)
    # Where to continue: depending on the feed, an id or a time.
    token: Mapped[str | None]
    page: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # The time up to which the feed has been read.
    read_until: Mapped[datetime | None]
    # The sync run that is under way.
    run_id: Mapped[int | None] = mapped_column(BigInteger)


class UserToSync(Base):
    """A user whom an export names as changed.

    The row is deleted once the user was read by id.
    """

    __tablename__ = "users_to_sync"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)


class ChangedUserRow(Base):
    """A user named by Auth0's hooks, until synced."""

    __tablename__ = "changed_users"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    # Empty if the tenant's connections have changed.
    user_id: Mapped[str] = mapped_column(primary_key=True)
    # When it was last named.
    reported_at: Mapped[datetime]
    due_at: Mapped[datetime]
    # The deadline of the worker that syncs it.
    claimed_until: Mapped[datetime | None]
    synced_at: Mapped[datetime | None]

    __table_args__ = (
        Index("changed_users_due_idx", "tenant", "due_at", postgresql_where=text("synced_at IS NULL")),
    )
