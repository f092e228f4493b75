"""A token that brings its own key is verified by the issuer's, and nothing that it names is asked."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from emulators.client import Emulation
from tests.integration.api.test_security_events import AUDIENCE, DISABLED, claims, post, subject
from tests.support.api_server import ApiClient
from tests.support.readers import Rows, Sql
from tests.support.scripted_upstream import Received, Upstream, http, upstream
from tests.support.served_api import served
from worker.settings import load

PATH = "/v1/users/oauth2%7Cu1/tokens/custom"
Json = dict[str, Any]


class Attacker:
    """Has a key, a certificate of it, and a server that would vouch for both.

    Attributes:
        server: what it was asked.
    """

    def __init__(self, server: Upstream) -> None:
        self.server = server
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        server.answer = self._answer

    @property
    def jwk(self) -> Json:
        """The public key."""
        return dict(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True))

    def certificate(self) -> x509.Certificate:
        """A certificate that the attacker signed."""
        name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]), datetime.now(UTC)
        made = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self._key.public_key())
        )
        made = made.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        return made.sign(self._key, hashes.SHA256())

    def sign(self, of: str, header: Json, **changed: Any) -> str:
        """Sign a good token's claims anew."""
        good = jwt.decode(of, options={"verify_signature": False})
        return jwt.encode(good | changed, self._key, algorithm="RS256", headers=header)

    def headers(self, kid: str) -> Iterator[Json]:
        """Each way in which a header can bring a key (RFC 7515, 4.1), under a known key's id and an unknown one."""
        url = self.server.url
        der = base64.b64encode(self.certificate().public_bytes(serialization.Encoding.DER)).decode()
        brought: list[Json] = [
            {"jku": f"{url}/.well-known/jwks.json"},
            {"x5u": f"{url}/certificate.pem"},
            {"jwk": self.jwk},
            {"x5c": [der]},
            {"jku": f"{url}/jwks.json", "x5u": f"{url}/x.pem", "jwk": self.jwk, "x5c": [der]},
        ]
        for each in brought:
            yield from ({"kid": kid, **each}, {"kid": "own", **each})
        yield {"kid": f"{url}/jwks.json"}  # a key's id is no address

    def _answer(self, got: Received) -> Iterator[bytes]:
        keys = [{**self.jwk, "kid": kid, "use": "sig", "alg": "RS256"} for kid in ("own", "rsa-0")]
        body = json.dumps(
            {"keys": keys, "issuer": self.server.url, "jwks_uri": f"{self.server.url}/jwks.json"}
        )
        pem = self.certificate().public_bytes(serialization.Encoding.PEM)
        yield from http(200, pem if got.target.endswith(".pem") else body.encode())


@pytest.fixture
def attacker() -> Iterator[Attacker]:
    with upstream() as server:
        yield Attacker(server)


async def test_an_access_token_brings_no_key(
    api: ApiClient, tenant: Emulation, attacker: Attacker, rows: Rows
) -> None:
    """Neither ``jku``, ``x5u``, ``jwk``, ``x5c`` nor an issuer of its own makes the attacker's key good."""
    await rows.add()
    good = tenant.issue_access_token()
    kid = jwt.get_unverified_header(good)["kid"]
    for header in attacker.headers(kid):
        status, code, detail = api.problem(PATH, attacker.sign(good, header))
        assert (status, code) == (401, "invalid-token"), header
        assert detail == "the token's signature is wrong" or detail.startswith(
            "the issuer has no key of this"
        )
        own_issuer = attacker.sign(good, header, iss=f"{attacker.server.url}/")
        assert api.problem(PATH, own_issuer)[:2] == (401, "invalid-token"), header
        # A key that is brought beside a good signature is not looked at either.
        signed = tenant.issue_access_token(header={**header, "kid": kid})
        assert api.call(PATH, signed).status_code == 200, header
    assert attacker.server.received == []


@pytest.mark.usefixtures("rows")
def test_an_access_token_chooses_no_algorithm(api: ApiClient, tenant: Emulation, attacker: Attacker) -> None:
    """The key decides how it verifies: no other algorithm of the header is followed, and none of its extensions."""
    good = tenant.issue_access_token()
    kid = jwt.get_unverified_header(good)["kid"]
    _, payload, signature = good.split(".")

    def with_header(header: Json) -> str:
        encoded = base64.urlsafe_b64encode(json.dumps({"kid": kid, **header}).encode()).rstrip(b"=").decode()
        return f"{encoded}.{payload}.{signature}"

    wrong: list[Any] = [
        "none",
        "None",
        "nOnE",
        "",
        None,
        7,
        [],
        "RS512",
        "ES256",
        "PS256",
        "HS256",
        "HS512",
        "dir",
        "rs256",
    ]
    for algorithm in wrong:
        for token in (
            with_header({"alg": algorithm}),
            with_header({"alg": algorithm}).rpartition(".")[0] + ".",
        ):
            assert api.problem(PATH, token)[:2] == (401, "invalid-token"), algorithm
    for algorithm in ("RS384", "RS512", "PS512"):  # by the issuer's own key
        refused = api.problem(PATH, tenant.issue_access_token(algorithm=algorithm))[2]
        assert refused.startswith("tokens are signed with RS256, PS256, ES256")
    own = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}
    shared = jwt.encode(
        jwt.decode(good, options={"verify_signature": False}),
        base64.urlsafe_b64decode(own["k"] + "=="),
        algorithm="HS256",
        headers={"kid": kid, "jwk": own},
    )
    assert api.problem(PATH, shared)[2].startswith("HS256 is signed with a shared secret")
    critical = tenant.issue_access_token(header={"crit": ["b64"], "b64": False})
    assert api.problem(PATH, critical)[:2] == (401, "invalid-token")


async def test_a_security_event_token_brings_no_key(
    environment: Path, tenant: Emulation, attacker: Attacker, rows: Rows, sql: Sql
) -> None:
    """What a provider's event says of its keys is not followed either."""
    await rows.add(connection="google-oauth2")
    environment.write_text(  # noqa: ASYNC240  # a small file
        f'[hooks.events.google]\nissuer = "{tenant.auth0_domain}/"\naudience = "{AUDIENCE}"\n'
        'connections = "google-oauth2"\n',
        encoding="utf-8",
    )
    events = {DISABLED: {"subject": subject(tenant, "u1")}}
    good = tenant.issue_access_token(claims(events), header={"typ": "secevent+jwt"})
    kid = jwt.get_unverified_header(good)["kid"]
    with served(load()) as url:
        hook = f"{url}/v1/hooks/events/google"
        for header in attacker.headers(kid):
            refused = post(hook, attacker.sign(good, {**header, "typ": "secevent+jwt"}))
            assert refused.json()["err"] in ("authentication_failed", "invalid_key"), header
        assert sql("SELECT 1 FROM refresh_requests") == []
        assert post(hook, good).status_code == 202
        assert len(sql("SELECT 1 FROM refresh_requests")) == 1
    assert attacker.server.received == []
