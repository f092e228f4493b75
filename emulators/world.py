"""The emulation's whole state, and its file.

Tenant, providers and clock.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emulators.auth0.applications import Application
from emulators.auth0.events import Events
from emulators.auth0.jobs import Jobs
from emulators.auth0.limits import Limits
from emulators.auth0.log import TenantLog
from emulators.auth0.management import Management
from emulators.auth0.settings import Settings
from emulators.auth0.signing_keys import SigningKeys
from emulators.auth0.streams import Streams
from emulators.auth0.token import ManagementTokens
from emulators.auth0.users import Users
from emulators.call_log import CallLog
from emulators.clock import Clock
from emulators.deliveries import Deliveries
from emulators.faults import Faults
from emulators.idp.behaviour import PROVIDERS
from emulators.idp.endpoints import Providers
from emulators.idp.grants import Issuer
from emulators.idp.tokens import Client

Json = dict[str, Any]


class StateUnreadable(Exception):
    """The state file is not what was once saved there.

    The message names it.
    """


class World:
    """The parts, and each connection's client at its provider."""

    def __init__(
        self,
        base_url: str,
        *,
        client_id: str,
        client_secret: str,
        token_life: float | None = None,
        history: int = 5000,
    ) -> None:
        self.base_url = base_url
        self.token_life = token_life  # of every provider's access tokens; None: as in reality
        self.clock = Clock()
        self.calls = CallLog()
        self.faults = Faults()
        self.settings = Settings()
        self.issuer = Issuer(self.clock, history)
        self.providers = Providers(self.clock, self.issuer, base_url)
        self.tokens = ManagementTokens(
            self.clock, self.settings, base_url, client_id=client_id, client_secret=client_secret
        )
        self.management = Management(self.settings, self.tokens, Users(self.clock, self.settings))
        self.management.limits = Limits(self.clock, self.settings)
        self.deliveries = Deliveries()
        self.streams = Streams(self.deliveries)
        self.log = TenantLog(self.clock, self.settings, base_url, self.streams)
        self.events = Events(self.clock, self.settings, self.streams)
        self.jobs = Jobs(self.clock, self.settings, base_url)
        self.signing_keys = SigningKeys(base_url)
        self.jwks_fetches = 0
        self.applications: dict[str, Application] = {}  # by client id
        self.leads_to: dict[str, tuple[str, str]] = {}  # connection -> provider, client id there
        self.counters: dict[str, int] = {}  # connection -> users made so far by number
        self._saved = ""  # the text last written to the state file
        self.default_behaviours()

    @property
    def users(self) -> Users:
        """The tenant's users."""
        return self.management.users

    @property
    def connections(self) -> dict[str, Json]:
        """The tenant's connections by name."""
        return self.management.connections

    def default_behaviours(self) -> None:
        """Let every provider behave as its documentation says."""
        self.providers.behaviours = dict(PROVIDERS)
        if self.token_life is None:
            return
        for name, behaviour in PROVIDERS.items():
            if behaviour.access_life is not None:
                longer = 3 if behaviour.grant_type == "fb_exchange_token" else 1
                self.providers.behaviours[name] = behaviour.changed(access_life=self.token_life * longer)

    def reset(self) -> None:
        """Empty the tenant and let everything be as at first.

        The clock returns to real time.
        """
        self.clock.set(None)
        self.calls.clear()
        self.faults.clear()
        for name, value in asdict(Settings()).items():
            setattr(self.settings, name, value)
        self.issuer = self.providers.issuer = Issuer(self.clock, self.issuer.history)
        self.management.users = Users(self.clock, self.settings)
        self.management.connections = {}
        self.management.limits = Limits(self.clock, self.settings)
        self.signing_keys = SigningKeys(self.base_url)
        self.jwks_fetches = 0
        self.streams.clear()
        self.deliveries.statuses.clear()
        self.applications.clear()
        self.log.clear()
        self.events.clear()
        self.jobs.clear()
        self.leads_to.clear()
        self.counters.clear()
        self.default_behaviours()

    def save(self, path: Path) -> None:
        """Write the state whole or not at all.

        Its owner alone can read the file. Raises OSError.
        """
        text = json.dumps(self._dump())
        if text == self._saved:
            return
        aside = path.with_name(path.name + ".new")
        aside.unlink(missing_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        aside.replace(path)
        self._saved = text

    def load(self, path: Path) -> None:
        """Read a saved state. Raises StateUnreadable, or OSError."""
        text = path.read_text(encoding="utf-8")
        try:
            # Addresses inside connections' options follow when the port has changed.
            old = json.dumps(json.loads(text)["base_url"])[1:-1]
            self._load(json.loads(text.replace(old, self.base_url)))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as wrong:
            raise StateUnreadable(f"the state file {path} cannot be read ({type(wrong).__name__})") from None

    def _dump(self) -> Json:
        return {
            "base_url": self.base_url,
            "clock": [self.clock.offset, self.clock.frozen],
            "connections": list(self.connections.values()),
            "leads_to": self.leads_to,
            "counters": self.counters,
            "users": list(self.users.ingest_by_id.values()),
            "clients": [asdict(client) for client in self.issuer.clients.values()],
            "grants": self.issuer.dump(),
            "double_spends": self.issuer.double_spends,
        }

    def _load(self, state: Json) -> None:
        self.clock.offset, self.clock.frozen = state["clock"]
        self.connections.update({connection["name"]: connection for connection in state["connections"]})
        self.leads_to.update(
            {name: (provider, client) for name, (provider, client) in state["leads_to"].items()}
        )
        self.counters.update(state["counters"])
        for user in state["users"]:
            self.users.put(user)
        for raw in state["clients"]:
            client = Client(**raw)
            self.issuer.clients[client.provider, client.client_id] = client
        self.issuer.load(state["grants"])
        self.issuer.double_spends = state["double_spends"]
