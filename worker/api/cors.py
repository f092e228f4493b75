"""Which front ends may call the API from browsers (CORS)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

# For so long a browser need not repeat its preflight request.
PREFLIGHT_SECONDS = 600


def allow_origins(origins: Sequence[str], methods: Collection[str]) -> list[Middleware]:
    """Return middleware that allows browsers of these origins.

    Credentials are headers that the front end adds. Cookies are never used.
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
