"""Spans, as the other rooms begin them."""

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
    """All that a span may tell.

    Names, ids, numbers and outcomes; never a user, nor what a provider or Auth0 writes.

    Attributes:
        grant: the row's id, as logs have it.
        users: how many a page names.
        webhook: its name in the TOML file.
        event: its public id.
        request_id: the app's own, as logs have it.
        method, status, route, host: of HTTP.
        error: a class or code of this program's, or an HTTP status.
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
        """End it; the exception's class is all that is told."""

    def set(self, **attributes: Unpack[Attributes]) -> None:
        """Tell more of it."""

    def set_status(self, status: int, *, error_from: int = 400) -> None:
        """Tell an answer's status, which may be an error."""

    def rename(self, name: str) -> None:
        """Replace its name, once that is known."""


class _Traces:
    """What records this process's spans.

    A forked process starts anew: it would share its parent's connection to the collector.
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
    """Record this process's spans, where a collector is configured.

    Args:
        service: names the process, unless ``OTEL_SERVICE_NAME`` does.
    """
    if _traces.recorder is None and is_configured():
        from worker.traces.recorder import Recorder

        _traces.recorder = Recorder(service)


def flush() -> None:
    """Send what waits, for two seconds at the most."""
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
        name: one of few: never with an id in it.
        traceparent: of the caller (W3C Trace Context); by default the span belongs to the one around it.
        is_tick: it is told only if another span began within: most ticks find nothing to do.
    """
    if _traces.recorder is None:
        return _NOT_RECORDED
    return _traces.recorder.span(name, kind, traceparent, is_tick, attributes)


def continue_trace(traceparent: object) -> None:
    """Let this thread's next spans continue a caller's trace.

    Args:
        traceparent: as the caller sent it; where it is none, they begin traces of their own.
    """
    if _traces.recorder is not None:
        _traces.recorder.continue_trace(traceparent if isinstance(traceparent, str) else None)


def add_trace_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the trace in a log line, for structlog."""
    if _traces.recorder is not None and (trace_id := _traces.recorder.trace_id()):
        event["trace_id"] = trace_id
    return event
