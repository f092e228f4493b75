"""Proofs of possession: each bad one is refused in its own words, and a good one serves once."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import api_jws as jws
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.dpop import KEY, PUBLIC, digest, sign_proof, thumbprint
from token_vault.errors import TemporarilyUnavailable
from worker.api import dpop
from worker.api.dpop import BoundRequest, ProofVerifier
from worker.api.problems import ApiProblem

URL, PATH = "https://vault.example", "/v1/users/oauth2%7Cu1/tokens/custom"
TOKEN = "an.access.token"
NOW = 1_800_000_000.0

OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def proof(
    claims: dict[str, Any] | None = None,
    header: dict[str, Any] | None = None,
    key: Any = KEY,
    algorithm: str = "ES256",
) -> str:
    """A proof that is good but for what is changed; None leaves a claim out."""
    given = {
        "jti": "one",
        "htm": "GET",
        "htu": URL + PATH,
        "iat": NOW,
        "ath": digest(TOKEN),
        **(claims or {}),
    }
    return sign_proof(given, header, key, algorithm)


def verify(*proofs: str, verifier: ProofVerifier | None = None, **changed: Any) -> None:
    """Verify at the time of the tests."""
    request = {"token": TOKEN, "thumbprint": thumbprint(PUBLIC), "method": "GET", "path": PATH, **changed}
    (verifier or ProofVerifier(URL, lambda: NOW)).verify(BoundRequest(proofs, **request))


def signed_list() -> str:
    """A proof of the right key whose claims are none."""
    return jws.encode(b"[]", KEY, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": PUBLIC})


def private_jwk() -> dict[str, Any]:
    """The key with its private part."""
    found: dict[str, Any] = ECAlgorithm.to_jwk(KEY, as_dict=True)
    return found


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "none": ((), "the token is bound to a key: send a proof"),
    "two": ((proof(), proof()), "there is more than one header DPoP"),
    "long": (("x" * 9000,), "the proof is too long"),
    "garbage": (("x",), "the proof is no JWT"),
    "type": ((proof(header={"typ": "JWT"}),), "the proof is of another type"),
    "unsigned": ((proof(key=None, algorithm="none"),), "proofs are signed with"),
    "shared key": ((proof(key="s" * 32, algorithm="HS256"),), "proofs are signed with"),
    "no key": ((proof(header={"jwk": None}),), "the proof has no public key"),
    "another kind of key": ((proof(header={"jwk": {"kty": "RSA", "n": "x", "e": "y"}}),), "the proof has no public key"),
    "a part of a key": ((proof(header={"jwk": {"kty": "EC", "crv": "P-256", "x": 1}}),), "the proof has no public key"),
    "private key": ((proof(header={"jwk": private_jwk()}),), "the proof shows a private key"),
    "another key": (
        (proof(header={"jwk": ECAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True)}, key=OTHER_KEY),),
        "the proof is by another key",
    ),
    "signature": ((proof(key=OTHER_KEY),), "the proof's signature is wrong"),
    "a list of claims": ((signed_list(),), "the proof cannot be read"),
    "no id": ((proof({"jti": None}),), "the proof has no jti"),
    "empty id": ((proof({"jti": ""}),), "the proof has no jti"),
    "long id": ((proof({"jti": "x" * 501}),), "the proof has no jti"),
    "method": ((proof({"htm": "POST"}),), "the proof is for another method"),
    "no method": ((proof({"htm": None}),), "the proof is for another method"),
    "path": ((proof({"htu": f"{URL}/v1/users/other/tokens/custom"}),), "the proof is for another URL"),
    "host": ((proof({"htu": f"https://evil.example{PATH}"}),), "the proof is for another URL"),
    "scheme": ((proof({"htu": f"http://vault.example{PATH}"}),), "the proof is for another URL"),
    "port": ((proof({"htu": f"{URL}:8443{PATH}"}),), "the proof is for another URL"),
    "user in the URL": ((proof({"htu": f"https://a@vault.example{PATH}"}),), "the proof is for another URL"),
    "no URL": ((proof({"htu": "https://[x"}),), "the proof is for another URL"),
    "undated": ((proof({"iat": None}),), "the proof does not say when"),
    "dated in words": ((proof({"iat": "now"}),), "the proof does not say when"),
    "dated beyond all floats": ((proof({"iat": 10**400}),), "the proof does not say when"),
    "dated by NaN": ((proof({"iat": float("nan")}),), "the proof is of the future"),
    "old": ((proof({"iat": NOW - 61}),), "the proof is older than 60 s"),
    "of the future": ((proof({"iat": NOW + 31}),), "the proof is of the future"),
    "another token": ((proof({"ath": digest("other")}),), "the proof is for another access token"),
    "no hash of a token": ((proof({"ath": "\ud800"}),), "the proof is for another access token"),
    "no token": ((proof({"ath": None}),), "the proof is for another access token"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_proofs_are_refused_in_their_own_words(name: str) -> None:
    """What is wrong with a proof is told, with a challenge that names the algorithms."""
    proofs, words = BAD[name]
    with pytest.raises(ApiProblem) as refused:
        verify(*proofs)
    assert refused.value.detail.startswith(words)
    assert refused.value.type.code == "invalid-token"
    challenge = refused.value.headers["WWW-Authenticate"]
    assert challenge.startswith('DPoP realm="token-vault", error="invalid_dpop_proof"')
    assert 'algs="ES256 ' in challenge


@pytest.mark.parametrize(
    "url",
    [URL + PATH, f"HTTPS://VAULT.example:443{PATH}?a=b#c", f"{URL}/v1/users/oauth2%7cu%31/tokens/custom"],
)
def test_equal_urls_may_be_written_differently(url: str) -> None:
    """Case of scheme and host, the usual port, escapes, query and fragment do not count."""
    verify(proof({"htu": url}))


def test_proofs_hold_to_the_second() -> None:
    """A minute after they are made, and half a minute before, as clocks differ."""
    for issued_at in (NOW - 60, NOW + 30):
        verify(proof({"iat": issued_at}))


def test_the_usual_port_of_plain_http_is_80() -> None:
    """On loopback, where an API may be found without TLS."""
    here = ProofVerifier("http://127.0.0.1", lambda: NOW)
    verify(proof({"htu": f"http://127.0.0.1:80{PATH}"}), verifier=here)


def test_the_public_url_may_have_a_path() -> None:
    """Behind a proxy that serves the API below a path, proofs name that path."""
    below = ProofVerifier(f"{URL}/vault", lambda: NOW)
    verify(proof({"htu": f"{URL}/vault{PATH}"}), verifier=below)
    with pytest.raises(ApiProblem, match="another URL"):
        verify(proof({"jti": "two"}), verifier=below)


def test_each_algorithm_is_verified() -> None:
    """RSA keys and Ed25519 serve as well as P-256."""
    rsa_key, ed_key = rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()
    rsa_public = RSAAlgorithm.to_jwk(rsa_key.public_key(), as_dict=True)
    ed_public = OKPAlgorithm.to_jwk(ed_key.public_key(), as_dict=True)
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("RS256", rsa_key, rsa_public), ("PS256", rsa_key, rsa_public), ("EdDSA", ed_key, ed_public),
    ]  # fmt: skip
    for algorithm, key, public in kinds:
        made = proof(header={"jwk": public}, key=key, algorithm=algorithm)
        verify(made, thumbprint=thumbprint(public))


def test_a_proof_serves_once() -> None:
    """A proof that was seen is refused as long as its time holds, and forgotten after it."""
    now = [NOW]
    verifier = ProofVerifier(URL, lambda: now[0])
    verify(proof(), verifier=verifier)
    for later in (0, 59):
        now[0] = NOW + later
        with pytest.raises(ApiProblem, match="used before"):
            verify(proof(), verifier=verifier)
    verify(proof({"jti": "two"}), verifier=verifier)
    other = OTHER_KEY.public_key()
    of_other_key = proof(header={"jwk": ECAlgorithm.to_jwk(other, as_dict=True)}, key=OTHER_KEY)
    verify(of_other_key, verifier=verifier, thumbprint=thumbprint(ECAlgorithm.to_jwk(other, as_dict=True)))
    now[0] = NOW + 200
    verify(proof({"jti": "three", "iat": now[0]}), verifier=verifier)
    assert len(verifier._used) == 1


def test_a_refused_proof_is_not_used_up() -> None:
    """Who shows it where it does not belong keeps it from nobody."""
    verifier = ProofVerifier(URL, lambda: NOW)
    with pytest.raises(ApiProblem, match="another method"):
        verify(proof(), verifier=verifier, method="POST")
    verify(proof(), verifier=verifier)


def test_a_proof_of_the_future_serves_once() -> None:
    """One that was made by a clock ahead is remembered to the last moment at which it holds."""
    now = [NOW]
    verifier = ProofVerifier(URL, lambda: now[0])
    ahead = proof({"iat": NOW + 30})
    verify(ahead, verifier=verifier)
    now[0] = NOW + 90
    with pytest.raises(ApiProblem, match="used before"):
        verify(ahead, verifier=verifier)


def test_remembered_proofs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many proofs are remembered, callers are told to come again, and none is forgotten early."""
    monkeypatch.setattr(dpop, "MAX_REMEMBERED", 2)
    verifier = ProofVerifier(URL, lambda: NOW)
    for name in ("a", "b"):
        verify(proof({"jti": name}), verifier=verifier)
    with pytest.raises(TemporarilyUnavailable):
        verify(proof({"jti": "c"}), verifier=verifier)
    with pytest.raises(ApiProblem, match="used before"):
        verify(proof({"jti": "a"}), verifier=verifier)
