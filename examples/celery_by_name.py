"""Celery by name: ask the workers for a refresh, with nothing of the vault imported.

python examples/celery_by_name.py 'google-oauth2|1111' google-oauth2
"""

from __future__ import annotations

import os
import sys

from celery import Celery

# Any app on the workers' Redis can do this. Arguments and results hold ids, states and times, never a token.
app = Celery(broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


def main(user_id: str, connection: str) -> None:
    """Ask for a new token now, and print what became of it."""
    asked = app.send_task(
        "worker.refresh_token",
        kwargs={"user_id": user_id, "connection": connection, "force": True},
        queue="interactive",
    )
    refreshed = asked.get(timeout=30)
    print(f"{refreshed['state']}, renewed: {refreshed['renewed']}, ends {refreshed['expires_at']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
