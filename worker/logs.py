"""Configures log events, as JSON lines or for a terminal.

Event names are constant; ids are bound to them as fields.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog

from token_vault.errors import ConfigurationError
from worker import traces

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Below WARNING these log whole URLs and headers, which can hold a token; or far too much.
_VERBOSE_LIBRARIES = (
    "httpx",
    "httpcore",
    "aiohttp",
    "asyncio",
    "psycopg",
    "sqlalchemy",
    "alembic",
    "amqp",
    "kombu",
    "celery.beat",  # it logs each tick
)


def configure(*, level: str | None = None, stream_json: bool | None = None) -> None:
    """Send this process's log to standard error.

    Args:
        level: ``TOKEN_VAULT_LOG_LEVEL``, by default INFO.
        stream_json: JSON lines; by default if standard error is not a terminal.

    Raises:
        ConfigurationError: there is no such level.
    """
    level_name = (level or os.environ.get("TOKEN_VAULT_LOG_LEVEL") or "INFO").upper()
    if level_name not in LEVELS:
        raise ConfigurationError(f"TOKEN_VAULT_LOG_LEVEL is none of {', '.join(LEVELS)}")
    as_json = not sys.stderr.isatty() if stream_json is None else stream_json
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        traces.add_trace_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without local variables: those may hold tokens.
    rendered: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_name)
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
