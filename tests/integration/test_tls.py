"""No password of Redis goes to a server that nobody vouches for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.redis_parts import budget, doctor
from tests.support.tls_server import TlsServer, tls_server
from token_vault.secret import Secret
from worker.settings import Settings, load


@pytest.fixture
def own_certificate(redis_url: Secret, tmp_path: Path) -> Iterator[TlsServer]:
    """The tests' Redis behind a certificate for localhost that no authority has signed."""
    with tls_server(urlsplit(redis_url.reveal()).port or 0, tmp_path) as server:
        yield server


@pytest.fixture
def elsewhere(redis_url: Secret, tmp_path: Path) -> Iterator[TlsServer]:
    """The same with a certificate for another host."""
    with tls_server(urlsplit(redis_url.reveal()).port or 0, tmp_path, "redis.example") as server:
        yield server


def settings(redis_url: Secret, server: TlsServer, *, trusted: bool) -> Settings:
    password = urlsplit(redis_url.reveal()).password
    query = f"?ssl_ca_certs={server.certificate}" if trusted else ""
    address = Secret(f"rediss://:{password}@localhost:{server.port}/0{query}")
    return load().model_copy(update={"redis_url": address})


@pytest.fixture(autouse=True)
def _environment(environment: Path) -> None:
    """The application reads its settings when it is imported."""


def celery(given: Settings) -> Any:
    from worker.app import make_app

    return make_app(given)


def broker(given: Settings) -> bool:
    with celery(given).connection_for_write(connect_timeout=5) as connection:
        connection.ensure_connection(max_retries=0, timeout=5)
        connection.default_channel.client.ping()
    return True


def results(given: Settings) -> bool:
    return bool(celery(given).backend.client.ping())


PARTS: list[Callable[[Settings], bool]] = [broker, results, budget, doctor]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_certificate_of_nobodys_gets_no_password(
    redis_url: Secret, own_certificate: TlsServer, part: Callable[[Settings], bool]
) -> None:
    """With ``rediss://`` alone, a certificate that no authority signed ends the connection before a word is sent."""
    with pytest.raises(Exception):  # noqa: B017, PT011  # each library has its own
        part(settings(redis_url, own_certificate, trusted=False))
    assert bytes(own_certificate.received) == b""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_another_hosts_certificate_gets_no_password(
    redis_url: Secret, elsewhere: TlsServer, part: Callable[[Settings], bool]
) -> None:
    """Nor does a certificate that is trusted, and names another host."""
    with pytest.raises(Exception):  # noqa: B017, PT011
        part(settings(redis_url, elsewhere, trusted=True))
    assert bytes(elsewhere.received) == b""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_trusted_certificate_is_taken(
    redis_url: Secret, own_certificate: TlsServer, part: Callable[[Settings], bool]
) -> None:
    """With the authority's certificate in the URL, each part talks to Redis."""
    assert part(settings(redis_url, own_certificate, trusted=True))
