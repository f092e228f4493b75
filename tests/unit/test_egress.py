"""What a service's answer says of the address that calls it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from token_vault.errors import ConfigurationError
from worker import egress
from worker.egress import KNOWN_SECONDS, WRONG_SECONDS, Address, EgressCheck, parse_address
from worker.http.outgoing_proxies import OutgoingProxy
from worker.settings import load


@pytest.mark.parametrize(
    ("body", "address"),
    [
        (b"203.0.113.7", "203.0.113.7"),
        (b" 203.0.113.7\r\n", "203.0.113.7"),
        (b'{"ip": "203.0.113.7", "country": "XX"}', "203.0.113.7"),
        (b'"203.0.113.7"', "203.0.113.7"),
        (b"2001:db8::7\n", "2001:db8::7"),
        (b"", None),
        (b"3405803783", None),
        (b'{"ip": 3405803783}', None),
        (b'{"address": "203.0.113.7"}', None),
        (b"<html>203.0.113.7</html>", None),
        (b"\xff\xfe", None),
        (b"{" * 4000, None),
    ],
)
def test_an_address_is_read(body: bytes, address: str | None) -> None:
    """Text and JSON are read; whatever is no address is unknown."""
    found = parse_address(body)
    assert (str(found) if found else None) == address


async def test_each_route_has_its_address_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through an outgoing proxy has the proxy's; a wrong address is asked for again sooner."""
    now, asked = [0.0], list[OutgoingProxy | None]()
    listed = [ip_network("192.0.2.0/24"), ip_network("203.0.113.0/24")]
    found = {True: "203.0.113.7", False: "198.51.100.1"}

    async def ask(_: EgressCheck, proxy: OutgoingProxy | None) -> Address:
        asked.append(proxy)
        await asyncio.sleep(0)
        return ip_address(found[proxy is not None])

    monkeypatch.setattr(EgressCheck, "_ask", ask)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "direct.example")
    check = EgressCheck("https://checkip.example/", lambda: now[0])

    async def is_wrong(host: str) -> bool:
        return await check.find_problem(f"https://{host}/token", listed) is not None

    for seconds, number in ((0.0, 2), (WRONG_SECONDS, 2), (WRONG_SECONDS + 1, 3), (KNOWN_SECONDS + 1, 5)):
        now[0] = seconds
        hosts = ("direct.example", "far.example", "far.example")
        assert await asyncio.gather(*map(is_wrong, hosts)) == [True, False, False]
        assert len(asked) == number
    assert asked[2] is None


async def test_the_address_is_asked_for_through_the_calls_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is asked on the route of the call, as another route has another address."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        check = EgressCheck("https://checkip.example/")
        assert await check.find_problem("https://far.example/token", [ip_network("203.0.113.0/24")])
        assert {*asked} == {b"CONNECT checkip.example:443 HTTP/1.1\r\n"}
        asked.clear()
        monkeypatch.setenv("NO_PROXY", "far.example")
        monkeypatch.setattr(egress, "ASK_SECONDS", 0.2)
        assert await check.find_problem("https://far.example/token", [ip_network("203.0.113.0/24")])
    assert asked == []


async def test_a_service_that_does_not_answer_leaves_the_address_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an answer in time nothing is sent, and the problem says why."""
    monkeypatch.setattr(egress, "ASK_SECONDS", 0.0)
    found = await EgressCheck("https://checkip.example/").find_problem(
        "https://far.example/token", [ip_network("203.0.113.0/24")]
    )
    assert found is not None
    assert "unknown, as checkip.example does not tell it" in str(found)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('egress = ["203.0.113.7"]', "egress_check_url"),
        ('[connections.acme]\negress = ["203.0.113.7"]', "egress_check_url"),
        ('egress_check_url = "http://checkip.example/"', "https"),
        ('egress = ["203.0.113.7/24"]\negress_check_url = "https://checkip.example/"', "egress"),
        ('egress = ["checkip.example"]\negress_check_url = "https://checkip.example/"', "egress"),
    ],
)
def test_what_cannot_be_checked_is_refused(tmp_path: Path, toml: str, says: str) -> None:
    """Addresses without a way to check them, and what is no address, are told at the start."""
    config = tmp_path / "vault.toml"
    config.write_text(toml)
    with pytest.raises(ConfigurationError, match=says):
        load(config)
