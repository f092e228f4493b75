"""The Management API of one Auth0 tenant: users with their identities, and connections.

Nothing here decides what is kept: this room asks, waits, retries, and reads answers into values.
"""

from worker.auth0.answers import OPTIONAL_SCOPES, SCOPES
from worker.auth0.budget import Budget
from worker.auth0.client import ManagementClient
from worker.auth0.counting import Counts
from worker.auth0.credentials import Credentials
from worker.auth0.events import Event
from worker.auth0.export import ExportedUser
from worker.auth0.logs import LogEntry, LogPage
from worker.auth0.management_token import ManagementToken, MemoryTokenStore, TokenStore
from worker.auth0.models import Connection, Identity, Options, User, UserPage
from worker.auth0.pace import Retries
from worker.auth0.plans import PLANS, Limit, Plan
from worker.auth0.transport import Timeouts

__all__ = [
    "OPTIONAL_SCOPES",
    "PLANS",
    "SCOPES",
    "Budget",
    "Connection",
    "Counts",
    "Credentials",
    "Event",
    "ExportedUser",
    "Identity",
    "Limit",
    "LogEntry",
    "LogPage",
    "ManagementClient",
    "ManagementToken",
    "MemoryTokenStore",
    "Options",
    "Plan",
    "Retries",
    "Timeouts",
    "TokenStore",
    "User",
    "UserPage",
]
