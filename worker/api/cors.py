"""Which browsers may read what the API answers (Fetch, CORS)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

# For which a browser need not ask again what it may send.
PREFLIGHT_SECONDS = 600


def allow_origins(origins: Sequence[str], methods: Collection[str]) -> list[Middleware]:
    """Open a route to browsers of these origins alone.

    A credential is a header that the front end adds: no cookie is ever taken.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=sorted(methods),
            allow_headers=["*"],
            expose_headers=["location", "etag", "link", "retry-after", "x-request-id"],
            max_age=PREFLIGHT_SECONDS,
        )
    ]
