"""One grant as a line of JSON.

Pure. No message repeats a value, as a token may be in the wrong field.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from token_vault.grant_key import GrantKey
from token_vault.secret import Secret, hide
from worker.vault.db.names import is_name

FIELDS = (
    "tenant", "connection", "user_id", "account", "admin", "refresh_token", "refresh_token_encrypted", "access_token",
    "expires_at", "scopes", "consented_at",
)  # fmt: skip
# Far more than any provider's tokens have. It limits the memory that a line takes.
MAX_TOKEN_CHARACTERS = 65_536
MAX_LINE_CHARACTERS = 4 * MAX_TOKEN_CHARACTERS
# A larger number is a time in milliseconds.
MAX_UNIX_SECONDS = 32_503_680_000

# RFC 6749, appendix A: visible ASCII and spaces.
_TOKEN = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class TransferLine:
    """A grant in a file.

    Attributes:
        number: of the line, from 1.
        refresh: the refresh token; None if it is encrypted.
        refresh_encrypted: the refresh token under the recipient's key; None if it is not encrypted.
        access: the access token, if any.
        expires_at: of the access token.
        consented_at: when the user consented.
    """

    number: int
    key: GrantKey
    refresh: Secret | None
    refresh_encrypted: str | None = None
    access: Secret | None = None
    expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
    consented_at: datetime | None = None


class _Mistakes(list[str]):
    """The mistakes of one line; reads its fields."""

    def name(self, fields: dict[str, Any], name: str) -> str:
        """Return a required name; note a mistake without one."""
        value = fields.get(name)
        if value is None or value == "":
            self.append(f"{name} is missing")
        elif not is_name(value):
            self.append(f"{name} is no name: a text of 1,024 characters at most")
        return value if isinstance(value, str) else ""

    def token(self, fields: dict[str, Any], name: str) -> Secret | None:
        """Return a token, if there is one; note a mistake."""
        value = fields.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or len(value) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(value):
            self.append(f"{name} is no token: visible ASCII, {MAX_TOKEN_CHARACTERS:,} characters at most")
            return None
        return Secret(value)


def parse_line(number: int, line: str, *, tenant: str | None) -> TransferLine | list[str]:
    """Parse a line, or return all that is wrong.

    Args:
        number: of the line, from 1.
        tenant: whose grants they are where a line does not say; None where it has to.
    """
    fields = _load(line)
    if not isinstance(fields, dict):
        return [fields]
    mistakes = _Mistakes(
        "a field is unknown: there are " + ", ".join(FIELDS) for _ in [1] if set(fields) - set(FIELDS)
    )
    key = _key(fields, tenant, mistakes)
    refresh, encrypted = (
        mistakes.token(fields, "refresh_token"),
        mistakes.token(fields, "refresh_token_encrypted"),
    )
    if not mistakes and (refresh is None) == (encrypted is None):
        mistakes.append("refresh_token is missing" if refresh is None else "the refresh token is there twice")
    parsed = TransferLine(
        number,
        key,
        refresh,
        encrypted.reveal() if encrypted else None,
        mistakes.token(fields, "access_token"),
        _parse_time(fields, "expires_at", mistakes),
        _parse_scopes(fields.get("scopes"), mistakes),
        _parse_time(fields, "consented_at", mistakes),
    )
    return list(mistakes) or parsed


def _load(line: str) -> dict[str, Any] | str:
    """Return a line's JSON object, or what is wrong."""
    if len(line) > MAX_LINE_CHARACTERS:
        return f"the line is longer than {MAX_LINE_CHARACTERS:,} characters"
    try:
        fields = hide(json.loads(line))
    except (ValueError, RecursionError):
        return "the line is not JSON"
    return fields if isinstance(fields, dict) else "the line is not a JSON object"


def _key(fields: dict[str, Any], tenant: str | None, mistakes: _Mistakes) -> GrantKey:
    """Return the key of the grant.

    If no account is given, it is taken from the end of the user's id, as in a primary identity.
    """
    whose = tenant if tenant is not None and fields.get("tenant") is None else mistakes.name(fields, "tenant")
    connection = mistakes.name(fields, "connection")
    if fields.get("admin") is True:
        if fields.get("user_id") or fields.get("account"):
            mistakes.append("an admin grant has neither user_id nor account")
        return GrantKey(whose, connection)
    if fields.get("admin") not in (None, False):
        mistakes.append("admin is true or false")
    user_id = mistakes.name(fields, "user_id")
    if fields.get("account") is not None:
        return GrantKey(whose, connection, user_id, mistakes.name(fields, "account"))
    account = user_id.partition("|")[2]
    if user_id and not account:
        mistakes.append("account is missing, and user_id does not end in one")
    return GrantKey(whose, connection, user_id, account)


def _parse_time(fields: dict[str, Any], name: str, mistakes: _Mistakes) -> datetime | None:
    """Parse Unix seconds, or ISO 8601 with its offset."""
    value = fields.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, str) and (found := datetime.fromisoformat(value)).tzinfo is not None:
            return found.astimezone(UTC)
        if isinstance(value, int | float) and _is_unix_time(value):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError):
        pass
    mistakes.append(f"{name} is no time: Unix seconds, or ISO 8601 with its offset")
    return None


def _is_unix_time(value: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= MAX_UNIX_SECONDS


def _parse_scopes(value: object, mistakes: _Mistakes) -> tuple[str, ...] | None:
    """Parse scopes: a list, or one text with spaces."""
    if value is None:
        return None
    scopes = value.split() if isinstance(value, str) else value
    if isinstance(scopes, list) and all(is_name(scope) and scope for scope in scopes):
        return tuple(scopes)
    mistakes.append("scopes are no list of texts, nor one with blanks between")
    return None


def format_line(line: TransferLine) -> str:
    """Return a line as ``parse_line`` reads it.

    A refresh token that is not encrypted is written in plain text.
    """
    fields: dict[str, Any] = {"tenant": line.key.tenant, "connection": line.key.connection}
    if line.key.is_admin:
        fields["admin"] = True
    else:
        fields |= {"user_id": line.key.user_id, "account": line.key.provider_user_id}
    if line.refresh_encrypted is not None:
        fields["refresh_token_encrypted"] = line.refresh_encrypted
    elif line.refresh is not None:
        fields["refresh_token"] = line.refresh.reveal()
    if line.scopes is not None:
        fields["scopes"] = list(line.scopes)
    if line.consented_at is not None:
        fields["consented_at"] = line.consented_at.isoformat()
    return json.dumps(fields, ensure_ascii=False)
