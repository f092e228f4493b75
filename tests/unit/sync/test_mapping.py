"""What Auth0 shows of a user, as grants."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from worker import auth0, providers
from worker.auth0.models import read_user
from worker.sync.mapping import incoming_grants
from worker.vault.schedule import EAGER


def test_values_that_a_declaration_names_are_ingested() -> None:
    """A linked account's profile gives what its provider is declared to give beside the token, and nothing else."""
    profile = {"instance_url": "https://one.example", "email": "ada@example.com", "shard": {}}
    identity = {
        "provider": "oauth2",
        "user_id": 7,
        "connection": "c",
        "access_token": "at",
        "profileData": profile,
    }
    user: auth0.Auth0User = read_user({"user_id": "oauth2|7", "identities": [identity]})
    named = replace(providers.get("oauth2"), keeps=("instance_url", "shard"))
    for provider, extra in ((named, {"instance_url": "https://one.example"}), (providers.get("oauth2"), {})):
        connection = SimpleNamespace(provider=provider, policy=EAGER)
        [grant] = incoming_grants(user, "default", cast("Any", {("default", "c"): connection}))
        assert grant.pair.extra == extra
    assert "one.example" not in repr(user)
