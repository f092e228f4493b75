"""Spans, and the variables that turn them on."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_type_hints

import pytest
from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from token_vault.trace_context import current_traceparent
from worker import traces
from worker.settings import load
from worker.settings.problems import SettingsError
from worker.traces.recorder import ATTRIBUTES
from worker.traces.spans import Attributes

ROOT = Path(__file__).parents[2]
PAGE = (
    (ROOT / "docs/monitoring.md").read_text(encoding="utf-8").partition("## Traces")[2].partition("\n## ")[0]
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def test_the_page_lists_each_attribute() -> None:
    """Each attribute has a name in a span, and docs/monitoring.md lists those names and no others."""
    assert ATTRIBUTES.keys() == get_type_hints(Attributes).keys()
    rows = [
        row.partition(" | ")[0]
        for row in PAGE.split("| attribute |")[1].splitlines()
        if row.startswith("| `")
    ]
    assert set(re.findall(r"`([a-z_.]+)`", "".join(rows))) == set(ATTRIBUTES.values())


def test_the_page_lists_each_span() -> None:
    """Each span's name, but for the parts that are known at run time, is in docs/monitoring.md."""
    rows = [
        row.split(" | ")[0] for row in PAGE.split("| attribute |")[0].splitlines() if row.startswith("| `")
    ]
    names = re.findall(r"`([^`]+)`", " ".join(rows))
    found = []
    for path in sorted((ROOT / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute(ast.Name("traces"), "span"), [ast.Constant(str(name)), *_]):
                    found.append(name)
    assert len(found) >= 6
    assert set(found) <= set(names)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is not the address"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not the address",
        ),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL has to be http/protobuf",
        ),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER has to be otlp or none"),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER": "tracidratio"}, "OTEL_TRACES_SAMPLER is none of always_on"),
        (
            ENDPOINT | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "5%"},
            "OTEL_TRACES_SAMPLER_ARG has to be a number from 0 to 1",
        ),
    ],
    ids=lambda value: next(iter(value.items()))[0] if isinstance(value, dict) else None,
)
def test_a_mistake_is_told(variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenTelemetry would pass over in silence is told with all other mistakes, and only where traces are on."""
    monkeypatch.delenv("TOKEN_VAULT_CONFIG", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said) as told:
        load()
    assert len(told.value.problems) == 1
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    load()


def test_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint without the packages is a mistake that names the extra."""
    monkeypatch.setenv(*next(iter(ENDPOINT.items())))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ["idp-token-vault[tracing]" in said for _, said, _ in traces.find_mistakes()] == [True]


def test_a_reader_takes_the_apps_own_span() -> None:
    """The current span is handed on; without one there is nothing."""
    assert current_traceparent() is None
    token = context.attach(TraceContextTextMapPropagator().extract({"traceparent": TRACEPARENT}))
    try:
        assert trace.get_current_span().get_span_context().is_remote
        assert current_traceparent() == TRACEPARENT
    finally:
        context.detach(token)
