"""The app's trace, if the app uses OpenTelemetry.

The readers do not depend on that package: an app that has not imported it has no trace.
"""

from __future__ import annotations

import sys


def current_traceparent() -> str | None:
    """Return the app's current span as ``traceparent`` (W3C Trace Context)."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
