"""Identities as the parameters of ``identities.sql``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from token_vault.grant_key import GrantKey


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
    rows = [
        {"tenant": key.tenant, "connection": key.connection, "user_id": key.user_id, "provider_user_id": key.provider_user_id}
        for key in keys
    ]  # fmt: skip
    for name, times in (("updated_at", updated_at), ("created_at", created_at)):
        for row, time in zip(rows, times, strict=False):
            if time is not None:
                row[name] = time.isoformat()
    return {"identities": json.dumps(rows)}
