"""Settings of the metrics of workers and beat."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from worker.settings.section import Section


class MetricsSettings(Section):
    """The table ``[metrics]``.

    Attributes:
        host: where to listen.
        port: 0 to serve no metrics. Each worker and beat on a machine needs its own, by ``TOKEN_VAULT_METRICS_PORT``.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
