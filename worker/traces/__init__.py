"""Traces of this process's work, for an OpenTelemetry collector.

If no collector is configured, OpenTelemetry is not imported, and a span costs less than a microsecond.
"""

from worker.traces.spans import Span, add_trace_id, continue_trace, flush, span, start
from worker.traces.variables import find_mistakes, is_configured, read_endpoint

__all__ = [
    "Span",
    "add_trace_id",
    "continue_trace",
    "find_mistakes",
    "flush",
    "is_configured",
    "read_endpoint",
    "span",
    "start",
]
