"""Records spans by OpenTelemetry's SDK.

Imported only if a collector is configured.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, Unpack

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker import __version__
from worker.traces.exporter import make_exporter
from worker.traces.spans import Attributes, Kind, Span

# For so long an ending process waits for a collector that does not answer. Nothing else waits for a collector.
FLUSH_SECONDS = 2.0

# Names of attributes: OpenTelemetry's (semantic conventions 1.43), and this program's own.
ATTRIBUTES = {
    "tenant": "token_vault.tenant",
    "connection": "token_vault.connection",
    "provider": "token_vault.provider",
    "grant": "token_vault.grant",
    "outcome": "token_vault.outcome",
    "users": "token_vault.users",
    "webhook": "token_vault.webhook",
    "event": "token_vault.event",
    "request_id": "token_vault.request_id",
    "method": "http.request.method",
    "status": "http.response.status_code",
    "route": "http.route",
    "host": "server.address",
    "error": "error.type",
}
_KINDS = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "consumer": trace.SpanKind.CONSUMER,
}
_AROUND = contexts.create_key("token_vault.span")


class Recorder:
    """Records this process's spans.

    Args:
        service: the process's name, unless ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` has one.
    """

    def __init__(self, service: str) -> None:
        default = Resource.create({"service.name": service, "service.version": __version__})
        self._provider = TracerProvider(
            resource=default.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,  # it would wait for half a minute
        )
        exporter: Any = make_exporter()
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("token_vault", __version__)

    def span(
        self, name: str, kind: Kind, traceparent: str | None, is_tick: bool, attributes: Attributes
    ) -> Span:
        """Make a span."""
        return _RecordedSpan(self._tracer, name, kind, traceparent, is_tick, attributes)

    def continue_trace(self, traceparent: str | None) -> None:
        """Make this thread's next spans part of a caller's trace."""
        contexts.attach(_context_of(traceparent))

    def trace_id(self) -> str | None:
        """Return the id of the current trace, if any."""
        found = trace.get_current_span()
        return f"{found.get_span_context().trace_id:032x}" if found.is_recording() else None

    def flush(self) -> None:
        """Send pending spans, for at most ``FLUSH_SECONDS``."""
        sending = threading.Thread(target=self._provider.force_flush, name="traces", daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)


class _RecordedSpan(Span):
    """An OpenTelemetry span, current within its block."""

    __slots__ = (
        "_attributes",
        "_has_children",
        "_is_tick",
        "_kind",
        "_name",
        "_span",
        "_token",
        "_traceparent",
        "_tracer",
    )  # fmt: skip

    def __init__(
        self,
        tracer: trace.Tracer,
        name: str,
        kind: Kind,
        traceparent: str | None,
        is_tick: bool,
        attributes: Attributes,
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._kind = _KINDS[kind]
        self._traceparent = traceparent
        self._is_tick = is_tick
        self._attributes = attributes
        self._has_children = False

    def __enter__(self) -> Self:
        around = _context_of(self._traceparent) if self._traceparent else contexts.get_current()
        if isinstance(parent := contexts.get_value(_AROUND, around), _RecordedSpan):
            parent._has_children = True
        self._span = self._tracer.start_span(self._name, around, self._kind)
        self.set(**self._attributes)
        within = contexts.set_value(_AROUND, self, trace.set_span_in_context(self._span, around))
        self._token = contexts.attach(within)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        if kind is not None:
            self.set(error=kind.__name__)  # not its text, which may contain what another server wrote
        if self._has_children or not self._is_tick:
            self._span.end()

    def set(self, **attributes: Unpack[Attributes]) -> None:
        given: Mapping[str, Any] = attributes
        for name, value in given.items():
            self._span.set_attribute(ATTRIBUTES[name], value)
        if "error" in attributes:
            self._span.set_status(trace.StatusCode.ERROR)

    def set_status(self, status: int, *, error_from: int = 400) -> None:
        self.set(status=status)
        if status >= error_from:
            self.set(error=str(status))

    def rename(self, name: str) -> None:
        self._span.update_name(name)


def _context_of(traceparent: str | None) -> Context:
    """Return the context of a caller's span.

    It is empty if ``traceparent`` is missing or invalid.
    """
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent or ""}, Context())
