"""Which account a consent link hints at."""

from __future__ import annotations

import pytest

from worker.vault.grants.consent_link import login_hint


@pytest.mark.parametrize(
    ("provider", "accounts", "hint"),
    [
        ("google", ["1111"], "1111"),
        ("oidc", ["ada@acme.example"], "ada@acme.example"),
        ("entra", ["a1b2"], None),
        ("google", ["1111", "2222"], None),
        ("google", [None], None),
        ("google", [], None),
    ],
)
def test_an_account_is_hinted_at_where_its_provider_knows_the_id(
    provider: str, accounts: list[str], hint: str | None
) -> None:
    """Google takes the account's id, every provider an address; one of several accounts is not guessed."""
    grants = [{"provider": provider, "provider_user_id": account} for account in accounts]
    assert login_hint(grants) == hint
