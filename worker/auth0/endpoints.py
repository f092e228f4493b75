"""The Management API's endpoints that are called."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from worker.auth0.errors import Auth0NotFound
from worker.auth0.http.responses import Endpoint


@dataclass(frozen=True)
class Endpoints:
    """Each endpoint with its scope and its rate limit.

    Attributes:
        host: the domain that is called.
    """

    host: str

    @property
    def users(self) -> Endpoint:
        """Users by a search."""
        return self._of("GET /api/v2/users", "read:users", "read_users")

    def user(self, user_id: str) -> Endpoint:
        """One user by id."""
        return self._of("GET /api/v2/users/{id}", "read:users", "read_users", f"user {user_id!r}")

    @property
    def connections(self) -> Endpoint:
        """The connections."""
        return self._of("GET /api/v2/connections", "read:connections", "connections")

    def connection(self, connection_id: str) -> Endpoint:
        """One connection by id."""
        subject = f"connection {connection_id!r}"
        return self._of("GET /api/v2/connections/{id}", "read:connections", "connections", subject)

    @property
    def logs(self) -> Endpoint:
        """The tenant log."""
        return self._of("GET /api/v2/logs", "read:logs", "logs")

    @property
    def events(self) -> Endpoint:
        """The event stream."""
        return self._of("GET /api/v2/events", "read:events")

    @property
    def new_export(self) -> Endpoint:
        """A new export job."""
        return self._of("POST /api/v2/jobs/users-exports", "read:users")

    @property
    def export_job(self) -> Endpoint:
        """An export job by id."""
        return self._of("GET /api/v2/jobs/{id}", "read:users", subject="export job")

    @property
    def daily_stats(self) -> Endpoint:
        """Statistics by day."""
        return self._of("GET /api/v2/stats/daily", "read:stats")

    def _of(self, name: str, scope: str, group: str = "other", subject: str = "page") -> Endpoint:
        return Endpoint(name, self.host, subject, scope, group)


def encode_segment(value: str, endpoint: Endpoint) -> str:
    """Encode any id as one path segment.

    Raises:
        Auth0NotFound: this cannot be an id.
    """
    # These would be the path of the list, or leave it.
    if value in ("", ".", ".."):
        raise Auth0NotFound(f"{endpoint.host} has no {endpoint.subject}")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise Auth0NotFound(f"{endpoint.host} has no {endpoint.subject}") from None
