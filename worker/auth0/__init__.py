"""The Management API of one Auth0 tenant: users with their identities, and connections.

Nothing here decides what is kept: this room asks, waits, retries, and reads answers into values.
"""

from worker.auth0.answers import SCOPES
from worker.auth0.budget import Budget
from worker.auth0.client import ManagementClient
from worker.auth0.credentials import Credentials
from worker.auth0.management_token import ManagementToken, MemoryTokenStore, TokenStore
from worker.auth0.models import Connection, Identity, Options, User, UserPage
from worker.auth0.pace import Retries
from worker.auth0.plans import PLANS, Limit, Plan
from worker.auth0.transport import Timeouts

__all__ = [
    "PLANS",
    "SCOPES",
    "Budget",
    "Connection",
    "Credentials",
    "Identity",
    "Limit",
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
