"""One scripted provider on a real port, its clock standing still."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from emulators.clock import Clock
from emulators.scripted import ScriptedProvider, ScriptedServer, serving

NOW = 1_780_000_000.0
CLIENT = ("app@acme", "s+e/c=r:e~t%")
Present = Callable[..., httpx.Response]


@pytest.fixture
def provider() -> ScriptedProvider:
    """A provider with one client and the grant "ada"."""
    clock = Clock()
    clock.set(NOW)
    made = ScriptedProvider("acme", clock=clock, seed=7)
    made.add_client(*CLIENT)
    made.add_grant("ada", CLIENT[0])
    return made


@pytest.fixture
def server(provider: ScriptedProvider) -> Iterator[ScriptedServer]:
    """The provider's server."""
    with serving(provider) as started:
        yield started


@pytest.fixture
def present(server: ScriptedServer) -> Iterator[Present]:
    """Present a refresh token over HTTP."""
    with httpx.Client(trust_env=False) as http:

        def send(token: str, client: tuple[str, str] = CLIENT, timeout: float = 5.0) -> httpx.Response:
            fields = {"grant_type": "refresh_token", "refresh_token": token}
            fields |= {"client_id": client[0], "client_secret": client[1]}
            return http.post(server.token_url("acme"), data=fields, timeout=timeout)

        yield send
