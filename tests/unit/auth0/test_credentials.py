"""Who we are at Auth0."""

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.auth0_server import Answer, FakeTime, client_of, running
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.auth0 import Credentials

SECRET = Secret("the-client-secret")


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("domain", "base_url"),
    [
        ("tenant.eu.auth0.com", "https://tenant.eu.auth0.com"),
        ("https://tenant.eu.auth0.com/", "https://tenant.eu.auth0.com"),
        (" Login.Example.COM \n", "https://login.example.com"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.9.9.9:1/", "http://127.9.9.9:1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_domain_is_taken_with_or_without_scheme(domain: str, base_url: str) -> None:
    """A domain may come with its scheme and a trailing slash; the audience follows from it."""
    who = Credentials(domain, "id", SECRET)
    assert who.base_url == base_url
    assert who.token_request(FakeTime().now)["audience"] == f"{base_url}/api/v2/"


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "http://tenant.eu.auth0.com",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://127.0.0.1.evil.example",
        "ftp://localhost",
        "tenant.eu.auth0.com/api/v2/",
        "https://user:hunter2@tenant.eu.auth0.com",
        "http://127.0.0.1@tenant.eu.auth0.com",
        "tenant.eu.auth0.com?x=1",
        "tenant.eu.auth0.com:port",
        "https://[::1",
        "two words",
    ],
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    """Plain HTTP leaves loopback for nobody, and whatever is more than a host name is refused unseen."""
    with pytest.raises(ConfigurationError, match="AUTH0_DOMAIN") as refused:
        Credentials(domain, "id", SECRET)
    assert "hunter2" not in str(refused.value)


def test_something_must_prove_who_we_are() -> None:
    """An application without secret and key, or without an id, is a configuration error."""
    with pytest.raises(ConfigurationError, match="AUTH0_CLIENT_SECRET or AUTH0_PRIVATE_KEY"):
        Credentials("tenant.eu.auth0.com", "id")
    with pytest.raises(ConfigurationError, match="AUTH0_CLIENT_ID"):
        Credentials("tenant.eu.auth0.com", "", SECRET)


def test_secrets_are_not_in_the_repr() -> None:
    """Neither the secret nor the key shows in the credentials' repr."""
    who = repr(Credentials("tenant.eu.auth0.com", "id", SECRET, pem(RSA)))
    assert "the-client-secret" not in who
    assert "PRIVATE KEY" not in who


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (P256, "ES256")])
def test_private_key_makes_an_assertion(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithm: str
) -> None:
    """With a key, no secret is sent, but an assertion for the issuer that ends within a minute."""
    time = FakeTime()
    who = Credentials(
        "login.example.com",
        "id",
        SECRET,
        pem(key),
        audience="https://tenant.eu.auth0.com/api/v2/",
        key_id="k1",
    )
    body = who.token_request(time.now)
    assert "client_secret" not in body
    assert body["audience"] == "https://tenant.eu.auth0.com/api/v2/"
    assert body["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    header = jwt.get_unverified_header(body["client_assertion"])
    assert (header["alg"], header["kid"]) == (algorithm, "k1")
    claims = jwt.decode(
        body["client_assertion"],
        key.public_key(),
        [algorithm],
        audience="https://login.example.com/",
        options={"verify_exp": False},
    )
    assert claims["iss"] == claims["sub"] == "id"
    assert claims["aud"] == "https://login.example.com/"
    assert 0 < claims["exp"] - time.now.timestamp() <= 60


@pytest.mark.parametrize(
    "key", [Secret("not PEM, but hunter2"), pem(ec.generate_private_key(ec.SECP384R1())), Secret("é\ud800")]
)
def test_other_keys_are_refused(key: Secret) -> None:
    """A key that cannot sign is a configuration error which shows nothing of the key."""
    with pytest.raises(ConfigurationError, match="AUTH0_PRIVATE_KEY") as refused:
        Credentials("tenant.eu.auth0.com", "id", private_key=key).token_request(FakeTime().now)
    assert "hunter2" not in str(refused.value)


async def test_an_assertion_is_used_once() -> None:
    """A retried token request carries a new assertion: Auth0 takes each only once."""
    async with running() as server:
        who = Credentials(f"http://127.0.0.1:{server.port}", "id", private_key=pem(P256))
        server.token_script = [Answer(503), Answer(503)]
        async with client_of(server, FakeTime(), who=who) as client:
            await client.scopes()
        bodies = [json.loads(request.body) for request in server.mints]
        ids = {
            jwt.decode(body["client_assertion"], options={"verify_signature": False})["jti"]
            for body in bodies
        }
        assert len(ids) == 3
