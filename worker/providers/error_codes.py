"""Error codes, and who has to act on them.

Sources: RFC 6749 §5.2, OpenID Connect Core §3.1.2.6, and the providers' own pages on errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from worker.providers.model import RefusalBlame

_USER = """
    invalid_grant interaction_required consent_required login_required invalid_rapt
    bad_refresh_token invalid_refresh_token invalid_code token_expired token_revoked
"""
_OPERATOR = """
    invalid_client unauthorized_client unsupported_grant_type invalid_scope invalid_request invalid_resource
    invalid_target incorrect_client_credentials redirect_uri_mismatch bad_redirect_uri bad_client_secret
    invalid_client_secret invalid_client_id bad_client_id deleted_client disabled_client
"""
# Codes that can only be about the client, not about the token that was sent.
CLIENT_REFUSED = frozenset(
    [
        "invalid_client",
        "incorrect_client_credentials",
        "redirect_uri_mismatch",
        "bad_redirect_uri",
        "bad_client_secret",
        "invalid_client_secret",
        "invalid_client_id",
        "bad_client_id",
        "deleted_client",
        "disabled_client",
    ]
)
_NOBODY = """
    temporarily_unavailable server_error slow_down rate_limit_exceeded ratelimited too_many_requests
    service_unavailable rate_limited rate_limit throttled resource_exhausted
"""

BLAMES: Mapping[str, RefusalBlame] = MappingProxyType(
    {
        code: blame
        for blame, codes in (
            (RefusalBlame.USER, _USER),
            (RefusalBlame.OPERATOR, _OPERATOR),
            (RefusalBlame.NOBODY, _NOBODY),
        )
        for code in codes.split()
    }
)


# Phrases in descriptions, in lower case. They take precedence over the code beside them.
PHRASES: tuple[tuple[str, RefusalBlame], ...] = (
    ("already being processed", RefusalBlame.NOBODY),  # Salesforce: another request is under way
    ("request is being processed", RefusalBlame.NOBODY),
    ("request is in progress", RefusalBlame.NOBODY),
    ("request already in progress", RefusalBlame.NOBODY),
    *((words, RefusalBlame.NOBODY) for words in ("too many requests", "rate limit", "throttl")),
    # RFC 6749, 5.2, defines ``invalid_grant`` by this phrase, and many servers (GitLab) repeat it for any cause. It has to
    # come before the next ones, which it contains.
    ("invalid, expired, revoked, does not match", RefusalBlame.USER),
    ("aadsts50196", RefusalBlame.NOBODY),  # Entra: a loop of requests is throttled
    ("not issued to this client", RefusalBlame.OPERATOR),  # RFC 6749, 5.2: another client's refresh token
    ("issued to another client", RefusalBlame.OPERATOR),
    ("issued to a different client", RefusalBlame.OPERATOR),
    ("aadsts700016", RefusalBlame.OPERATOR),  # Entra: the application is not in this directory
)
COMMON_PHRASE_CODES = {
    RefusalBlame.NOBODY: "temporarily_unavailable",
    RefusalBlame.OPERATOR: "other_client",
    RefusalBlame.USER: "invalid_grant",
}

MAX_SHOWN_LENGTH = 40
_CODE_NAMES = (
    "error",
    "error_code",
    "errorCode",
    "code",
    "errors",
    "errorType",
    "error_type",
    "errcode",
    "type",
    "reason",
)
_DESCRIPTION_NAMES = (
    *("error_description", "message", "error_message", "detail", "title", "reason", "msg", "errmsg"),
    *("errorSummary", "code"),
)
_TEXT_NAMES = ("message", "msg", "errmsg", "title", "error_description", "data")
# An answer with a 2xx status is a refusal if one of these fields is false, has one of these words, or has an error number,
# which is outside the numbers that mean success.
_SUCCESS_NAMES = ("success", "ok", "succeeded", "isSuccess")
_FAILURE_NAMES = ("status", "result", "message", "state")
_FAILURE_WORDS = frozenset({"error", "fail", "failed", "failure"})
_ERROR_NUMBER_NAMES = ("errcode", "err_code", "error_code", "errorCode", "errno", "code", "status_code")
_SUCCESS_NUMBERS = range(300)
_SAYS_NOTHING = frozenset(
    {"", "error", "errors", "fail", "failed", "failure", "false", "about_blank", "bad_request"}
)
# A code that has this many letters and digits in a row in common with the token repeats part of it.
MIN_REPEATED_LENGTH = 5
# Words and small numbers; any other mixture of letters and digits may be part of a token.
_SHOWN_WORD = re.compile(r"[A-Za-z]{1,20}|[0-9]{1,7}|[A-Za-z]{2,8}[0-9]{3,7}")


def shown_code(fields: Mapping[str, Any], spent: str) -> str | None:
    """Return a provider's short code that is safe to show.

    It may be nested, a number, in a list, or a short message.

    Args:
        spent: the token that was sent; a code that contains part of it is not safe.
    """
    for value in _candidates(fields, depth=0):
        words = re.split(r"[\s_.:,!-]+", value.strip(" .!"))
        code = "_".join(words).lower()
        if (
            len(code) > MAX_SHOWN_LENGTH
            or code in _SAYS_NOTHING
            or not all(map(_SHOWN_WORD.fullmatch, words))
        ):
            continue
        if not _repeats(value, words, spent):
            return code
    return None


def _repeats(text: str, words: list[str], spent: str) -> bool:
    """Return whether a text contains part of the spent token.

    Only letters and digits are compared, because a code is shown without the characters between them.
    """
    text, spent = text.lower(), spent.lower()
    if not spent:
        return False
    if text in spent or spent in text or any(word.lower() in spent for word in words if len(word) > 3):
        return True
    letters, spent_letters = (re.sub(r"[^a-z0-9]", "", written) for written in (text, spent))
    return any(
        letters[start : start + MIN_REPEATED_LENGTH] in spent_letters
        for start in range(len(letters) - MIN_REPEATED_LENGTH + 1)
    )


def _candidates(value: object, depth: int) -> Iterator[str]:
    """Yield texts and numbers that may be codes, before messages."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, list) and value:
        yield from _candidates(value[0], depth + 1)
    elif isinstance(value, dict) and depth < 4:
        for name in (*_CODE_NAMES, *_TEXT_NAMES):
            yield from _candidates(value.get(name), depth + 1)


def reports_failure(fields: Mapping[str, Any]) -> bool:
    """Return whether a successful answer without tokens is a refusal.

    If it is not, its outcome is unknown.
    """
    inner = fields.get("data")
    holders = [fields, inner] if isinstance(inner, dict) else [fields]
    return any(_fails(holder) for holder in holders)


def _fails(holder: Mapping[str, Any]) -> bool:
    is_denied = any(holder.get(name) is False for name in _SUCCESS_NAMES)
    words = (holder.get(name) for name in _FAILURE_NAMES)
    return is_denied or any(normalize(word) in _FAILURE_WORDS for word in words) or _has_error_number(holder)


def _has_error_number(holder: Mapping[str, Any]) -> bool:
    for name in _ERROR_NUMBER_NAMES:
        value = holder.get(name)
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value not in _SUCCESS_NUMBERS:
            return True
    return False


def normalize(value: object) -> str:
    """Return an error code in this table's spelling.

    ``Access Denied`` is ``access_denied``.
    """
    return re.sub(r"[^a-z0-9]+", "_", value.lower()) if isinstance(value, str) else ""


def error_codes(value: object) -> list[str]:
    """Return the error codes in a field of the answer.

    The field is a code, or an object that contains codes, as with Facebook's and Google's APIs. The part of a text before
    a colon is a code too: EVE Online answers ``invalid_grant: Token is expired or invalid.``
    """
    parts = [value.get(name) for name in ("code", "type", "status")] if isinstance(value, dict) else [value]
    starts = [part.partition(":")[0] for part in parts if isinstance(part, str) and ":" in part]
    return [normalize(part) for part in (*parts, *starts)]


def descriptions(fields: Mapping[str, Any]) -> list[str]:
    """Return an error's human-readable texts, in lower case."""
    inner = fields.get("error")
    found = [fields.get(name) for name in _DESCRIPTION_NAMES]
    found += [inner.get(name) for name in _DESCRIPTION_NAMES] if isinstance(inner, dict) else [inner]
    return [text.lower() for text in found if isinstance(text, str)]
