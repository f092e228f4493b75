"""What a service's answer says of the address that calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from token_vault.errors import ConfigurationError
from worker.egress import parse_address
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
