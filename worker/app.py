"""The Celery application.

Run it by ``celery -A worker.app worker -Q interactive`` and so on.

Redis carries messages, and correctness does not depend on them: claims are in Postgres, every task may run twice, and
the next tick makes up for a lost one.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from typing import Any

import structlog
from celery import Celery, Task
from celery.signals import beat_init, setup_logging, task_postrun, task_prerun, worker_init, worker_ready
from celery.worker.consumer.tasks import Tasks
from kombu.entity import Queue
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from structlog.contextvars import bind_contextvars, clear_contextvars

from token_vault.errors import ConfigurationError, VaultError
from worker import broker, embedded, logs, traces
from worker import settings as configuration
from worker.core_dumps import forbid_core_dumps
from worker.redis_address import RedisAddress
from worker.redis_clients import celery_settings, open_client, refuse_cluster
from worker.settings import Settings
from worker.task_messages import CLOCK_SKEW_SECONDS
from worker.vault.crypto.rings import WrongKeys, read_rings

log = structlog.get_logger(__name__)

# A message whose worker died is delivered again after this time. It is longer than any task takes: otherwise work would
# be done twice, though without harm.
VISIBILITY_SECONDS = 3600
# The connection to a Redis that does not answer for this long is replaced: a host that loses power closes no connection,
# and a read from it would never end.
REDIS_TIMEOUT_SECONDS = 5.0
# Beat has a worker check at least this often whether a sync is due; Postgres knows when the last one began. If a worker
# dies in a full scan, the scan goes on after its lease has ended and this time has passed.
MAX_SYNC_CHECK_SECONDS = 5.0

# Between two checks for audit records that were not shipped yet.
AUDIT_SECONDS = 15.0
# Between two runs that digest new refresh tokens. An event that names a younger token than this finds no grant.
DIGEST_SECONDS = 15.0

# By name, so that only a worker imports them, and with them the tasks: that saves beat a quarter of its memory.
WORKER_STEPS = (
    "worker.bootsteps:RefreshRequestStep",
    "worker.bootsteps:ChangedUsersStep",
    "worker.bootsteps:RenewalStep",
    "worker.bootsteps:HeartbeatStep",
    "worker.bootsteps:MonitoringStep",
)
CONSUMING_STEP = "worker.bootsteps:ConsumingStep"
BROKER_KEYS_STEP = "worker.bootsteps:BrokerKeysStep"

# An app's request id is logged only if it looks like this.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

# Celery prefers these to the settings below, but where they are set, they are meant for another application.
_OVERRIDING_VARIABLES = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)


def make_app(settings: Settings) -> Celery:
    """Build the application for these settings."""
    app = Celery("token-vault", set_as_current=True)
    app.steps["worker"].update(WORKER_STEPS)
    app.steps["consumer"].update((CONSUMING_STEP, BROKER_KEYS_STEP))
    if (
        BROKER_KEYS_STEP not in Tasks.requires
    ):  # Celery offers no other way to run a step before one of its own
        Tasks.requires = (*Tasks.requires, BROKER_KEYS_STEP)
    broker.install()
    for name in _OVERRIDING_VARIABLES:
        os.environ.pop(name, None)
    app.conf.update(
        **celery_settings(
            _redis_address(settings),
            visibility_timeout=VISIBILITY_SECONDS,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            health_check_interval=REDIS_TIMEOUT_SECONDS,
        ),
        result_expires=3600,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        timezone="UTC",
        task_queues=[Queue(name) for name in ("interactive", "renew", "sync")],
        task_default_queue="interactive",
        task_routes={
            "worker.refresh_token": {"queue": "interactive"},
            "worker.renew_due": {"queue": "renew"},
            "worker.sync_*": {"queue": "sync"},
            "worker.deliver_events": {"queue": "sync"},
            "worker.keep_audit": {"queue": "sync"},
            "worker.digest_refresh_tokens": {"queue": "sync"},
        },
        # A message is acknowledged when its work is done, so that the message of a killed worker is delivered again.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # The tasks mostly wait for the network, so threads suffice: they share one event loop and one connection pool.
        worker_pool="threads",
        redis_socket_timeout=REDIS_TIMEOUT_SECONDS,
        redis_socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        redis_backend_health_check_interval=REDIS_TIMEOUT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # an outage may outlast any number of retries
        # An error that Redis answers, such as a key of another type or full memory, does not end the worker.
        broker_channel_error_retry=True,
        # With remote control, anybody who may write to Redis could make workers stop consuming. Heartbeats are rows.
        worker_enable_remote_control=False,
        worker_consumer="worker.broker:TaskConsumer",
        worker_redirect_stdouts=False,
        beat_scheduler="worker.beat:LivelyScheduler",
        beat_schedule=_beat_schedule(settings),
    )
    return app


def _beat_schedule(settings: Settings) -> dict[str, Any]:
    """Return which task beat sends how often, in seconds."""
    intervals = {
        "renew": ("worker.renew_due", settings.schedule.renew),
        "sync": (
            "worker.sync_due",
            min(MAX_SYNC_CHECK_SECONDS, settings.schedule.full, settings.schedule.connections),
        ),
        "changes": ("worker.sync_changes", settings.schedule.changes),
        "events": ("worker.deliver_events", settings.schedule.events),
        "audit": ("worker.keep_audit", AUDIT_SECONDS),
    }
    if settings.hooks.events:  # only providers' events need digests
        intervals["digests"] = ("worker.digest_refresh_tokens", DIGEST_SECONDS)
    # A tick that is very late is dropped: the next one looks for the same rows.
    return {
        name: {"task": task, "schedule": seconds, "options": {"expires": seconds + CLOCK_SKEW_SECONDS}}
        for name, (task, seconds) in intervals.items()
    }


def _redis_address(settings: Settings) -> RedisAddress:
    if settings.redis_url is not None:
        return RedisAddress.parse(settings.redis_url)
    found = embedded.find(settings.home)
    if found is None or not found.redis_url:
        raise ConfigurationError(
            "no REDIS_URL is set, and no embedded Redis is running: the workers need one"
        )
    return RedisAddress.parse(found.redis_url)


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    logs.configure()


@task_prerun.connect
def _bind_log_context(task_id: str, task: Task, **_: object) -> None:
    """Add task, request id and trace to log lines.

    An app sends them as headers: ``send_task(…, headers={"request_id": "…", "traceparent": "…"})``.
    """
    clear_contextvars()
    bind_contextvars(task=task.name, task_id=task_id)
    traces.continue_trace(getattr(task.request, "traceparent", None))
    request_id = getattr(task.request, "request_id", None)
    if isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id):
        bind_contextvars(request_id=request_id)


@task_postrun.connect
def _clear_log_context(**_: object) -> None:
    clear_contextvars()


@worker_init.connect
@beat_init.connect
def _forbid_core_dumps(**_: object) -> None:
    forbid_core_dumps()


@worker_init.connect
@beat_init.connect
def _refuse_cluster(**_: object) -> None:
    """End a worker or beat on a Redis Cluster.

    A Redis that does not answer may be back soon, so the process goes on.
    """
    timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), REDIS_TIMEOUT_SECONDS)
    try:
        address = _redis_address(configuration.load())
        with open_client(address, **timeouts, retry=Retry(NoBackoff(), 0)) as client:
            refuse_cluster(client)
    except ConfigurationError as error:
        log.error("redis.refused", error=str(error))  # noqa: TRY400  # the message says it all
        raise SystemExit(2) from None
    except (RedisError, OSError) as error:
        log.warning("redis.not_reached", error=type(error).__name__)


@worker_init.connect
def _refuse_wrong_keys(**_: object) -> None:
    """End a worker with wrong keys at its start.

    Any other problem may pass or be fixed meanwhile: the tasks try again.
    """
    from worker import tasks

    try:
        tasks.process.runtime()
    except WrongKeys as error:
        log.error("keys.refused", error=str(error))  # noqa: TRY400  # the message says it all
        raise SystemExit(2) from None  # Celery goes on after any other exception
    except VaultError as error:
        log.warning("vault.not_opened", error=str(error))


@worker_ready.connect
def _reload_keys_on_hangup(**_: object) -> None:
    """Reload keys on SIGHUP, instead of restarting Celery.

    Files are read and commands run again; tasks under way go on.
    """
    from worker import tasks

    def reload() -> None:
        try:
            tasks.process.reload_keys()
        except VaultError as error:
            log.error("keys.refused", error=str(error))  # noqa: TRY400  # the message says it all

    def on_hangup(*_: object) -> None:
        threading.Thread(target=reload, name="reload keys", daemon=True).start()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, on_hangup)


@beat_init.connect
def _refuse_unsafe_keys(**_: object) -> None:
    """End a beat with unsafe keys at its start.

    Beat needs no keys; but if it shares the workers' environment, the mistake is theirs as well.
    """
    settings = configuration.load()
    if not (settings.access_keys and settings.refresh_keys):
        return
    try:
        read_rings(settings.access_keys, settings.refresh_keys)
    except WrongKeys as error:
        log.error("keys.refused", error=str(error))  # noqa: TRY400
        raise SystemExit(2) from None


@beat_init.connect
def _sync_at_once(**_: object) -> None:
    """Request a sync when beat starts.

    Beat's first tick comes one interval later, and a new vault would stay empty until then.
    """
    app.send_task("worker.sync_due", expires=MAX_SYNC_CHECK_SECONDS + CLOCK_SKEW_SECONDS)


app = make_app(configuration.load())
