"""One reader for a whole program: made before its processes are forked, and used from one event loop after the other."""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.keys import ACCESS_KEY
from tests.support.readers import Rows, Sql, requested
from tests.support.wait import WAIT_SECONDS
from token_vault import AsyncTokenVault, TokenVault
from token_vault.errors import TemporarilyUnavailable
from token_vault.read_model import CHANNEL
from token_vault.secret import Secret

CONNECTION = "custom"


def in_child(work: Callable[[], object]) -> Callable[[], int]:
    """Fork, as a preloading server does, and do something in the child; returns what waits for its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def ended() -> int:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        return -9

    return ended


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_forked_processes_get_their_own_tokens(rows: Rows, database_url: Secret) -> None:
    """A reader that was used before the fork gives each process the token of the user it asked for."""
    for number in range(4):
        await rows.add(f"oauth2|u{number}", subject=f"u{number}", value=f"token-of-u{number}")
    vault = TokenVault(database_url, [ACCESS_KEY])
    vault.user_token("oauth2|u0", CONNECTION)

    def read(user: str) -> None:
        for _ in range(300):
            assert vault.user_token(f"oauth2|{user}", CONNECTION).value == f"token-of-{user}"

    children = [in_child(lambda user=f"u{number}": read(user)) for number in range(1, 4)]  # type: ignore[misc]
    read("u0")
    assert [ended() for ended in children] == [0, 0, 0]
    vault.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_process_is_told_of_a_refresh(rows: Rows, sql: Sql, database_url: Secret) -> None:
    """A reader that had waited before the fork is told of a refresh in the child, where the listening thread is gone."""
    grant_id = await rows.add(expires_in=-1)
    vault = TokenVault(database_url, [ACCESS_KEY])
    with pytest.raises(TemporarilyUnavailable):
        vault.user_token("oauth2|u1", CONNECTION, wait=0.5)
    await requested(sql)
    ended = in_child(lambda: [vault.user_token("oauth2|u1", CONNECTION, wait=600)])
    await requested(sql)
    rows.age(grant_id, 3600)
    sql("SELECT pg_notify(%s, %s)", CHANNEL, str(grant_id))
    assert await asyncio.to_thread(ended) == 0
    vault.close()


async def test_one_event_loop_after_the_other(rows: Rows, database_url: Secret) -> None:
    """A reader that served one event loop serves the next, a refresh that both wait for included."""
    await rows.add(expires_in=-1)
    vault = AsyncTokenVault(database_url, [ACCESS_KEY])

    async def crowd() -> Counter[str]:
        reads = (vault.user_token("oauth2|u1", CONNECTION, wait=0.5) for _ in range(25))
        return Counter(type(said).__name__ for said in await asyncio.gather(*reads, return_exceptions=True))

    async def crowd_and_close() -> Counter[str]:
        said = await crowd()
        await vault.close()
        return said

    for work in (crowd, crowd, crowd_and_close):
        said = await asyncio.to_thread(asyncio.run, work())
        assert said == {"TemporarilyUnavailable": 25}
