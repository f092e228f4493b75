"""The handle of a running emulation."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from emulators.client.large_tenant import LargeTenantOperations
from emulators.client.operations import Json
from emulators.client.providers import ProviderOperations


class EmulationError(Exception):
    """The emulation did not start, or refused an operation.

    The message says why.
    """


class Emulation(LargeTenantOperations, ProviderOperations):
    """A running emulation.

    Each method raises EmulationError when it makes no sense there.
    """

    def __init__(self, ready: Mapping[str, Any]) -> None:
        self.base_url: str = ready["base_url"]
        self.auth0_domain: str = ready["auth0_domain"]
        self.client_id: str = ready["client_id"]
        self.client_secret: str = ready["client_secret"]
        self.audience: str = ready["audience"]
        self.provider_urls: dict[str, str] = ready["provider_urls"]
        self.http = httpx.Client(base_url=self.base_url, timeout=300, trust_env=False)  # for any path

    @classmethod
    def at(cls, base_url: str) -> Self:
        """Connect to an emulation that runs on this machine."""
        return cls(httpx.get(f"{base_url}/control/endpoints", trust_env=False).raise_for_status().json())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; it runs on."""
        self.http.close()

    def reset(self) -> None:
        """Return to an empty tenant and real time.

        Providers behave as in reality; there are no faults, and nothing is counted.
        """
        self._do("reset")

    def seed_demo(self) -> None:
        """Fill it with the demo's users and connections."""
        self._do("seed_demo")

    def endpoints(self) -> Json:
        """Give the ready line again.

        `token_urls` has the resolved address for each connection.
        """
        return self._object("endpoints")

    def token_url(self, connection: str) -> str:
        """Give the resolved token endpoint of a connection."""
        return str(self.endpoints()["token_urls"][connection])

    def revocation_url(self, connection: str) -> str:
        """Give a connection's revocation endpoint (RFC 7009).

        "" where its provider has none.
        """
        return str(self.endpoints()["revocation_urls"][connection])

    def config_toml(self) -> str:
        """Write the TOML file that leads to the providers.

        It has `token_url` where Auth0's options have none.
        """
        return str(self._do("config_toml"))

    def _do(self, operation: str, **arguments: Any) -> Any:
        answer = self.http.post(f"/control/{operation}", json=arguments)
        if answer.status_code != 200:
            raise EmulationError(answer.json()["error"] if answer.status_code == 400 else answer.text)
        return answer.json()["result"]
