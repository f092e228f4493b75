"""What a token request can be made of, as declared or configured."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from token_vault.secret import Secret
from token_vault.token_target import TokenTarget
from worker.providers import (
    Client,
    ClientAuth,
    ClientKey,
    ErrorWords,
    Override,
    Problem,
    Provider,
    RefusalBlame,
    Refused,
    Renewed,
    TokenRequest,
    get,
    resolve,
)
from worker.token_pair import TokenPair

NOW = datetime(2026, 3, 15, 7, 14, 32, tzinfo=UTC)
URL = "https://idp.example/token"
OPTIONS: dict[str, Any] = {"tokenURL": URL, "client_id": "app@acme", "client_secret": "s+e/c=r:e~t%"}
FORM = {"grant_type": "refresh_token", "refresh_token": "the-rt"}
VERBATIM = f"Basic {b64encode(b'app@acme:s+e/c=r:e~t%').decode()}"


def resolved(override: Override | None = None, **options: Any) -> Client:
    client = resolve("oauth2", OPTIONS | options, override, allow_loopback_http=False)
    assert isinstance(client, Client), client
    return client


def problem(override: Override) -> Problem:
    found = resolve("oauth2", OPTIONS, override, allow_loopback_http=False)
    assert isinstance(found, Problem), found
    return found


def request(client: Client, **declared: Any) -> TokenRequest:
    provider = Provider(name="acme", **declared)
    return provider.request(client, access=Secret("the-at"), refresh=Secret("the-rt"), now=NOW)


def form(sent: TokenRequest) -> dict[str, str]:
    assert sent.body is not None
    return dict(parse_qsl(sent.body.decode(), strict_parsing=True, keep_blank_values=True))


def credentials(sent: TokenRequest) -> bytes:
    scheme, encoded = sent.headers["Authorization"].split()
    assert scheme == "Basic"
    return b64decode(encoded)


def test_headers_of_auth0_go_out_verbatim() -> None:
    """The headers that Auth0 sends are sent as it shows them, whatever characters the secret has."""
    client = resolved(customHeaders={"authorization": VERBATIM, "X-Api-Key": "key-1"})
    sent = request(client)
    assert (sent.headers["Authorization"], sent.headers["X-Api-Key"]) == (VERBATIM, "key-1")
    assert form(sent) == FORM
    assert VERBATIM not in repr(client)


def test_another_scheme_goes_out_verbatim() -> None:
    """An Authorization header of any scheme stands for the client's secret."""
    client = resolved(customHeaders={"Authorization": "Bearer of-the-app"}, client_secret=None)
    assert request(client).headers["Authorization"] == "Bearer of-the-app"


def test_the_operator_counts_more_than_headers() -> None:
    """A secret of the operator's own replaces Auth0's header; a server that took it raw gets it raw."""
    client = resolved(
        Override(client_id="own@acme", client_secret=Secret("n:e/w")),
        customHeaders={"Authorization": VERBATIM},
    )
    assert client.auth is ClientAuth.BASIC_RAW
    shown = {"Authorization": VERBATIM, "X-Api-Key": "auth0's"}
    keyed = resolved(Override(headers={"X-Api-Key": Secret("own")}), customHeaders=shown)
    assert request(keyed).headers["X-Api-Key"] == "own"
    posted = resolved(
        Override(client_secret=Secret("own")),
        customHeaders=shown,
        token_endpoint_auth_method="client_secret_post",
    )
    assert posted.auth is ClientAuth.POST
    assert credentials(request(client)) == b"own@acme:n:e/w"


@pytest.mark.parametrize(
    "header",
    [{"Host": "evil.example"}, {"Content-Length": "1"}, {"X-A": "a\r\nHost: b"}, {"X\n": "a"}, {"X": 1}],
)
def test_a_header_changes_nothing_else_of_the_request(header: dict[str, Any]) -> None:
    """Headers that belong to the request itself, or would break it, are left out."""
    assert resolved(customHeaders=header).headers == {}


@pytest.mark.parametrize(
    ("auth", "pair"),
    [
        (ClientAuth.BASIC, b"app%40acme:s%2Be%2Fc%3Dr%3Ae~t%25"),
        (ClientAuth.BASIC_RAW, b"app@acme:s+e/c=r:e~t%"),
    ],
)
def test_basic(auth: ClientAuth, pair: bytes) -> None:
    """Basic percent-encodes id and secret as RFC 6749 says; basic-raw does not."""
    assert credentials(request(resolved(Override(client_auth=auth)))) == pair


def test_basic_with_an_empty_password() -> None:
    """An empty secret that the operator sets is sent as an empty password; one that is missing is a problem."""
    empty = Override(client_auth=ClientAuth.BASIC, client_secret=Secret(""))
    assert credentials(request(resolved(empty, client_secret=None))) == b"app%40acme:"
    missing = resolve(
        "oauth2",
        OPTIONS | {"client_secret": ""},
        Override(client_auth=ClientAuth.BASIC),
        allow_loopback_http=False,
    )
    assert isinstance(missing, Problem)
    assert missing.code == "no_client_secret"


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def pem(key: RSAPrivateKey) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def certificate_of(key: RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    return builder.sign(key, SHA256())


def test_private_key_jwt(key: RSAPrivateKey) -> None:
    """A client with a key signs a new assertion for each request, and sends no secret."""
    override = Override(client_auth=ClientAuth.PRIVATE_KEY_JWT, client_key=ClientKey(pem(key), key_id="k1"))
    client = resolved(override)
    first, second = form(request(client)), form(request(client))
    assertion = first.pop("client_assertion")
    assert assertion != second["client_assertion"]
    assert first == FORM | {
        "client_id": "app@acme",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    claims = jwt.decode(
        assertion, key.public_key(), algorithms=["RS256"], audience=URL,
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )  # fmt: skip
    assert (claims["iss"], claims["sub"]) == ("app@acme", "app@acme")
    assert datetime.fromtimestamp(claims["exp"], UTC) == NOW + timedelta(seconds=60)
    assert jwt.get_unverified_header(assertion)["kid"] == "k1"


def test_issuer_of_an_assertion(key: RSAPrivateKey) -> None:
    """An assertion names another issuer where the provider wants one; with it the client is another."""
    plain, named = (
        resolved(
            Override(client_auth=ClientAuth.PRIVATE_KEY_JWT, client_key=ClientKey(pem(key), issuer=issuer))
        )
        for issuer in (None, "app.example")
    )
    claims = jwt.decode(form(request(named))["client_assertion"], options={"verify_signature": False})
    assert (claims["iss"], claims["sub"]) == ("app.example", "app@acme")
    assert plain.credentials != named.credentials


def test_certificate_of_entra(key: RSAPrivateKey) -> None:
    """With a certificate the assertion names its thumbprints, and the audience that is set."""
    certificate = certificate_of(key)
    as_pem = certificate.public_bytes(Encoding.PEM).decode()
    client_key = ClientKey(pem(key), as_pem, audience="https://login.example/aud")
    assertion = form(
        request(resolved(Override(client_auth=ClientAuth.PRIVATE_KEY_JWT, client_key=client_key)))
    )["client_assertion"]
    header = jwt.get_unverified_header(assertion)
    for name, algorithm in (("x5t", SHA1()), ("x5t#S256", SHA256())):  # the standard's name
        assert header[name] == urlsafe_b64encode(certificate.fingerprint(algorithm)).rstrip(b"=").decode()
    claims = jwt.decode(assertion, options={"verify_signature": False})
    assert claims["aud"] == "https://login.example/aud"


@pytest.mark.parametrize(
    ("client_key", "words"),
    [
        (None, "set client_key"),
        (ClientKey(Secret("no key")), "client_key set for the connection is not an unencrypted"),
    ],
)
def test_a_key_that_is_no_key(client_key: ClientKey | None, words: str) -> None:
    """A missing or unreadable key is told as a problem of the connection, without its text."""
    found = problem(Override(client_auth=ClientAuth.PRIVATE_KEY_JWT, client_key=client_key))
    assert found.code == "bad_option"
    assert words in found.message
    assert "no key" not in found.message


def test_a_certificate_that_is_none(key: RSAPrivateKey) -> None:
    """A certificate that does not read is told as a problem of the connection."""
    client_key = ClientKey(pem(key), "no certificate")
    found = problem(Override(client_auth=ClientAuth.PRIVATE_KEY_JWT, client_key=client_key))
    assert "client_certificate" in found.message


def test_parameters_under_other_names() -> None:
    """A parameter can have another name, or none; further ones and headers are added."""
    sent = request(
        resolved(),
        parameter_names={"client_id": "client_key", "grant_type": ""},
        extra={"type": "refresh"},
        headers={"Accept": "text/plain", "X-Version": "2"},
    )
    assert form(sent) == {
        "type": "refresh", "client_key": "app@acme", "client_secret": "s+e/c=r:e~t%", "refresh_token": "the-rt",
    }  # fmt: skip
    assert (sent.headers["Accept"], sent.headers["X-Version"]) == ("text/plain", "2")
    own = request(resolved(Override(extra={"type": "own"})), extra={"type": "refresh"})
    assert form(own)["type"] == "own"


def test_exchange_by_get() -> None:
    """An access token is exchanged by a GET whose query carries it, and is not printed."""
    client = replace(resolved(), auth=ClientAuth.NONE)
    sent = request(
        client,
        method="GET",
        grant_type="ig_refresh_token",
        sends="access_token",
        token_parameter="access_token",  # a parameter's name
        parameter_names={"client_id": ""},
    )
    assert (sent.method, sent.body) == ("GET", None)
    assert dict(parse_qsl(urlsplit(sent.url).query)) == {
        "grant_type": "ig_refresh_token",
        "access_token": "the-at",
    }
    assert "the-at" not in repr(sent)
    asked = request(replace(client, token_url=f"{URL}?v=2"), method="GET")
    assert dict(parse_qsl(urlsplit(asked.url).query)) == {"v": "2", "client_id": "app@acme", **FORM}


def test_client_credentials_again() -> None:
    """A token of the client's own is asked for anew, with no token sent."""
    sent = request(resolved(), sends="nothing", grant_type="client_credentials")
    assert form(sent) == {
        "grant_type": "client_credentials",
        "client_id": "app@acme",
        "client_secret": "s+e/c=r:e~t%",
    }


def read(provider: Provider, status: int, answer: object) -> Renewed | Refused:
    return provider.read(
        status, {"content-type": "application/json"}, json.dumps(answer).encode(), sent_at=NOW
    )


def test_names_and_path_of_the_answer() -> None:
    """Tokens are read at the declared path, under the declared names."""
    provider = Provider(
        name="acme",
        within=("response.credentials",),
        access_token="accessToken",  # a field's name, as the next
        refresh_token="refreshToken",
        expires_in="expiresAt",
        expires_unit="absolute",
    )
    inner = {"accessToken": "a", "refreshToken": "r", "expiresAt": "2026-03-15T08:14:32Z"}
    assert read(provider, 200, {"response": {"credentials": inner}}) == Renewed(
        TokenPair(Secret("a"), Secret("r"), NOW + timedelta(hours=1))
    )


def test_success_without_a_token() -> None:
    """An answer without a token may mean that the current one goes on."""
    provider = Provider(name="coros", prolongs={"result": "0000"}, default_life=timedelta(days=30))
    assert read(provider, 200, {"result": "0000", "message": "OK"}) == Renewed(
        TokenPair(None, expires_at=NOW + timedelta(days=30)), prolonged=True
    )
    assert isinstance(read(provider, 200, {"result": "1001", "message": "Service exceptions"}), Refused)
    both = replace(provider, prolongs={"result": "0000", "message": "OK"})
    assert isinstance(read(both, 200, {"result": "0000", "message": "LATER"}), Refused)


WORDS = ErrorWords(
    user=("RefreshTokenGone", "token was withdrawn"),
    operator=("not issued to this client",),
    wait=("already being processed", "busy_now"),
)


@pytest.mark.parametrize(
    ("answer", "blame", "code"),
    [
        ({"error": "refresh_token_gone"}, RefusalBlame.UNKNOWN, "refresh_token_gone"),
        ({"error": "REFRESHTOKENGONE"}, RefusalBlame.USER, "refreshtokengone"),
        (
            {"error": "invalid_client", "message": "The token was withdrawn."},
            RefusalBlame.USER,
            "invalid_grant",
        ),
        (
            {"error": "invalid_grant", "error_description": "refresh token was not issued to this client"},
            RefusalBlame.OPERATOR,
            "invalid_client",
        ),
        (
            {"error": "invalid_grant", "error_description": "token request is already being processed"},
            RefusalBlame.NOBODY,
            "already_being_processed",
        ),
        ({"error": {"message": "token was withdrawn"}}, RefusalBlame.USER, "invalid_grant"),
        ({"error": "busy_now", "message": "token was withdrawn"}, RefusalBlame.NOBODY, "busy_now"),
        ({"error": "invalid_grant", "suberror": "busy_now"}, RefusalBlame.USER, "invalid_grant"),
        ({"error": "invalid_grant"}, RefusalBlame.USER, "invalid_grant"),
    ],
)
def test_error_words(answer: dict[str, Any], blame: RefusalBlame, code: str) -> None:
    """A provider's own codes and phrases decide; a code that says to wait is not overruled."""
    got = read(Provider(name="acme", error_words=WORDS), 400, answer)
    assert got == Refused(blame, code)


@pytest.mark.parametrize(
    ("name", "url", "target", "parameters"),
    [
        ("oauth2", URL, TokenTarget("https://api.example"), {"resource": "https://api.example"}),
        ("oauth2", URL, TokenTarget("", "a b"), {"scope": "a b"}),
        ("slack", URL, TokenTarget("", "a b"), {"scope": "a,b"}),
        (
            "azure-ad",
            "https://login.microsoftonline.com/t/oauth2/v2.0/token",
            TokenTarget("https://graph.microsoft.com/"),
            {"scope": "https://graph.microsoft.com/.default offline_access"},
        ),
        (
            "azure-ad",
            "https://login.microsoftonline.com/t/oauth2/v2.0/token",
            TokenTarget("https://graph.microsoft.com", "Mail.Read User.Read"),
            {
                "scope": "https://graph.microsoft.com/Mail.Read https://graph.microsoft.com/User.Read offline_access"
            },
        ),
        (
            "azure-ad",
            "https://login.microsoftonline.com/t/oauth2/v2.0/token",
            TokenTarget("", "https://outlook.office.com/Mail.Read"),
            {"scope": "https://outlook.office.com/Mail.Read offline_access"},
        ),
        (
            "azure-ad",
            "https://login.microsoftonline.com/t/oauth2/token",
            TokenTarget("https://graph.microsoft.com", "Mail.Read"),
            {"resource": "https://graph.microsoft.com"},
        ),
    ],
)
def test_a_token_for_another_resource(
    name: str, url: str, target: TokenTarget, parameters: dict[str, str]
) -> None:
    """Resource and scopes are asked for as the provider wants them, instead of the connection's own."""
    client = Client(name, url, "id", Secret("s"), ClientAuth.POST, {"audience": "a"})
    provider = get(name)
    sent = form(
        provider.request(provider.for_target(client, target), access=None, refresh=Secret("the-rt"), now=NOW)
    )
    assert sent == FORM | {"client_id": "id", "client_secret": "s", "audience": "a"} | parameters
