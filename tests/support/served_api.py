"""The HTTP API in a thread, and an issuer of access tokens for it."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.served import in_thread
from worker.api.application import create_app
from worker.api.server import listen, make_config
from worker.settings import Settings

AUDIENCE = "https://vault.acme.example"


@functools.cache
def _rsa_key() -> rsa.RSAPrivateKey:
    """Return one key for all issuers; making it takes longer than a test."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """Issues access tokens, and serves its keys."""

    def __init__(self) -> None:
        self._key = _rsa_key()
        self.url = ""

    @property
    def jwks(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}]}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "k1", **header})

    def access_token(self, user_id: str, **claims: Any) -> str:
        now = int(time.time())
        base = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": user_id,
            "azp": "spa",
            "scope": "openid proxy:idp",
            "iat": now,
            "exp": now + 3600,
        }
        return self.sign(base | claims)


@contextmanager
def issuer() -> Iterator[Issuer]:
    """Serve the keys on loopback."""
    found = Issuer()
    body = json.dumps(found.jwks).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as origin:
        found.url = f"{origin}/"
        yield found


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Serve the API on loopback, and give its address."""
    bound = listen("127.0.0.1", [0])
    server = uvicorn.Server(make_config(create_app(settings), settings.api.max_connections))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
