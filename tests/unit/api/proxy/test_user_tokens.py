"""Which token a call through the proxy is made with."""

from __future__ import annotations

from typing import Any, cast

import pytest

from token_vault.read_records import SERVED, ReadRecord
from token_vault.token import Token
from worker.api.proxy.user_tokens import UserTokens


class Service:
    """Readers that all give the newest token, and what they are asked for."""

    def __init__(self) -> None:
        self.value = "one"
        self.asked: list[tuple[str, str, str | None]] = []
        self.rejections: list[str] = []

    def reader(self, tenant: str | None, *, refreshing: bool = False) -> Service:
        assert tenant == "acme"
        del refreshing
        return self

    async def user_token(
        self, user_id: str, connection: str, *, account: str | None = None, **_: Any
    ) -> Token:
        self.asked.append((user_id, connection, account))
        return Token(self.value, None, None)

    async def rejected(self, token: Token) -> None:
        self.rejections.append(token.value)

    async def write_record(self, record: ReadRecord, *, strict: bool) -> None: ...

    def forget(self, token: Token) -> None: ...


@pytest.mark.parametrize("account", ["1234", None])
async def test_every_token_is_of_the_named_account(account: str | None) -> None:
    """A user's other account is another one; what was replaced meanwhile is not rejected again."""
    service = Service()
    read = ReadRecord("u|1", "c", SERVED, tenant="acme", account=account)
    tokens = UserTokens(cast(Any, service), read, None)
    assert (await tokens.current()).reveal() == "one"
    await tokens.replace()
    assert service.rejections == ["one"]
    service.value = "two"
    assert (await tokens.replace()).reveal() == "two"
    assert service.rejections == ["one"]
    assert {*service.asked} == {("u|1", "c", account)}
