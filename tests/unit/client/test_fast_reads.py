"""Reads that the cache answers without more ado."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from token_vault import AsyncTokenVault, Token, TokenVault
from token_vault.errors import TokenNotFound
from token_vault.keyring import KeyRing

URL = "postgresql://u@127.0.0.1:9/none"
OWN = Token("own", None, None)


class _Cache:
    def take(self, *_: object) -> Token:
        """Return the grant's own token."""
        return OWN


class _Flow:
    def token(self, query: object) -> Any:
        """Find nothing in Postgres."""
        del query
        raise TokenNotFound("nothing")


@pytest.mark.parametrize("asked", [{"resource": "https://graph.example"}, {"scopes": ["files"]}])
def test_a_token_for_a_target_is_not_the_grant_s_own(asked: dict[str, Any]) -> None:
    """The cache knows the grant's own token by user and connection; another resource's is another one."""
    for reader in (TokenVault, AsyncTokenVault):
        vault: Any = reader(URL, [KeyRing.generate()])
        vault._fast, vault._flow = _Cache(), _Flow()

        def read(vault: Any = vault, **target: Any) -> Token:
            found = vault.user_token("u", "c", **target)
            token: Token = found if isinstance(found, Token) else asyncio.run(found)
            return token

        assert read() is OWN
        with pytest.raises(TokenNotFound):
            read(**asked)


def test_a_note_that_fails_hinders_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes are made one at a time, and the next one may be."""
    vault = TokenVault(URL, [KeyRing.generate()])

    def fail(*_: object) -> Any:
        raise TokenNotFound("away")

    monkeypatch.setattr(vault._pool, "rows", fail)
    assert vault._notes.acquire(blocking=False)
    vault._note(7)
    assert vault._notes.acquire(blocking=False)
