"""A search for secrets in what a program leaves behind.

It sees through the encodings in which programs write secrets by accident.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import redis

# How the emulated tokens begin, but for beginnings so short that a ciphertext can have them by chance: any is a
# find, whoever issued it when.
_TOKENS = re.compile(
    rb"(?<![A-Za-z0-9_-])(?:cust_at_|cust_rt_|ya29\.a0|1//0g|bbat_|bbrt_|mgmt_)[A-Za-z0-9_-]{24}"
)
_WORD = re.compile(rb"[A-Za-z0-9_-]{20,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){16,}")
# What of a long secret is looked for, as a log may cut it: each of its ends.
_END = 20


class SecretSearch:
    """The secrets to look for, by name.

    Args:
        planted: any secrets, of 8 characters at the least: shorter ones cannot be told from chance.
        issued: tokens, however many; they end in 20 letters, digits, dashes or underscores.
    """

    def __init__(self, planted: Mapping[str, str], issued: Mapping[str, str] | None = None) -> None:
        assert all(len(secret) >= 8 for secret in planted.values())
        self._ends = [
            (end.encode(), name)
            for name, secret in planted.items()
            for end in {secret[:_END], secret[-_END:]}
        ]
        self._tails = {token[-_END:].encode(): name for name, token in (issued or {}).items()}

    def found(self, content: bytes, *, disguised: bool = True) -> list[str]:
        """Return the names of the secrets in this content.

        A token that nobody named is called by its prefix.

        Args:
            disguised: look behind encodings too.
        """
        names: set[str] = set()
        for text in unwrapped(content) if disguised else (content,):
            names.update(name for end, name in self._ends if end in text)
            names.update(f"a token beginning with {token[:8].decode()}" for token in _TOKENS.findall(text))
            if disguised:
                tails = {word[-_END:] for word in _WORD.findall(text)}
                names.update(self._tails[tail] for tail in tails & self._tails.keys())
        return sorted(names)


def unwrapped(content: bytes) -> Iterator[bytes]:
    """Yield the content plain, unescaped, and decoded."""
    yield content
    yield content.replace(b"\\", b"")
    yield unquote_to_bytes(content)
    yield b"\n".join(map(_decoded, set(_BASE64.findall(content))))
    yield b"\n".join(map(binascii.unhexlify, set(_HEX.findall(content))))


def _decoded(run: bytes) -> bytes:
    """Decode base64 of either alphabet, from each possible start."""
    text = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    whole = (text[start:] for start in range(4))
    return b"\n".join(base64.b64decode(part[: len(part) // 4 * 4]) for part in whole)


def everything_in(broker: redis.Redis) -> bytes:
    """All keys and values of a Redis, of every type."""
    readers: dict[Any, Callable[[bytes], Any]] = {
        b"string": broker.get,
        b"list": lambda key: broker.lrange(key, 0, -1),
        b"set": broker.smembers,
        b"zset": lambda key: broker.zrange(key, 0, -1, withscores=True),
        b"hash": broker.hgetall,
        b"stream": broker.xrange,
    }
    keys: list[bytes] = list(broker.scan_iter("*"))
    return b"\n".join(_flat([key, readers[broker.type(key)](key)]) for key in keys)


def _flat(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case Mapping():
            return _flat([*value.keys(), *value.values()])
        case list() | tuple() | set() | frozenset():
            return b"\n".join(map(_flat, value))
    return str(value).encode()
