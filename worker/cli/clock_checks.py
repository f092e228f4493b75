"""What ``doctor`` looks at of clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from worker.cli.checks import Check, CheckResult
from worker.cli.network_checks import tenant_urls

if TYPE_CHECKING:
    from worker.runtime import Runtime
    from worker.settings import Settings

# A Date has whole seconds, and clocks that NTP keeps differ by less than one. Assertions live for some more.
MAX_DIFFERENCE = timedelta(seconds=5)
ANSWER_SECONDS = 10.0


async def check_database_clock(runtime: Runtime) -> Sequence[Check]:
    """Hold this host's clock against the database's."""
    from sqlalchemy import text

    began = utc_now()
    [(there,)] = await runtime.vault.run(text("SELECT clock_timestamp()"))
    return [judge_clock("database", there, began, utc_now())]


async def check_auth0_clocks(settings: Settings) -> Sequence[Check]:
    """Hold this host's clock against Auth0's Date."""
    import httpx

    from worker.http.client import make_http_client

    checks = []
    async with make_http_client(timeout=httpx.Timeout(ANSWER_SECONDS)) as http:
        for url in tenant_urls(settings):
            began = utc_now()
            try:
                answer = await http.head(url)
            except httpx.HTTPError:
                continue  # the check of Auth0 says what is wrong
            if there := read_date(answer.headers):
                checks.append(judge_clock(httpx.URL(url).host, there, began, utc_now()))
    return checks


def judge_clock(whose: str, there: datetime, began: datetime, ended: datetime) -> Check:
    """Judge another clock's time.

    Args:
        whose: the other clock.
        there: what it showed.
        began, ended: between which times of this host it was read.
    """
    ahead, behind = began - there, there - ended
    difference = max(ahead, behind, timedelta())
    if difference <= MAX_DIFFERENCE:
        return Check(f"clock of {whose}", CheckResult.OK, "this host's clock agrees with it")
    word = "ahead of" if ahead > behind else "behind"
    said = (
        f"this host's clock is {difference // timedelta(seconds=1)} s {word} it, so tokens are renewed and assertions "
        "signed for the wrong time: have NTP (chrony, systemd-timesyncd) set the clocks"
    )
    return Check(f"clock of {whose}", CheckResult.WARN, said)


def read_date(headers: Mapping[str, str]) -> datetime | None:
    """Return when an answer was made; None where unknown.

    Source: RFC 9110 section 6.6.1; of an answer out of a cache, RFC 9111 section 5.1.
    """
    age = headers.get("age", "0")
    try:
        date = parsedate_to_datetime(headers.get("date", ""))
        return date.replace(tzinfo=date.tzinfo or UTC) + timedelta(seconds=int(age))
    except (ValueError, OverflowError):
        return None


def utc_now() -> datetime:
    """Return this host's time."""
    return datetime.now(UTC)
