"""A plain script: call a provider's API for one user.

python examples/script.py 'google-oauth2|1111' google-oauth2
"""

from __future__ import annotations

import os
import sys
from urllib.request import Request, urlopen

from token_vault import ReauthorizationRequired, TemporarilyUnavailable, TokenNotFound, TokenVault

PROFILE_URL = os.environ.get("PROFILE_URL", "https://openidconnect.googleapis.com/v1/userinfo")


def main(user_id: str, connection: str) -> None:
    """Print the user's profile as the provider has it."""
    with TokenVault.from_env() as vault:
        try:
            token = vault.user_token(user_id, connection, min_ttl=30)
        except TokenNotFound:
            sys.exit(f"{user_id} never signed in over {connection}")
        except ReauthorizationRequired as error:
            sys.exit(f"{user_id} has to sign in again over {connection}: {error.reason} since {error.since}")
        except TemporarilyUnavailable as error:
            sys.exit(f"try again in {error.retry_after:.0f} s: {error}")
    request = Request(PROFILE_URL, headers={"Authorization": f"Bearer {token.value}"})
    with urlopen(request, timeout=10) as answer:
        print(answer.read().decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
