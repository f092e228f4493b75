"""An OpenTelemetry collector: takes traces by OTLP over HTTP, and keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.wait import until
from tests.support.webhook_receiver import Receiver, receiving
from worker import traces
from worker.traces import spans as recorded


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as the collector has it.

    Attributes:
        parent_id: empty for the first of a trace of its own.
        is_error: whether its status says so.
    """

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    attributes: Mapping[str, str | int]
    is_error: bool


class Collector:
    """What a receiver got, as spans."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.endpoint = receiver.url.removesuffix("/hook")

    @property
    def content(self) -> bytes:
        """Every byte that was sent, headers among them."""
        return b"\n".join(repr(got.headers).encode() + got.body for got in self.receiver.got)

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans, those that ended first before others."""
        return [each for got in list(self.receiver.got) for each in _decode(got.body)]

    def trace_of(self, name: str) -> list[ReceivedSpan]:
        """Wait for a span of this name; return its trace as it is then."""
        (first, *_) = until(lambda: [each for each in self.spans if each.name == name], f"a span {name}")
        return [each for each in self.spans if each.trace_id == first.trace_id]


def _decode(body: bytes) -> Iterator[ReceivedSpan]:
    for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {each.key: each.value.string_value for each in of_process.resource.attributes}
        for span in (each for scope in of_process.scope_spans for each in scope.spans):
            yield ReceivedSpan(
                span.name,
                span.kind,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                resource["service.name"],
                {each.key: each.value.string_value or each.value.int_value for each in span.attributes},
                span.status.code == span.status.STATUS_CODE_ERROR,
            )


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector within the block."""
    with receiving() as receiver:
        yield Collector(receiver)


@contextmanager
def collecting_here(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[Collector]:
    """Run a collector that gets this process's traces."""
    with collecting() as collector:
        for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **variables}.items():
            monkeypatch.setenv(name, value)
        traces.start("tests")
        recorder = recorded._traces.recorder
        assert recorder is not None
        try:
            yield collector
        finally:
            recorded._traces.begin()
            collector.receiver.open.set()
            recorder._provider.shutdown()
