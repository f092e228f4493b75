"""Odd paths and headers never lead to a failure of the server, or to a token."""

from __future__ import annotations

import http.client
import itertools
from urllib.parse import urlsplit

from tests.support.api_server import ApiProcess
from tests.support.readers import Rows
from tests.support.wait import WAIT_SECONDS

ODD = (
    "..",
    "%2e%2e",
    "%2F",
    "%00",
    "%ff%fe",
    "%ED%A0%80",
    "%25",
    ";a=b",
    "%5C",
    "*",
    "%E2%80%AE",
    "x" * 600,
    " ".replace(" ", "%20"),
    "",
)
PATHS = (
    "/v1/users/{0}/tokens/{1}", "/v1/users/{0}/tokens", "/v1/connections/{0}/token", "/v1/users/{0}/tokens/{1}/refresh",
    "/v1/users/{0}/tokens/custom?account={1}", "/{0}/{1}", "//{0}", "/v1/users/{0}/tokens/custom?min_ttl={1}",
)  # fmt: skip


async def test_odd_paths(api_process: ApiProcess, api_key: str, rows: Rows) -> None:
    """Each is answered by a refusal, whoever asks."""
    await rows.add()
    await rows.add(user_id="", subject="")
    connection = http.client.HTTPConnection(urlsplit(api_process.url).netloc, timeout=WAIT_SECONDS)
    for path, one, two in itertools.product(PATHS, ODD, ODD):
        for method in ("GET", "POST"):
            connection.request(method, path.format(one, two), headers={"Authorization": f"Bearer {api_key}"})
            answer = connection.getresponse()
            body = answer.read()
            assert 400 <= answer.status < 500 or b'"grants":[]' in body, (method, path, one, two, body)
            assert b"token-of" not in body
    connection.close()
    assert "request.failed" not in api_process.process.log
