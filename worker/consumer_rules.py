"""Who may read what, as the database's views decide.

The views enforce the rules for consumers that log in to Postgres; for all others the callers of this module do.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Literal

from token_vault.grant_key import GrantKey

AuditMode = Literal["batched", "strict"]

# Secret scanners recognise keys by their prefix.
API_KEY_PREFIX = "tvk_"
_HASH_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class ConsumerRules:
    """What one consumer may read, and how it is known.

    Attributes:
        client_id: its machine application at Auth0.
        role: the Postgres role that it logs in as.
        api_key_hash: the result of ``hash_api_key``.
        tenants: the tenants whose grants it may read; None for all.
        connections: globs of connections' names; ``*`` stands for any characters.
        users, admins: whether it may read users' tokens, and admin tokens.
        refresh: whether it may force the renewal of a token that is still valid.
        impersonate: whether it may call providers' APIs for users whom it names.
        audit: ``strict`` refuses a read that cannot be recorded.
        inherited: created by a migration, for a role that could read before consumers existed.
    """

    name: str
    connections: tuple[str, ...]
    client_id: str | None = None
    role: str | None = None
    api_key_hash: str | None = None
    tenants: tuple[str, ...] | None = None
    users: bool = True
    admins: bool = False
    refresh: bool = False
    impersonate: bool = False
    audit: AuditMode = "batched"
    inherited: bool = False

    def may_read(self, grant: GrantKey) -> bool:
        """Say whether it may read a grant's token."""
        return (
            (self.users if grant.user_id else self.admins)
            and (self.tenants is None or grant.tenant in self.tenants)
            and any(matches(glob, grant.connection) for glob in self.connections)
        )

    def may_refresh(self, grant: GrantKey) -> bool:
        """Return whether it may force a refresh."""
        return self.refresh and self.may_read(grant)

    def has_api_key(self, key: str) -> bool:
        """Return whether an API key is this consumer's.

        Compared in constant time.
        """
        return self.api_key_hash is not None and hmac.compare_digest(self.api_key_hash, hash_api_key(key))


def matches(glob: str, name: str) -> bool:
    """Return whether a glob matches a whole name.

    ``*`` stands for any number of characters, also none.
    """
    first, *rest = glob.split("*")
    if not rest:
        return name == glob
    *middle, last = rest
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    # The first match of each part leaves the longest rest for the parts that follow.
    position, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def make_api_key() -> str:
    """Make an API key of 256 random bits."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


def hash_api_key(key: str) -> str:
    """Hash an API key for look-ups.

    One round is enough: the key is random, so it cannot be guessed as a password can.
    """
    return _HASH_PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
