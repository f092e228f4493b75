"""Callers of the HTTP API who wait while a test does something else."""

from __future__ import annotations

import threading

import httpx


class Caller(threading.Thread):
    """Sends one request, and keeps its answer or its failure."""

    def __init__(self, url: str, credential: str, method: str = "GET", **options: object) -> None:
        super().__init__(daemon=True)
        self._request = (method, url)
        self._options = {"headers": {"Authorization": f"Bearer {credential}"}, "timeout": 60, **options}
        self.answer: httpx.Response | None = None
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with httpx.Client(trust_env=False) as http:
                self.answer = http.request(*self._request, **self._options)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            self.failure = error

    def ended(self) -> httpx.Response:
        """Wait for a whole answer."""
        self.join(60)
        assert self.answer is not None, self.failure
        return self.answer

    def broken(self) -> None:
        """Wait for a failure: nothing came that could be taken for a whole answer."""
        self.join(60)
        assert isinstance(self.failure, httpx.TransportError), self.answer


def is_unavailable(answer: httpx.Response) -> bool:
    """Whether a problem document says when to come again."""
    return (
        answer.status_code == 503
        and answer.headers["content-type"] == "application/problem+json"
        and int(answer.headers["retry-after"]) > 0
        and answer.json()["type"] == "urn:token-vault:problem:temporarily-unavailable"
    )
