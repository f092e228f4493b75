"""Which of a provider's headers may be passed on."""

from __future__ import annotations

import pytest

from worker.api.proxy.answer import _passable
from worker.api.proxy.scrub import TokenScrubber

TOKEN = "ya29-canary-token-of-a-user-0123"
PLAIN = (b"X-Plain", b"1")


@pytest.mark.parametrize(
    "header",
    [
        (b"X-Echo", TOKEN.encode()),
        (b"X-Echo", b"a " + TOKEN.encode() + b" b"),
        (b"X-" + TOKEN.encode(), b"1"),
        (TOKEN.encode(), b""),
        (b"X Blank", b"1"),
        (b"X-Nul", b"a\0b"),
    ],
)
def test_no_header_with_a_token_or_a_wrong_character_is_passed_on(header: tuple[bytes, bytes]) -> None:
    """Neither in its value nor in its name, alone or beside others."""
    scrubber = TokenScrubber([TOKEN])
    assert _passable([header], scrubber) == []
    assert _passable([PLAIN, header, PLAIN], scrubber) == [("X-Plain", "1")] * 2
