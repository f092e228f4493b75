"""Identities as the parameters of ``identities.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from token_vault.grant_key import GrantKey


def identity_parameters(
    keys: Sequence[GrantKey],
    *,
    updated_at: Sequence[datetime | None] = (),
    created_at: Sequence[datetime | None] = (),
) -> dict[str, Any]:
    """Return the parameters that stand for these identities.

    Args:
        updated_at, created_at: of their users, in the same order; none by default.
    """
    return {
        "tenants": [key.tenant for key in keys],
        "connections": [key.connection for key in keys],
        "user_ids": [key.user_id for key in keys],
        "provider_user_ids": [key.provider_user_id for key in keys],
        "updated_at": list(updated_at),
        "created_at": list(created_at),
    }
