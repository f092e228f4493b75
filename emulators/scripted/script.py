"""One answer of a token endpoint, down to its bytes."""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Literal, Self
from urllib.parse import urlencode

Cut = Literal["before", "mid_headers", "after_headers", "mid_body", "short_body"]
"""Where a connection ends too early.

"before": before the first byte of the answer; "short_body": in an orderly way, with half of the body that was
announced. All others are a reset.
"""
ContentEncoding = Literal["gzip", "deflate"]
CHUNK_BYTES = 7  # small, so that a short body has several chunks

JSON = "application/json; charset=utf-8"
FORM = "application/x-www-form-urlencoded"
HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Script:
    """What the endpoint does with one request.

    Attributes:
        delay: real seconds before the answer; infinite: until the provider is released.
        cut: where the connection ends too early; None: it does not.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: Cut | None = None
    chunked: bool = False
    content_encoding: ContentEncoding | None = None

    def changed(self, **fields: Any) -> Self:
        """Copy with `fields` replaced."""
        return replace(self, **fields)

    @property
    def reason(self) -> str:
        """The phrase beside the status."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Unnamed"

    def head(self) -> bytes:
        """Status line and headers as they are sent."""
        lines = {"cache-control": "no-store", "pragma": "no-cache"}
        if self.content_type is not None:
            lines["content-type"] = self.content_type
        if self.content_encoding is not None:
            lines["content-encoding"] = self.content_encoding
        if self.chunked:
            lines["transfer-encoding"] = "chunked"
        else:
            lines["content-length"] = str(len(self._encoded()))
        lines |= {name.lower(): value for name, value in self.headers.items()}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {self.status} {self.reason}\r\n{text}\r\n".encode("latin-1")

    def payload(self) -> bytes:
        """The body as it is sent, encoded and in chunks."""
        encoded = self._encoded()
        if not self.chunked:
            return encoded
        parts = [encoded[at : at + CHUNK_BYTES] for at in range(0, len(encoded), CHUNK_BYTES)]
        return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

    def _encoded(self) -> bytes:
        match self.content_encoding:
            case "gzip":
                return gzip.compress(self.body, mtime=0)
            case "deflate":
                return zlib.compress(self.body)
            case None:
                return self.body


def json_answer(fields: Any, status: int = 200, **others: Any) -> Script:
    """Answer in JSON."""
    return Script(status, json.dumps(fields).encode(), **others)


def form_answer(fields: Mapping[str, Any], status: int = 200, **others: Any) -> Script:
    """Answer form-encoded; None leaves a field out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return Script(status, urlencode(given).encode(), **{"content_type": FORM, **others})


def html_answer(title: str, status: int, **others: Any) -> Script:
    """Answer with a page for people."""
    page = f"<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return Script(status, page.encode(), **{"content_type": HTML, **others})


def text_answer(text: str, status: int, **others: Any) -> Script:
    """Answer with a line of text."""
    return Script(status, text.encode(), **{"content_type": TEXT, **others})


def http_date(epoch: float) -> str:
    """Write a time as HTTP headers do (RFC 9110, 5.6.7)."""
    return formatdate(epoch, usegmt=True)
