"""The natural key of a grant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class GrantKey:
    """The natural key of a grant in tables and ciphertexts.

    Attributes:
        tenant: the tenant's name in the configuration.
        connection: the name of the Auth0 connection.
        user_id: Auth0's user id; empty for the admin token of an enterprise connection.
        provider_user_id: the user's id at the provider; empty for an admin token.
    """

    tenant: str
    connection: str
    user_id: str = ""
    provider_user_id: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether this is the admin grant of an enterprise connection."""
        return not self.user_id

    def __str__(self) -> str:
        who = f"user {self.user_id}" if self.user_id else "admin"
        return f"{who} of connection {self.connection}"
