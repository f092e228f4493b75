"""The settings of the proxy."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from worker.settings import ProxySettings

SOUND = {"base_url": "https://www.googleapis.com", "allow": ["GET /calendar/v3/*"]}


def test_rules_are_read_at_the_start() -> None:
    """The rules of the file are ready to be matched."""
    settings = ProxySettings.model_validate(SOUND)
    assert settings.allow[0].allows("GET", "/calendar/v3/users")
    assert settings.max_response_bytes == 64_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "http://www.googleapis.com"},
        {"base_url": "https://user:pw@www.googleapis.com"},
        {"base_url": "https://www.googleapis.com/"},
        {"base_url": "https://www.googleapis.com?key=x"},
        {"base_url": "https://www.googleapis.com/a/../b"},
        {"base_url": "https://www.googleapis.com/a b"},
        {"base_url": "/calendar"},
        {"base_url": "https:///calendar"},
        {"base_url": "file:///etc/passwd"},
        {"allow": []},
        {"allow": ["GET"]},
        {"allow": "GET /a"},
        {"allow": ["TRACE /a"]},
        {"timeout": 0},
        {"max_seconds": 0},
        {"max_seconds": float("inf")},
        {"follow_redirects": True},
    ],
)
def test_settings_that_open_more_than_they_say_are_refused(wrong: dict[str, object]) -> None:
    """An insecure or ambiguous address, and a rule that is none, is refused at the start."""
    with pytest.raises(ValidationError):
        ProxySettings.model_validate(SOUND | wrong)
