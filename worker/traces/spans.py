"""The functions by which other rooms make spans."""

from __future__ import annotations

from collections.abc import MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from token_vault.fork_safety import begin_in_each_process
from worker.traces.variables import is_configured

if TYPE_CHECKING:
    from worker.traces.recorder import Recorder

Kind = Literal["internal", "server", "client", "consumer"]


class Attributes(TypedDict, total=False):
    """All attributes that a span may have.

    Names, ids, numbers and outcomes; never a user, nor a text by a provider or Auth0.

    Attributes:
        grant: the row's id, as in logs.
        outcome: of a renewal or a sync.
        users: how many a page names.
        webhook: its name in the TOML file.
        event: its public id.
        request_id: as in logs.
        method, status, route, host: of an HTTP request.
        error: an exception's class, a code of this program's, or an HTTP status.
    """

    tenant: str
    connection: str
    provider: str
    grant: int
    outcome: str
    users: int
    webhook: str
    event: str
    request_id: str
    method: str
    status: int
    route: str
    host: str
    error: str


class Span:
    """A span that is not recorded."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it. Of an exception only the class is recorded."""

    def set(self, **attributes: Unpack[Attributes]) -> None:
        """Set attributes."""

    def set_status(self, status: int, *, error_from: int = 400) -> None:
        """Set an answer's status; from ``error_from`` on an error."""

    def rename(self, name: str) -> None:
        """Replace its name."""


class _Traces:
    """Holds this process's recorder.

    A forked process begins without one, as it would share its parent's connection to the collector.
    """

    recorder: Recorder | None

    def __init__(self) -> None:
        begin_in_each_process(self)

    def begin(self) -> None:
        """Begin with nothing recorded."""
        self.recorder = None


_NOT_RECORDED = Span()
_traces = _Traces()


def start(service: str) -> None:
    """Record this process's spans, if a collector is configured.

    Args:
        service: the process's name, unless ``OTEL_SERVICE_NAME`` has one.
    """
    if _traces.recorder is None and is_configured():
        from worker.traces.recorder import Recorder

        _traces.recorder = Recorder(service)


def flush() -> None:
    """Send pending spans, for at most two seconds."""
    if _traces.recorder is not None:
        _traces.recorder.flush()


def span(
    name: str,
    kind: Kind = "internal",
    *,
    traceparent: str | None = None,
    is_tick: bool = False,
    **attributes: Unpack[Attributes],
) -> Span:
    """Make a span, to be entered by ``with``.

    Args:
        name: without ids, so that there are few names.
        kind: OpenTelemetry's.
        traceparent: the caller's (W3C Trace Context). By default the current span is the parent.
        is_tick: whether to record it only if another span begins within it, as most ticks find nothing to do.
        attributes: the first ones.
    """
    if _traces.recorder is None:
        return _NOT_RECORDED
    return _traces.recorder.span(name, kind, traceparent, is_tick, attributes)


def continue_trace(traceparent: object) -> None:
    """Make this thread's next spans part of a caller's trace.

    Args:
        traceparent: as the caller sent it. If it is missing or invalid, they begin new traces.
    """
    if _traces.recorder is not None:
        _traces.recorder.continue_trace(traceparent if isinstance(traceparent, str) else None)


def add_trace_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the trace's id to a log line, for structlog."""
    if _traces.recorder is not None and (trace_id := _traces.recorder.trace_id()):
        event["trace_id"] = trace_id
    return event
