"""Access tokens that are bound to a key, with their proofs, over HTTP."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, serving
from tests.support.dpop import PUBLIC, digest, sign_proof, thumbprint
from tests.support.readers import Rows

URL = "https://vault.acme.example"
PATH = "/v1/users/oauth2%7Cu1/tokens/custom"


async def test_a_bound_token_reads_with_a_proof_alone(
    environment: Path, tenant: Emulation, api_key: str, rows: Rows, tmp_path: Path
) -> None:
    """The proof names the public URL, whatever the request says of its host; without one the token is refused."""
    await rows.add()
    environment.write_text(f'{SETTINGS}public_url = "{URL}"\n', encoding="utf-8")  # noqa: ASYNC240  # a small file
    bound = tenant.issue_access_token({"cnf": {"jkt": thumbprint(PUBLIC)}})
    claims = {"htm": "GET", "iat": int(time.time()), "ath": digest(bound)}
    proof = sign_proof({**claims, "jti": "1", "htu": URL + PATH})
    with serving(tmp_path) as api:

        def call(authorization: str, **headers: str) -> httpx.Response:
            return api.call(PATH, headers={"Authorization": authorization, **headers})

        missing = call(f"DPoP {bound}")
        assert missing.json()["detail"].startswith("the token is bound to a key: send a proof")
        assert missing.headers["www-authenticate"].startswith(
            'DPoP realm="token-vault", error="invalid_dpop_proof"'
        )
        assert (
            call(f"Bearer {bound}", DPoP=proof)
            .json()["detail"]
            .startswith("this token is bound to a key (DPoP): send")
        )
        forged = sign_proof({**claims, "jti": "2", "htu": f"https://evil.example{PATH}"})
        forwarded = {
            "X-Forwarded-Host": "evil.example",
            "Forwarded": "host=evil.example",
            "Host": "evil.example",
        }
        answer = call(f"DPoP {bound}", DPoP=forged, **forwarded)
        assert answer.json()["detail"] == "the proof is for another URL (htu)"
        good = call(f"dpop {bound}", DPoP=proof)
        assert (good.status_code, good.json().get("access_token")) == (200, "token-of-u1"), good.text
        assert call(f"DPoP {bound}", DPoP=proof).json()["detail"].startswith("the proof was used before")
        unbound = call(f"DPoP {tenant.issue_access_token()}", DPoP=proof)
        assert unbound.json()["detail"].startswith("this token is bound to no key")
        assert call(f"DPoP {api_key}").json()["detail"].startswith("an API key is bound to no key")
        assert ", DPoP realm=" in api.call(PATH).headers["www-authenticate"]
