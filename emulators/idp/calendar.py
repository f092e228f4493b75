"""Google's Calendar API, as far as examples call it.

Source: Google, Calendar API v3, "Events: list".
"""

from typing import Any

from emulators.idp.tokens import Grant

SCOPE = "https://www.googleapis.com/auth/calendar.readonly"


def events(grant: Grant, calendar: str) -> dict[str, Any]:
    """List the events of a user's calendar."""
    subject = grant.identity[1]
    summaries = (f"Breakfast of {subject}", "Planning", "Retrospective")
    return {
        "kind": "calendar#events",
        "summary": calendar,
        "items": [
            {
                "kind": "calendar#event",
                "id": f"event{number}",
                "summary": summary,
                "start": {"dateTime": f"2026-04-01T{8 + number:02d}:00:00Z"},
            }
            for number, summary in enumerate(summaries)
        ],
    }
