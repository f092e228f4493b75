"""Auth0's Management API: users with identities, connections, changes.

This room makes calls, waits, retries, and parses answers; it does not decide what to store.
"""

from worker.auth0.client import ManagementClient
from worker.auth0.credentials import Credentials
from worker.auth0.event_stream import StreamedEvent
from worker.auth0.export_job import ExportedUser
from worker.auth0.http.responses import OPTIONAL_SCOPES, SCOPES
from worker.auth0.http.retries import RetryPolicy
from worker.auth0.http.timeouts import Timeouts
from worker.auth0.management_token import ManagementToken, MemoryTokenStore, TokenStore
from worker.auth0.models import Auth0Connection, Auth0Identity, Auth0User, Options, UserPage
from worker.auth0.ratelimit.budget import RateLimitBudget
from worker.auth0.ratelimit.plans import PLANS, Limit, Plan
from worker.auth0.stats import TenantCounts
from worker.auth0.tenant_log import LogEntry, LogPage

__all__ = [
    "OPTIONAL_SCOPES",
    "PLANS",
    "SCOPES",
    "Auth0Connection",
    "Auth0Identity",
    "Auth0User",
    "Credentials",
    "ExportedUser",
    "Limit",
    "LogEntry",
    "LogPage",
    "ManagementClient",
    "ManagementToken",
    "MemoryTokenStore",
    "Options",
    "Plan",
    "RateLimitBudget",
    "RetryPolicy",
    "StreamedEvent",
    "TenantCounts",
    "Timeouts",
    "TokenStore",
    "UserPage",
]
