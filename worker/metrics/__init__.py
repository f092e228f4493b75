"""What Prometheus is shown."""

from prometheus_client import disable_created_metrics

# The time at which each series began would double their number.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the package is typed in parts
