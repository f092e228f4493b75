"""Identities as the parameters of ``identities.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from token_vault.grant_key import GrantKey
from worker.vault.db.arrays import text_array, time_array


def identity_parameters(
    keys: Sequence[GrantKey],
    *,
    updated_at: Sequence[datetime | None] = (),
    created_at: Sequence[datetime | None] = (),
) -> dict[str, str]:
    """Return the parameters for these identities.

    Args:
        updated_at, created_at: times of their users, in the same order; none by default.
    """
    return {
        "tenants": text_array([key.tenant for key in keys]),
        "connections": text_array([key.connection for key in keys]),
        "users": text_array([key.user_id for key in keys]),
        "identities": text_array([key.provider_user_id for key in keys]),
        "updated": time_array(updated_at),
        "created": time_array(created_at),
    }
