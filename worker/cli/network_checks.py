"""What ``doctor`` looks at between this machine and the Internet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from token_vault.errors import VaultError
from worker.cli.checks import Check, CheckResult

if TYPE_CHECKING:
    from worker.settings import Settings

TUNNEL_SECONDS = 10.0


async def check_outgoing_proxies(settings: Settings) -> Sequence[Check]:
    """Open a tunnel to each tenant behind a proxy."""
    import httpx

    from worker.http.client import make_http_client
    from worker.http.outgoing_proxies import OutgoingProxies
    from worker.http.transport import OutgoingProxyFailed

    proxies, checks = OutgoingProxies.read(), []
    async with make_http_client(timeout=httpx.Timeout(TUNNEL_SECONDS)) as http:
        for url in tenant_urls(settings):
            if (proxy := proxies.of(url)) is None:
                continue
            found = Check("outgoing proxy", CheckResult.OK, f"{proxy} opens tunnels to {httpx.URL(url).host}")
            try:
                await http.head(url)
            except OutgoingProxyFailed as error:
                found = Check("outgoing proxy", CheckResult.FAIL, str(error))
            except httpx.HTTPError:
                pass  # what is wrong behind the tunnel, the check of Auth0 says
            checks.append(found)
    return checks


async def check_egress(settings: Settings) -> Sequence[Check]:
    """Ask from which address this machine calls."""
    from worker.egress import EgressCheck

    url = settings.egress_check_url
    lists = {each.egress for each in settings.connections.values() if each.egress} | {settings.egress}
    if url is None:
        return []
    check = EgressCheck(url)
    problems = [await check.find_problem(url, listed) for listed in lists if listed]
    found = [Check("egress", CheckResult.FAIL, problem.message) for problem in problems if problem]
    return found or [Check("egress", CheckResult.OK, "this machine calls from an address that is listed")]


def check_collector() -> Sequence[Check]:
    """Send an empty batch of traces to the collector."""
    from worker import traces

    if not traces.is_configured():
        return []
    from worker.traces.exporter import make_exporter

    collector = urlsplit(traces.read_endpoint()).hostname
    failure = make_exporter().find_failure()
    if failure is None:
        return [Check("traces", CheckResult.OK, f"the collector at {collector} takes traces")]
    said = f"the collector at {collector} takes no traces ({failure}): correct OTEL_EXPORTER_OTLP_ENDPOINT or its headers"
    return [Check("traces", CheckResult.WARN, said)]


def tenant_urls(settings: Settings) -> Sequence[str]:
    """Return each tenant's URL where its settings are right."""
    from worker.runtime import credentials_of

    urls = []
    for tenant in settings.tenants:
        try:
            urls.append(credentials_of(settings, tenant).base_url)
        except VaultError:
            continue  # the check of Auth0 says so
    return urls
