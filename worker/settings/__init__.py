"""Settings from the environment and one TOML file, validated once.

Every secret ``NAME`` can also be given as ``NAME_FILE``, the path of a file that contains it (container secrets).
"""

from __future__ import annotations

from token_vault.home import home_keys, key_file
from worker.settings.api import ApiSettings
from worker.settings.connections import ConnectionSettings, ProviderSettings
from worker.settings.consumers import AuditSettings, ConsumerSettings
from worker.settings.environment import SECRET_NAMES
from worker.settings.file import Deletion, Schedule
from worker.settings.loader import Settings, load
from worker.settings.proxy import ProxySettings
from worker.settings.reconnect import ReconnectSettings
from worker.settings.tenants import TenantSettings
from worker.settings.webhooks import EventKind, EventSettings, WebhookSettings, unknown_event, webhook_key

__all__ = [
    "SECRET_NAMES",
    "ApiSettings",
    "AuditSettings",
    "ConnectionSettings",
    "ConsumerSettings",
    "Deletion",
    "EventKind",
    "EventSettings",
    "ProviderSettings",
    "ProxySettings",
    "ReconnectSettings",
    "Schedule",
    "Settings",
    "TenantSettings",
    "WebhookSettings",
    "home_keys",
    "key_file",
    "load",
    "unknown_event",
    "webhook_key",
]
