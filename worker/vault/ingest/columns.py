"""Turns Auth0's copy of a grant into its columns.

Without I/O; tokens are encrypted here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from worker.token_pair import TokenPair
from worker.vault import schedule
from worker.vault.crypto.extra import encrypt_extra
from worker.vault.ingest.freshness import Freshness, Incoming, Stored
from worker.vault.vault import Vault


# Not frozen: a frozen one takes twice as long to make, and a page has a hundred of them.
@dataclass(slots=True)
class IncomingGrant:
    """The tokens of one grant, as Auth0 shows them.

    Attributes:
        key: of a user's identity, or of a connection's admin grant.
        strategy: of the connection, needed if the connection itself is not stored yet.
        pair: the tokens; ``expires_at`` only if it is reliable.
        updated_at: of the user; None for admin tokens.
        issued_at: of the access token; None if not reliably known.
        user_created_at: when the user was created at Auth0; None for admin tokens.
        exchangeable: the provider renews by the access token itself, without a refresh token.
        policy: how the connection's grants are kept fresh.
    """

    key: GrantKey
    strategy: str
    pair: TokenPair
    updated_at: datetime | None
    issued_at: datetime | None
    user_created_at: datetime | None = None
    exchangeable: bool = False
    policy: schedule.RenewalPolicy = schedule.EAGER


FingerprintedGrant = tuple[IncomingGrant, Incoming]
"""A grant as Auth0 shows it, with its fingerprints."""

# The only columns that an ingest may change.
INGESTED_COLUMNS = (
    "state", "reason", "reason_since", "access_ciphertext", "access_version", "refresh_ciphertext", "refresh_version",
    "expires_at", "refresh_expires_at", "consent_expires_at", "consented_at", "consent_is_counted", "scopes", "extra_ciphertext", "obtained_at", "obtained_from", "observed_access",
    "observed_refresh", "observed_updated_at", "user_created_at", "due_at", "claim_owner", "claimed_at", "claim_until",
    "awaited", "in_doubt_since", "attempts", "last_error",
)  # fmt: skip
# Columns that record what Auth0 showed, also where no token is stored.
OBSERVED_COLUMNS = ("observed_access", "observed_refresh", "observed_updated_at", "user_created_at")


def row_key(row: Mapping[str, Any]) -> GrantKey:
    """Return the key of a row's grant."""
    return GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])


def as_stored(row: Mapping[str, Any]) -> Stored:
    """Return a row's values to compare with Auth0's copy."""
    return Stored(
        observed_access=row["observed_access"],
        observed_refresh=row["observed_refresh"],
        observed_updated_at=row["observed_updated_at"],
        has_access=row["has_access"],
        expires_at=row["expires_at"],
        obtained_at=row["obtained_at"],
        renewable=row["state"] in ("active", "in_doubt"),
        from_auth0=row["obtained_from"] == "auth0",
        imported_at=row.get("imported_at"),
    )


EMPTY: Mapping[str, Any] = dict.fromkeys(INGESTED_COLUMNS) | {
    "access_version": 0, "refresh_version": 0, "attempts": 0, "awaited": False, "has_access": False, "consent_is_counted": True,
    "state": "unrenewable", "reason": "no_refresh_token", "obtained_from": "auth0",
}  # fmt: skip


def identity_columns(key: GrantKey) -> dict[str, Any]:
    """Return the columns of a grant's key."""
    return {
        "tenant": key.tenant,
        "connection": key.connection,
        "user_id": key.user_id,
        "provider_user_id": key.provider_user_id,
    }


def observed_columns(grant: IncomingGrant, incoming: Incoming, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that record what Auth0 showed last.

    Where Auth0 shows nothing now, the earlier value is kept: the same token, shown again later, is not new.
    """
    return {
        "observed_access": incoming.access or row["observed_access"],
        "observed_refresh": incoming.refresh or row["observed_refresh"],
        "observed_updated_at": incoming.updated_at or row["observed_updated_at"],
        "user_created_at": grant.user_created_at or row["user_created_at"],
    }


def ingested_columns(
    vault: Vault,
    grant: IncomingGrant,
    incoming: Incoming,
    freshness: Freshness,
    row: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """Return the row with its new columns.

    Only those of ``INGESTED_COLUMNS`` are changed.
    """
    columns = {**row, **observed_columns(grant, incoming, row)}
    pair = grant.pair
    if freshness.access and pair.access:
        version = row["access_version"] + 1
        columns |= {
            "access_ciphertext": vault.access.encrypt(
                EncryptionContext.of_access_token(grant.key, version, pair.expires_at), pair.access
            ),
            "access_version": version,
            "expires_at": pair.expires_at,
            "obtained_at": grant.issued_at,
            "obtained_from": "auth0",
            "scopes": list(pair.scopes) if pair.scopes is not None else row["scopes"],
        }
        if extra := encrypt_extra(vault.access, grant.key, pair.extra):
            columns["extra_ciphertext"] = extra
    if freshness.refresh and pair.refresh:
        version = row["refresh_version"] + 1
        columns |= {
            "refresh_ciphertext": vault.refresh.encrypt(
                EncryptionContext.of_grant(grant.key, "refresh", version), pair.refresh
            ),
            "refresh_version": version,
            "refresh_expires_at": pair.refresh_expires_at,
            "consent_expires_at": pair.consent_expires_at,  # a new login is a new consent
            "consent_is_counted": pair.consent_expires_at is None,
            "consented_at": _latest_consent(grant, now),
        }
    if columns["state"] == "erased":  # the new login after the erasure is a new consent
        columns |= {"state": EMPTY["state"], "reason": EMPTY["reason"], "reason_since": None}
    if freshness.refresh or (grant.exchangeable and freshness.access):
        columns |= {
            "state": "active", "reason": None, "reason_since": None, "in_doubt_since": None, "attempts": 0,
            "last_error": None,
            # A claim on the replaced token is void: its answer is older than this login.
            "claim_owner": None, "claimed_at": None, "claim_until": None, "awaited": False,
        }  # fmt: skip
    if columns["state"] in ("active", "in_doubt") and columns["claim_owner"] is None:
        has_access = freshness.access or bool(row.get("has_access"))
        columns["due_at"] = (
            schedule.after_sync(
                columns["expires_at"], columns["obtained_at"], now, random.random(),  # noqa: S311  # jitter
                grant.policy, row.get("last_read_at"),
            )
            if has_access or grant.policy.is_dormant(row.get("last_read_at"), now)
            else now
        )  # fmt: skip
    return columns


def _latest_consent(grant: IncomingGrant, now: datetime) -> datetime:
    """Return when the user consented at the latest.

    The refresh token came with a login, which changed the user at Auth0.
    """
    return min([moment for moment in (grant.issued_at, grant.updated_at, now) if moment is not None])
