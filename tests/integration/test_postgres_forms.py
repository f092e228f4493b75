"""Postgres over a Unix socket, with a dead host before it, and over TLS: each part reaches it by the same address."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import text

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.tls_server import TlsServer, tls_server
from token_vault import TokenVault
from token_vault.errors import TemporarilyUnavailable, TokenNotFound
from token_vault.secret import Secret
from worker.embedded import private_home
from worker.embedded.account import account
from worker.embedded.files import private_folder, write_private
from worker.embedded.postgres import Postgres
from worker.embedded.server import Access
from worker.vault.db.migrate import migrate
from worker.vault.db.revisions import revisions
from worker.vault.vault import open_vault


class SocketPostgres(Postgres):
    """An embedded Postgres that listens on a Unix socket, too."""

    def __init__(self, home: Path, sockets: Path) -> None:
        super().__init__(home, durable=False)
        self._sockets = sockets

    def prepare(self, access: Access, alive: int, *, new_password: bool) -> None:
        """Ask for passwords on the socket as well."""
        super().prepare(access, alive, new_password=new_password)
        rules = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n"
        write_private(self.folder / "pg_hba.conf", rules)

    def arguments(self, access: Access) -> list[str]:
        """Return the arguments of postgres."""
        return [*super().arguments(access), "-c", f"unix_socket_directories={self._sockets}"]


@pytest.fixture
def by_socket(tmp_path: Path) -> Iterator[Secret]:
    """The address of an empty database on a Unix socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path has 107 bytes at the most
        sockets = Path(folder) / "s"
        private_folder(sockets, *account())
        with SocketPostgres(private_home(tmp_path / "home"), sockets).running() as (url, _):
            where = urlsplit(url.reveal())
            host = quote(str(sockets), safe="")
            yield Secret(f"postgresql://{where.username}:{where.password}@{host}:{where.port}{where.path}")


@pytest.fixture
def over_tls(database_url: Secret, tmp_path: Path) -> Iterator[TlsServer]:
    """The tests' Postgres behind a certificate for localhost, of an authority of its own."""
    with tls_server(urlsplit(database_url.reveal()).port or 0, tmp_path, is_postgres=True) as server:
        yield server


async def reach(url: Secret) -> None:
    """Reach a vault by each part: migrations, workers, readers."""
    current, head = revisions(url)
    assert current == head
    async with open_vault(url, [ACCESS_KEY], [REFRESH_KEY]) as vault, vault.engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    with TokenVault(url, [ACCESS_KEY]) as reader, pytest.raises(TokenNotFound):
        reader.user_token("google-oauth2|1", connection="google-oauth2")


def with_hosts(url: Secret, hosts: str, query: str) -> Secret:
    """The address with other hosts."""
    where = urlsplit(url.reveal())
    return Secret(f"postgresql://{where.username}:{where.password}@{hosts}{where.path}?{query}")


async def test_a_unix_socket_is_enough(by_socket: Secret) -> None:
    """A vault is made and reached over a Unix socket, with a password."""
    migrate(by_socket)
    await reach(by_socket)


async def test_a_dead_first_host_is_passed_over(database_url: Secret) -> None:
    """Of two hosts the one that answers is taken, by every part."""
    with socket.socket() as dead:  # bound, and not listening: nobody else gets the port
        dead.bind(("127.0.0.1", 0))
        port = urlsplit(database_url.reveal()).port
        hosts = f"127.0.0.1:{dead.getsockname()[1]},127.0.0.1:{port}"
        await reach(with_hosts(database_url, hosts, "target_session_attrs=read-write"))


async def test_an_authority_of_ones_own_is_taken(database_url: Secret, over_tls: TlsServer) -> None:
    """With the authority's certificate in the address, each part talks to Postgres over TLS."""
    query = f"sslmode=verify-full&sslrootcert={over_tls.certificate}"
    await reach(with_hosts(database_url, f"localhost:{over_tls.port}", query))
    assert over_tls.received


async def test_anothers_certificate_gets_no_password(
    database_url: Secret, over_tls: TlsServer, tmp_path: Path
) -> None:
    """Where another authority is trusted, the connection ends before a word is sent."""
    with tls_server(1, tmp_path, "other.example") as other:
        query = f"sslmode=verify-full&sslrootcert={other.certificate}"
    url = with_hosts(database_url, f"localhost:{over_tls.port}", query)
    with pytest.raises(TemporarilyUnavailable, match="over TLS"):
        revisions(url)
    with TokenVault(url, [ACCESS_KEY]) as reader, pytest.raises(TemporarilyUnavailable, match="over TLS"):
        reader.user_token("google-oauth2|1", connection="google-oauth2")
    assert bytes(over_tls.received) == b""
