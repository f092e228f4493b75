"""The contents of a spool file, before encryption."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from token_vault.grant_key import GrantKey
from token_vault.secret import Secret, SecretDict
from token_vault.token_target import TokenTarget
from worker.token_pair import TokenPair
from worker.vault.claims.claim import Claim

# Names of a claim's fields in files of version 0.1, which may still be on disk.
_OLD_NAMES = {
    "began": "claimed_at",
    "access_sealed": "access_ciphertext",
    "refresh_sealed": "refresh_ciphertext",
    "doubt_since": "in_doubt_since",
}


@dataclass(frozen=True, slots=True)
class SpooledAnswer:
    """An answer on disk.

    Attributes:
        claim: as it was when the request was sent, without ciphertexts: storing compares only the versions.
        obtained_at: when the request was sent, on the database's clock.
        due_at: when the grant is next due.
    """

    path: Path
    claim: Claim
    pair: TokenPair
    obtained_at: datetime
    due_at: datetime


def encode(claim: Claim, pair: TokenPair, *, obtained_at: datetime, due_at: datetime) -> Secret:
    """Return the text of an answer's file."""
    plain = {
        "claim": asdict(claim) | {"access_ciphertext": None, "refresh_ciphertext": None},
        "pair": {
            "access": pair.access, "refresh": pair.refresh,
            "expires_at": pair.expires_at, "refresh_expires_at": pair.refresh_expires_at, "scopes": pair.scopes,
            "consent_expires_at": pair.consent_expires_at, "extra": SecretDict(pair.extra),
        },
        "obtained_at": obtained_at, "due_at": due_at,
    }  # fmt: skip
    return Secret(json.dumps(plain, default=_text))


def decode(path: Path, text: Secret) -> SpooledAnswer:
    """Parse the text of an answer's file."""
    plain = json.loads(text.reveal(), object_hook=SecretDict)
    claim, pair = plain["claim"], plain["pair"]
    for old, new in _OLD_NAMES.items():
        if old in claim:
            claim[new] = claim.pop(old)
    for name in (
        *("claimed_at", "until", "expires_at", "in_doubt_since", "obtained_at"),
        *("refresh_expires_at", "last_read_at", "failing_since", "consented_at"),
    ):
        claim[name] = _moment(claim.get(name))
    claim["target"] = TokenTarget(**claim.get("target", {}))
    claim |= {"key": GrantKey(**claim["key"]), "owner": UUID(claim["owner"])}
    return SpooledAnswer(
        path=path,
        claim=Claim(**claim),
        pair=TokenPair(
            access=Secret(pair["access"]) if pair["access"] else None,
            refresh=Secret(pair["refresh"]) if pair["refresh"] else None,
            expires_at=_moment(pair["expires_at"]),
            refresh_expires_at=_moment(pair["refresh_expires_at"]),
            scopes=None if pair["scopes"] is None else tuple(pair["scopes"]),
            # Files of version 0.1 have neither field.
            consent_expires_at=_moment(pair.get("consent_expires_at")),
            extra=pair.get("extra", {}),
        ),
        obtained_at=datetime.fromisoformat(plain["obtained_at"]),
        due_at=datetime.fromisoformat(plain["due_at"]),
    )


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


def _moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
