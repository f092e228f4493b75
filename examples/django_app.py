"""Django: one reader for all threads, and for processes that the server forks.

python examples/django_app.py runserver
"""

from __future__ import annotations

import os
import sys
from urllib.request import Request, urlopen

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from token_vault import ReauthorizationRequired, TemporarilyUnavailable, TokenNotFound, TokenVault

PROFILE_URL = os.environ.get("PROFILE_URL", "https://openidconnect.googleapis.com/v1/userinfo")

# A project has this in its settings module; here it keeps the example in one file.
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for this example"),
)

# Opens its connections when it is first used, and anew in each forked process.
vault = TokenVault.from_env()


def signed_in_user(request: HttpRequest) -> str:
    """Stand for your own sign-in: take the user from ``request.user``, never from a plain header."""
    return str(request.headers["X-User-Id"])


def profile(request: HttpRequest) -> HttpResponse:
    """Show the user's profile as the provider has it."""
    try:
        token = vault.user_token(signed_in_user(request), "google-oauth2", min_ttl=30)
    except TokenNotFound:
        return JsonResponse({"detail": "connect your account first"}, status=404)
    except ReauthorizationRequired:
        return JsonResponse({"detail": "sign in again"}, status=409)
    except TemporarilyUnavailable as error:
        headers = {"Retry-After": str(round(error.retry_after))}
        return JsonResponse({"detail": "try again later"}, status=503, headers=headers)
    call = Request(PROFILE_URL, headers={"Authorization": f"Bearer {token.value}"})
    with urlopen(call, timeout=10) as answer:
        return HttpResponse(answer.read(), content_type="application/json")


urlpatterns = [path("profile", profile)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
