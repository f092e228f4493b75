"""Which paths and queries the proxy forwards.

Without I/O. A path is decoded once, and refused if servers could interpret it differently. The path that is sent is
encoded from the path that was matched, so that they cannot differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote_plus, unquote_to_bytes

# Of a path or a query. Many servers refuse longer ones; RFC 9110, 4.1 recommends to support at least 8000.
MAX_TARGET_BYTES = 8_000

# Without TRACE, which answers with the request and so the provider's token, and CONNECT, which opens tunnels.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# RFC 3986, 3.3 without ";", at which some servers end the path.
_PATH_SAFE = "!$&'()*+,-.:=@_~"
# Characters that some servers interpret, even encoded.
_TRICKY = frozenset("/\\;%?#")
_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_QUERY = re.compile(r"[!$-;=?-Z_a-z~\[\]|^`{}%\\@\"]*")

# A token in the query would be used instead of the vault's; the other parameters change the method after it was checked.
# Compared as lower-case letters only: servers treat dots, blanks and hyphens as underscores, and ignore case.
_REFUSED_PARAMETERS = frozenset(
    {"accesstoken", "oauthtoken", "bearertoken", "httpmethod", "methodoverride"}
    | {"xhttpmethod", "xhttpmethodoverride", "xmethodoverride"}
)


class TargetRefused(ValueError):
    """A path or query that is not forwarded, and why."""


@dataclass(frozen=True, slots=True)
class AllowRule:
    """A method and a path pattern, as in ``GET /calendar/v3/*``.

    A last segment ``*`` stands for one or more segments; any other ``*`` for characters within one.
    """

    method: str
    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> AllowRule:
        """Parse a rule.

        Raises:
            ValueError: it is not a rule.
        """
        method, _, path = text.strip().partition(" ")
        path = path.strip()
        if method not in METHODS:
            raise ValueError(f"a rule begins with a method ({', '.join(sorted(METHODS))}) in capitals")
        try:
            normalized = normalize_path(quote(path, safe="/*%" + _PATH_SAFE).encode())
        except TargetRefused as error:
            raise ValueError(f"no path fits the rule: {error}") from None
        *segments, last = normalized[1:].split("/")
        patterns = [_segment_pattern(segment) for segment in segments]
        patterns.append("[^/].*" if last == "*" else _segment_pattern(last))
        return cls(method, re.compile("/" + "/".join(patterns), re.DOTALL))

    def allows(self, method: str, path: str) -> bool:
        """Whether the rule allows a request.

        Args:
            path: as ``normalize_path`` returns it.
        """
        return method == self.method and self.pattern.fullmatch(path) is not None


def _segment_pattern(segment: str) -> str:
    return "[^/]+".join(map(re.escape, re.split(r"\*+", segment)))


def is_allowed(rules: Iterable[AllowRule], method: str, path: str) -> bool:
    """Whether one of the rules allows the request."""
    return any(rule.allows(method, path) for rule in rules)


def normalize_path(raw: bytes) -> str:
    """Decode a path once, and refuse ambiguous ones.

    Args:
        raw: the path as received, with its leading slash.

    Raises:
        TargetRefused: servers could interpret it differently.
    """
    if len(raw) > MAX_TARGET_BYTES:
        raise TargetRefused(f"the path has more than {MAX_TARGET_BYTES} bytes")
    if not raw.startswith(b"/"):
        raise TargetRefused("the path has to begin with a slash")
    if _PERCENT.search(raw):
        raise TargetRefused("the path has a percent sign that encodes nothing")
    segments = [_decode_segment(part) for part in raw[1:].split(b"/")]
    if "" in segments[:-1]:
        raise TargetRefused("the path has an empty segment")
    return "/" + "/".join(segments)


def _decode_segment(raw: bytes) -> str:
    try:
        segment = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise TargetRefused("the path is no UTF-8") from None
    # Some servers fold full-width characters into the ASCII characters that they resemble.
    folded = unicodedata.normalize("NFKC", segment)
    if _TRICKY & (set(segment) | set(folded)):
        raise TargetRefused("the path has an encoded slash or percent sign, a backslash or a semicolon")
    if segment.strip() in (".", "..") or folded.strip() in (".", ".."):
        raise TargetRefused("the path has a dot segment")
    # "…" folds into three dots, which Windows servers may take for several levels up.
    if segment and not folded.strip(". "):
        raise TargetRefused("the path has a segment of dots and spaces alone")
    if not segment.isprintable():
        raise TargetRefused("the path has a control character")
    return segment


def encode_path(path: str) -> str:
    """Encode a normalized path for the request line."""
    return "/".join(quote(segment, safe=_PATH_SAFE) for segment in path.split("/"))


def check_query(raw: bytes) -> str:
    """Return a query that may be forwarded unchanged.

    Raises:
        TargetRefused: it has characters that no query has, a token, or another method.
    """
    if len(raw) > MAX_TARGET_BYTES:
        raise TargetRefused(f"the query has more than {MAX_TARGET_BYTES} bytes")
    try:
        query = raw.decode("ascii")
    except UnicodeDecodeError:
        raise TargetRefused("the query is not percent-encoded") from None
    if not _QUERY.fullmatch(query):
        raise TargetRefused("the query has a character that no query has")
    for parameter in re.split("[&;]", query):
        name, _, value = parameter.partition("=")
        if _is_refused(_decode(name), _decode(value)):
            raise TargetRefused(f"the query has the parameter {_decode(name)}, which is not forwarded")
    return query


def _is_refused(name: str, value: str) -> bool:
    # Some servers cut a name at a bracket ("a[b]") or at a NUL.
    letters = re.sub(r"[^a-z]", "", re.split(r"[\[\0]", name)[0])
    # Facebook's Graph API accepts "method=delete"; in other APIs the parameter "method" names a function.
    return letters in _REFUSED_PARAMETERS or (letters == "method" and value.upper() in METHODS)


def _decode(encoded: str) -> str:
    # Twice, because a gateway at the provider may decode once more.
    return unquote_plus(unquote_plus(encoded)).strip().lower()
