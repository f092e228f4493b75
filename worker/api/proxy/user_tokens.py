"""A user's tokens for calls through the proxy."""

from __future__ import annotations

import time
from contextlib import suppress

from token_vault import AsyncTokenVault
from token_vault.errors import VaultError
from token_vault.read_records import SERVED, ReadRecord
from token_vault.secret import Secret
from token_vault.token import Token
from worker.api.service import Service
from worker.consumer_rules import ConsumerRules

# How long a refresh may take, before the provider's API is called.
TOKEN_WAIT_SECONDS = 5.0


class UserTokens:
    """One user's token of one connection; each read is recorded.

    Args:
        service: has the readers, and records reads.
        read: the record for the audit, without outcome and time.
        consumer: the application that calls for the user; None if the user calls.
    """

    def __init__(self, service: Service, read: ReadRecord, consumer: ConsumerRules | None) -> None:
        self._service = service
        self._read = read
        self._is_strict = consumer is not None and consumer.audit == "strict"
        self._last: Token | None = None

    async def current(self) -> Secret:
        """Return a fresh token."""
        reader = self._service.reader(self._read.tenant)
        self._last = await self._recorded(reader)
        return Secret(self._last.value)

    async def replace(self) -> Secret:
        """Return a new token: the provider refused the last one."""
        reader = await self._reject()
        new = await self._recorded(reader)
        self._service.forget(new)
        return Secret(new.value)

    async def report_rejected(self) -> None:
        """Report that the provider refused the token."""
        with suppress(VaultError):  # the provider's answer is passed on in any case
            await self._reject()

    async def _reject(self) -> AsyncTokenVault:
        """Report the token as rejected, unless it was replaced meanwhile.

        Return the reader that waits for the new one.
        """
        reader = self._service.reader(self._read.tenant, refreshing=True)
        found = await self._token(reader, 0)
        if self._last is not None and found.value == self._last.value:
            await reader.rejected(found)
        return reader

    async def _recorded(self, reader: AsyncTokenVault) -> Token:
        outcome = "cancelled"
        try:
            token = await self._token(reader, TOKEN_WAIT_SECONDS)
            outcome = SERVED
        except VaultError as error:
            outcome = type(error).__name__
            raise
        finally:
            record = self._read._replace(outcome=outcome, at=time.monotonic())
            await self._service.write_record(record, strict=self._is_strict and outcome == SERVED)
        return token

    async def _token(self, reader: AsyncTokenVault, wait: float) -> Token:
        read = self._read
        return await reader.user_token(
            read.user_id, read.connection, account=read.account, wait=wait, request_id=read.request_id
        )
