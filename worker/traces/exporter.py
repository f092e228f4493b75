"""Exports spans by OTLP over HTTP; logs its outages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from worker.traces.variables import read_endpoint

log = structlog.get_logger(__name__)


def make_exporter() -> LoggedExporter:
    """Make the exporter that OpenTelemetry's variables configure."""
    # It would log addresses and headers that it cannot read, and each failure. LoggedExporter logs the first failure.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    session = requests.Session()
    return LoggedExporter(OTLPSpanExporter(session=session), session)


class LoggedExporter:
    """Exports spans; logs the beginning and end of an outage.

    Args:
        exporter: OpenTelemetry's.
        session: that the exporter uses.
    """

    def __init__(self, exporter: Any, session: requests.Session) -> None:
        self._exporter = exporter
        self._collector = urlsplit(read_endpoint()).hostname
        self._failure = ""
        self._has_failed = False
        session.hooks["response"].append(self._note_status)

    def export(self, spans: Sequence[Any]) -> Any:
        """Export a batch. If that fails, its spans are lost."""
        self._failure = "no answer"
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._has_failed:
                log.info("traces.export_resumed", collector=self._collector)
            self._has_failed = False
        elif not self._has_failed:
            self._has_failed = True
            log.warning("traces.export_failed", collector=self._collector, error=self._failure)
        return result

    def find_failure(self) -> str | None:
        """Export an empty batch; return the failure, if any."""
        return self._failure if self.export([]) is not SpanExportResult.SUCCESS else None

    def shutdown(self) -> None:
        """Close the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 0) -> bool:  # noqa: ARG002  # as the SDK calls it
        """Do nothing: no spans are kept here."""
        return True

    def _note_status(self, response: requests.Response, **_: object) -> None:
        self._failure = f"status {response.status_code}"
