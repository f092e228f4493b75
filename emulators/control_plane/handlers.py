"""The control plane's operations, `POST /control/<method>`.

The body has the arguments as JSON.
"""

import inspect
from dataclasses import asdict
from typing import Any

from emulators import demo, logins, wiring
from emulators.auth0.applications import Application
from emulators.control_plane.large_tenant_handlers import LargeTenantHandlers
from emulators.faults import read_fault
from emulators.gate import Gate
from emulators.idp import security_events
from emulators.idp.behaviour import PROVIDERS
from emulators.idp.tokens import ADMIN, Identity
from emulators.world import World

Json = dict[str, Any]


class ControlPlane(LargeTenantHandlers):
    """Each public method is one operation.

    See `client.Emulation` for what they mean.
    """

    def __init__(self, world: World, gate: Gate) -> None:
        super().__init__(world)
        self._gate = gate

    def perform(self, name: str, arguments: Json) -> Any:
        """Carry out one operation.

        Raises ValueError when it or its arguments make no sense.
        """
        method = None if name.startswith("_") or name == "perform" else getattr(self, name, None)
        if method is None:
            raise ValueError(f"there is no operation {name!r}")
        try:
            inspect.signature(method).bind(**arguments)
            return method(**arguments)
        except KeyError as missing:
            raise ValueError(f"{name}: there is no {missing}") from None
        except TypeError as wrong:
            raise ValueError(f"{name}: {wrong}") from None

    # The whole

    def reset(self) -> None:
        self.stop_activity()
        self._gate.release()
        self._world.reset()

    def seed_demo(self) -> None:
        self.reset()
        demo.seed(self._world)

    def issue_access_token(self, claims: Json, algorithm: str, header: Json, trick: str | None) -> str:
        return self._world.signing_keys.issue(claims, algorithm, header, trick)

    def rotate_signing_keys(self, withdraw: bool) -> None:
        self._world.signing_keys.rotate(withdraw=withdraw)

    def add_application(self, client_id: str, callbacks: list[str], origins: list[str]) -> None:
        self._world.applications[client_id] = Application(client_id, callbacks, origins)

    def jwks_fetches(self) -> int:
        return self._world.jwks_fetches

    def endpoints(self) -> Json:
        return wiring.endpoints(self._world)

    def config_toml(self) -> str:
        return wiring.config_toml(self._world)

    # What is pushed to receivers

    def add_stream(self, url: str, authorization: str, form: str) -> None:
        self._world.streams.add(url, authorization, form)

    def send_security_event(
        self, url: str, event: str, audience: str, account: str | None, details: Json, times: int
    ) -> None:
        issuer = f"{self._world.base_url}/"
        given = security_events.claims(issuer, audience, event, account, details)
        token = security_events.sign(self._world.signing_keys, given).encode()
        for _ in range(times):
            self._world.deliveries.post(url, token, Content_Type="application/secevent+jwt")

    def delivered(self) -> list[int]:
        return list(self._world.deliveries.statuses)

    # The tenant's content

    def add_connection(self, **fields: Any) -> Json:
        return wiring.add_connection(self._world, **fields)

    def set_connection_options(self, name: str, options: Json) -> Json:
        connection = self._world.connections[name]
        merged = {k: v for k, v in {**connection.get("options", {}), **options}.items() if v is not None}
        self._world.connections[name] = {**connection, "options": merged}
        return self._world.connections[name]

    def set_connection(self, name: str, fields: Json, delete: list[str]) -> Json:
        shown = {**self._world.connections[name], **fields}
        self._world.connections[name] = {k: v for k, v in shown.items() if k not in delete}
        return self._world.connections[name]

    def delete_connection(self, name: str) -> None:
        del self._world.connections[name]

    def connection(self, name: str) -> Json:
        return self._world.connections[name]

    def add_users(self, **fields: Any) -> list[str]:
        return logins.add_users(self._world, **fields)

    def add_user(self, user_id: str, identities: list[Json], at: float | None = None) -> Json:
        return logins.add_user(self._world, user_id, identities, at=at)

    def login(
        self, user_id: str, connection: str | None = None, consent: bool = True, log_type: str = "s"
    ) -> Json:
        return logins.login(self._world, user_id, connection, consent=consent, log_type=log_type)

    def link(self, primary_user_id: str, secondary_user_id: str) -> Json:
        return logins.link(self._world, primary_user_id, secondary_user_id)

    def unlink(self, primary_user_id: str, connection: str) -> Json:
        return logins.unlink(self._world, primary_user_id, connection)

    def delete_user(self, user_id: str) -> None:
        logins.delete(self._world, user_id)

    def user(self, user_id: str) -> Json:
        return self._world.users.ingest_by_id[user_id]

    def set_user(self, user_id: str, fields: Json, delete: list[str]) -> Json:
        return logins.set_user(self._world, user_id, fields, delete)

    def set_identity(
        self, user_id: str, connection: str, fields: Json, delete: list[str], touch: bool
    ) -> Json:
        return logins.set_identity(self._world, user_id, connection, fields, delete, touch=touch)

    # The clock

    def now(self) -> float:
        return self._world.clock.now()

    def advance(self, seconds: float) -> float:
        return self._world.clock.advance(seconds)

    def set_clock(self, epoch: float | None) -> float:
        return self._world.clock.set(epoch)

    # The tenant's behaviour

    def configure_tenant(self, **fields: Any) -> None:
        unknown = set(fields) - set(asdict(self._world.settings))
        if unknown:
            raise ValueError(f"the tenant has no setting {', '.join(sorted(unknown))}")
        for name, value in fields.items():
            setattr(self._world.settings, name, value)
        if {"per_second", "burst", "plan"} & set(fields):
            self._world.management.limits.fill()

    def set_list_lag(self, user_id: str, behind: bool) -> None:
        self._world.users.lag(user_id, behind)

    def invalidate_management_tokens(self) -> None:
        self._world.tokens.invalidate()

    # Faults

    def fail_next(
        self,
        target: str,
        n: int,
        kind: str,
        retry_after: int | None = None,
        carried_out: bool | None = None,
        extra: Json | None = None,
    ) -> None:
        fault = read_fault(kind, retry_after=retry_after, carried_out=carried_out, extra=extra)
        self._world.faults.plant(target, n, fault)

    def clear_faults(self) -> None:
        self._world.faults.clear()

    def release(self) -> None:
        self._gate.release()

    # The providers

    def configure_provider(self, name: str, behaviour: Json, like: str | None = None) -> None:
        behaviours = self._world.providers.behaviours
        behaviours[name] = behaviours[like or name].changed(**behaviour)

    def default_provider(self, name: str) -> None:
        self._world.providers.behaviours[name] = PROVIDERS[name]

    def revoke(self, user_id: str, connection: str) -> int:
        return self._revoke(logins.identity_key(self._world, user_id, connection))

    def revoke_admin(self, connection: str) -> int:
        return self._revoke((connection, ADMIN))

    def login_admin(self, connection: str) -> Json:
        return wiring.grant_admin(self._world, connection)

    def set_client_secret(self, provider: str, client: str, secret: str) -> None:
        client_id = self._world.leads_to.get(client, (provider, client))[1]
        self._world.issuer.clients[provider, client_id].secret = secret

    def _revoke(self, identity: Identity) -> int:
        grants = self._world.issuer.grants(identity)
        for grant in grants:
            grant.revoke()
        return len(grants)

    # Observation

    def holder(self, access_token: str) -> Json | None:
        found = self._world.issuer.find_access(access_token)
        if found is None:
            return None
        grant, token = found
        connection, subject = grant.identity
        return {
            "provider": grant.provider,
            "connection": connection,
            "subject": None if subject == ADMIN else subject,
            "admin": subject == ADMIN,
            "grant": grant.id,
            "live": token.live(self._world.clock.now()),
            "expires_at": token.expires_at,
        }

    def ledger(self, user_id: str, connection: str) -> list[Json]:
        return self._world.issuer.ledger(logins.identity_key(self._world, user_id, connection))

    def admin_ledger(self, connection: str) -> list[Json]:
        return self._world.issuer.ledger((connection, ADMIN))

    def live(self, user_id: str, connection: str) -> Json:
        return self._world.issuer.live(logins.identity_key(self._world, user_id, connection))

    def admin_live(self, connection: str) -> Json:
        return self._world.issuer.live((connection, ADMIN))

    def double_spends(self) -> int:
        return self._world.issuer.double_spends

    def calls(self, prefix: str = "") -> dict[str, int]:
        return self._world.calls.calls(prefix)

    def call_log(self, prefix: str = "") -> list[Json]:
        return self._world.calls.log(prefix)

    def reset_calls(self) -> None:
        self._world.calls.clear()
        self._world.management.limits.forget()
