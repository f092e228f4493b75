"""Metrics for Prometheus."""

from prometheus_client import disable_created_metrics

# Otherwise each series would have another one with the time at which it was created.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the package is typed in parts
