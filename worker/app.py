"""The Celery application: ``celery -A worker.app worker -Q interactive`` and so on.

Redis carries messages and is never what correctness rests on: the guard is in Postgres, every task may run
twice, and a tick that is lost is made good by the next.
"""

from __future__ import annotations

import os

from celery import Celery
from celery.signals import beat_init, setup_logging
from kombu.entity import Queue

from token_vault.errors import ConfigurationError
from worker import embedded, logs, tasks
from worker import settings as configuration
from worker.settings import Settings
from worker.tasks import CLOCK_SKEW_SECONDS

# A message whose worker died is delivered again after this time, in seconds: longer than any task takes, as
# what is delivered twice is work done twice, though without harm.
VISIBILITY = 3600
# A Redis that has not answered for so long, in seconds, is given up and connected to anew: a host that loses power
# says no word, and a connection to it would be listened to for ever.
SILENCE = 5.0
# How often beat asks whether a sync is due, in seconds at the most; Postgres knows when the last one began. A walk
# whose worker was killed, its message with it, stands still until then.
LOOK = 5.0

# Celery would take these for more than what it is told here: they are meant for some other application.
_OVERRULING = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)


def make_app(settings: Settings) -> Celery:
    """Build the application for these settings."""
    app = Celery("token-vault", set_as_current=True)
    broker = _redis_url(settings)
    for name in _OVERRULING:
        os.environ.pop(name, None)
    look = min(LOOK, settings.schedule.full, settings.schedule.connections)
    changes = settings.schedule.changes
    app.conf.update(
        broker_url=broker,
        result_backend=broker,
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
        },
        # A message is acknowledged when its work is done, so that a killed worker's is delivered again.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # The work waits for the network nearly all the time: threads share one event loop and one pool.
        worker_pool="threads",
        broker_transport_options={
            "visibility_timeout": VISIBILITY,
            "socket_timeout": SILENCE,
            "socket_connect_timeout": SILENCE,
            "health_check_interval": SILENCE,
        },
        redis_socket_timeout=SILENCE,
        redis_socket_connect_timeout=SILENCE,
        redis_backend_health_check_interval=SILENCE,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # an outage may outlast any number
        worker_redirect_stdouts=False,
        beat_scheduler="celery.beat:Scheduler",  # keeps nothing on disk: what is due is asked of Postgres
        beat_schedule={
            "renew": {
                "task": "worker.renew_due",
                "schedule": settings.schedule.renew,
                # A tick that is very late is dropped: the next one looks for the same rows.
                "options": {"expires": settings.schedule.renew + CLOCK_SKEW_SECONDS},
            },
            "sync": {
                "task": "worker.sync_due",
                "schedule": look,
                "options": {"expires": look + CLOCK_SKEW_SECONDS},
            },
            "changes": {
                "task": "worker.sync_changes",
                "schedule": changes,
                "options": {"expires": changes + CLOCK_SKEW_SECONDS},
            },
            "events": {
                "task": "worker.deliver_events",
                "schedule": settings.schedule.events,
                "options": {"expires": settings.schedule.events + CLOCK_SKEW_SECONDS},
            },
        },
    )
    return app


def _redis_url(settings: Settings) -> str:
    if settings.redis_url is not None:
        return settings.redis_url.reveal()
    found = embedded.find(settings.home)
    if found is None or not found.redis_url:
        raise ConfigurationError(
            "no REDIS_URL is set, and no embedded Redis is running: the workers need one"
        )
    return found.redis_url.reveal()


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    logs.configure()


@beat_init.connect
def _look_at_once(**_: object) -> None:
    """Beat's first tick comes an interval after its start; a new vault is not left empty for so long."""
    app.send_task("worker.sync_due", expires=LOOK + CLOCK_SKEW_SECONDS)


app = make_app(configuration.load())
__all__ = ["app", "make_app", "tasks"]  # importing the shared tasks is what registers them
