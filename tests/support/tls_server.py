"""A TLS server with a certificate of its own, before a server on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# By which a client of Postgres asks for TLS, over TCP that is still plain (PostgreSQL documentation, 54.7).
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class TlsServer:
    """Carries bytes from TLS clients to a plain server.

    Attributes:
        port: on loopback.
        certificate: the file of its certificate, which nobody else has signed.
        received: what clients have sent inside TLS.
    """

    def __init__(self, server_port: int, folder: Path, name: str, *, is_postgres: bool = False) -> None:
        self._is_postgres = is_postgres
        self.certificate = folder / f"{name}.pem"
        self.received = bytearray()
        key = folder / f"{name}.key"
        _make_certificate(name, self.certificate, key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        if self._is_postgres and near.recv(len(_SSL_REQUEST)) == _SSL_REQUEST:
            near.sendall(b"S")
        with (
            near,
            suppress(OSError),
            self._context.wrap_socket(near, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", self._server_port)) as far,
        ):
            threading.Thread(target=_carry, args=(far, inside), daemon=True).start()
            while read := inside.recv(65536):
                self.received += read
                far.sendall(read)


def _carry(source: socket.socket, target: ssl.SSLSocket) -> None:
    with suppress(OSError):
        while read := source.recv(65536):
            target.sendall(read)
        target.shutdown(socket.SHUT_RDWR)


def _make_certificate(name: str, certificate: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@contextmanager
def tls_server(
    server_port: int, folder: Path, name: str = "localhost", *, is_postgres: bool = False
) -> Iterator[TlsServer]:
    """Have TLS before a server on loopback.

    Args:
        name: the host's name in the certificate.
        is_postgres: whether clients ask for TLS in Postgres' way first.
    """
    server = TlsServer(server_port, folder, name, is_postgres=is_postgres)
    try:
        yield server
    finally:
        server.close()
