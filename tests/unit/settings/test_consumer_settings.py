"""The sections [consumers.*] and [audit]."""

from __future__ import annotations

from pathlib import Path

import pytest

from token_vault.errors import ConfigurationError
from worker.settings.file import File, read_file

HASH = "sha256:" + "0f" * 32


def read(tmp_path: Path, toml: str) -> File:
    path = tmp_path / "vault.toml"
    path.write_text(toml, encoding="utf-8")
    return read_file(path, {})


def test_a_consumer_reads_users_tokens_unless_told_otherwise(tmp_path: Path) -> None:
    """What is not said is the smaller right, but for users' tokens."""
    found = read(
        tmp_path, '[consumers.calendar]\nrole = "app_calendar"\nconnections = ["google-oauth2", "corp-*"]'
    )
    calendar = found.consumers["calendar"]
    assert calendar.connections == ("google-oauth2", "corp-*")
    assert (calendar.users, calendar.admins, calendar.refresh, calendar.audit) == (
        True,
        False,
        False,
        "batched",
    )


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[consumers.a]\nconnections = ["*"]', "nothing else says who it is"),
        ('[consumers.a]\nrole = "r"', "connections"),
        ('[consumers.a]\nrole = "r"\nconnections = []', "at least 1"),
        ('[consumers.a]\nrole = ""\nconnections = ["*"]', "at least 1 character"),
        (f'[consumers.a]\nrole = "{"é" * 32}"\nconnections = ["*"]', "63 bytes"),
        ('[consumers.a]\napi_key_hash = "tvk_the-key-itself"\nconnections = ["*"]', "pattern"),
        ('[consumers.a]\nrole = "r"\nconnections = ["*"]\naudit = "none"', "audit"),
        ('[consumers.a]\nrole = "r"\nconnections = ["*"]\nread = true', "no such setting"),
        ('[consumers."a b"]\nrole = "r"\nconnections = ["*"]', "letters, digits"),
        (
            '[consumers.a]\nrole = "r"\nconnections = ["*"]\n[consumers.b]\nrole = "r"\nconnections = ["*"]',
            "same role",
        ),
        (
            f'[consumers.a]\napi_key_hash = "{HASH}"\nconnections = ["*"]\n'
            f'[consumers.b]\napi_key_hash = "{HASH}"\nconnections = ["*"]',
            "a and b have the same api_key_hash",
        ),
        (
            '[consumers.a]\nrole = "r"\nconnections = ["*"]\nimpersonate = true',
            "impersonate is for calls over HTTP",
        ),
        ("[audit]\nkeep = 60", "keep"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, toml: str, message: str) -> None:
    """A mistake in what others may read is refused, and never shown where it may be a key."""
    with pytest.raises(ConfigurationError) as refused:
        read(tmp_path, toml)
    assert message in str(refused.value)
    assert "tvk_" not in str(refused.value)
