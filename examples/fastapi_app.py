"""FastAPI: one asyncio reader for the whole app.

uvicorn examples.fastapi_app:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse

from token_vault import AsyncTokenVault, ReauthorizationRequired, TemporarilyUnavailable, TokenNotFound

PROFILE_URL = os.environ.get("PROFILE_URL", "https://openidconnect.googleapis.com/v1/userinfo")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the reader open as long as the app runs: it holds the connections to Postgres."""
    async with AsyncTokenVault.from_env() as vault, httpx.AsyncClient() as http:
        app.state.vault, app.state.http = vault, http
        yield


app = FastAPI(lifespan=lifespan)


def signed_in_user(x_user_id: Annotated[str, Header()]) -> str:
    """Stand for your own sign-in: take the user from a verified session, never from a plain header."""
    return x_user_id


@app.get("/profile")
async def profile(request: Request, user_id: Annotated[str, Depends(signed_in_user)]) -> Any:
    """Show the user's profile as the provider has it."""
    vault: AsyncTokenVault = request.app.state.vault
    token = await vault.user_token(user_id, "google-oauth2", min_ttl=30)
    answer = await request.app.state.http.get(PROFILE_URL, headers={"Authorization": f"Bearer {token.value}"})
    answer.raise_for_status()
    return answer.json()


@app.exception_handler(TokenNotFound)
async def not_connected(_: Request, __: TokenNotFound) -> JSONResponse:
    """The user never signed in over this connection."""
    return JSONResponse({"detail": "connect your account first"}, 404)


@app.exception_handler(ReauthorizationRequired)
async def consent_needed(_: Request, __: ReauthorizationRequired) -> JSONResponse:
    """Only the user can help, by signing in again."""
    return JSONResponse({"detail": "sign in again"}, 409)


@app.exception_handler(TemporarilyUnavailable)
async def unavailable(_: Request, error: TemporarilyUnavailable) -> JSONResponse:
    """Say when asking again is worthwhile."""
    return JSONResponse(
        {"detail": "try again later"}, 503, headers={"Retry-After": str(round(error.retry_after))}
    )
