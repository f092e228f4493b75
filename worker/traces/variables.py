"""OpenTelemetry's variables that this program reads itself.

Source: OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SAMPLERS = ("always_on", "always_off", "traceidratio")
_PARENT_BASED = "parentbased_"


def is_configured() -> bool:
    """Whether traces are exported."""
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(read_endpoint()) and not is_off and os.environ.get("OTEL_TRACES_EXPORTER", "") != "none"


def read_endpoint() -> str:
    """Return the collector's address (empty if none is set)."""
    return _first(ENDPOINTS)[1]


def find_mistakes() -> Iterator[tuple[str, str, str]]:
    """Find mistakes that OpenTelemetry would ignore.

    Yields:
        The variable, a message with the fix, and the value (empty if it may be a secret).
    """
    if not is_configured():
        return
    name, endpoint = _first(ENDPOINTS)
    if not _is_address(endpoint):
        yield name, "is not the address of a collector, such as http://collector.example:4318", ""
    if not _has_packages():
        yield (
            name,
            "is set, and the packages for traces are not installed: install idp-token-vault[tracing]",
            "",
        )
    name, protocol = _first(_PROTOCOLS)
    if protocol not in ("", "http/protobuf"):
        yield (
            name,
            "has to be http/protobuf: unset it, and name the collector's port for HTTP, 4318",
            protocol,
        )
    if (exporter := os.environ.get("OTEL_TRACES_EXPORTER", "")) not in ("", "otlp"):
        yield "OTEL_TRACES_EXPORTER", "has to be otlp or none", exporter
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "")
    if sampler and sampler.removeprefix(_PARENT_BASED) not in SAMPLERS:
        yield (
            "OTEL_TRACES_SAMPLER",
            f"is none of {', '.join(SAMPLERS)}, each perhaps after {_PARENT_BASED}",
            sampler,
        )
    share = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    if sampler.endswith("traceidratio") and share and not _is_share(share):
        yield "OTEL_TRACES_SAMPLER_ARG", "has to be a number from 0 to 1", share


def _first(names: tuple[str, ...]) -> tuple[str, str]:
    """Return the first variable that is set, with its value."""
    return next(((name, value) for name in names if (value := os.environ.get(name, ""))), (names[-1], ""))


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _has_packages() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
