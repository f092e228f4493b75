"""The handle by which a test or a benchmark holds a running emulation."""

import hashlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from emulators.control_scale import Json, ScaleControl

ROOT = Path(__file__).resolve().parents[1]
_UNSET: Any = object()


class EmulationError(Exception):
    """The emulation did not start, or refused an operation; the message says why."""


def digest(token: str) -> str:
    """Name a token as the ledger and the call log do: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


class Emulation(ScaleControl):
    """A running emulation. Each method raises EmulationError when it makes no sense there."""

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
        """Take hold of an emulation that runs already, on this machine."""
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

    # The whole

    def reset(self) -> None:
        """Empty tenant, providers as in reality, real time, no faults, nothing counted."""
        self._do("reset")

    def seed_demo(self) -> None:
        """Fill it with the demo's users and connections."""
        self._do("seed_demo")

    def endpoints(self) -> Json:
        """Give the ready line again; `token_urls` has the resolved address for each connection."""
        return self._object("endpoints")

    def token_url(self, connection: str) -> str:
        """Give the resolved token endpoint of a connection."""
        return str(self.endpoints()["token_urls"][connection])

    def revocation_url(self, connection: str) -> str:
        """Give a connection's revocation endpoint (RFC 7009); "" where its provider has none."""
        return str(self.endpoints()["revocation_urls"][connection])

    def config_toml(self) -> str:
        """Write a TOML file for the program under test: `token_url` where Auth0's options have none."""
        return str(self._do("config_toml"))

    # The tenant's content

    def add_connection(
        self,
        name: str,
        strategy: str,
        provider: str | None,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        options: Json | None = None,
        admin: bool | Literal["bare"] = False,
    ) -> Json:
        """Add a connection; `provider` is the name below /idp, None for a database connection.

        `client_id=""` makes one on Auth0's development keys. `admin=True` puts an admin grant into the
        options as `admin_*`; "bare" as `access_token`, `refresh_token`, `expires_in`. Gives it as Auth0
        shows it.
        """
        given = {"client_id": client_id, "client_secret": client_secret, "options": options, "admin": admin}
        return self._object("add_connection", name=name, strategy=strategy, provider=provider, **given)

    def set_connection_options(self, name: str, **options: Any) -> Json:
        """Merge into a connection's options; None removes one. The provider's side stays as it is."""
        return self._object("set_connection_options", name=name, options=options)

    def connection(self, name: str) -> Json:
        """Give a connection as Auth0 shows it."""
        return self._object("connection", name=name)

    def delete_connection(self, name: str) -> None:
        """Delete a connection at Auth0."""
        self._do("delete_connection", name=name)

    def add_users(
        self,
        connection: str,
        n: int,
        *,
        prefix: str | None = None,
        refresh: bool = True,
        expires_in: float | None = _UNSET,
        spacing: float = 0.001,
        at: float | None = None,
    ) -> list[str]:
        """Add `n` users of a connection and give their ids.

        They logged in `spacing` seconds apart, the last one at the epoch second `at` (default: now).
        `expires_in` (seconds) is their first token's life, None for one that does not expire; by default
        it is the provider's. `refresh=False`: they have no refresh token.
        """
        given: Json = {"prefix": prefix, "refresh": refresh, "spacing": spacing, "at": at}
        if expires_in is not _UNSET:
            given["expires_in"] = expires_in
        return list(self._do("add_users", connection=connection, n=n, **given))

    def add_user(self, user_id: str, identities: Sequence[Json], *, at: float | None = None) -> Json:
        """Add one user and give it as Auth0 shows it.

        Each identity names its `connection`, may say `refresh` and `expires_in` as for `add_users`, and must
        say its `user_id` unless it is the first. Any other field is planted as it is; with `access_token`
        among them, the provider issues none.
        """
        return self._object("add_user", user_id=user_id, identities=list(identities), at=at)

    def login(
        self, user_id: str, connection: str | None = None, *, consent: bool = True, log_type: str = "s"
    ) -> Json:
        """Log a user in again, by the first identity or the given connection's.

        New tokens at the provider and in that identity; without consent Google's shows no refresh token.
        The log calls it `log_type`: "s", "ss", or "sens" (native social, without a code exchange).
        Gives `access_token`, `refresh_token`, `expires_in` as shown.
        """
        return self._object(
            "login", user_id=user_id, connection=connection, consent=consent, log_type=log_type
        )

    def link(self, primary_user_id: str, secondary_user_id: str) -> Json:
        """Link two users; the secondary disappears. Gives the primary."""
        return self._object("link", primary_user_id=primary_user_id, secondary_user_id=secondary_user_id)

    def unlink(self, primary_user_id: str, connection: str) -> Json:
        """Take a linked identity out again; gives the user it becomes."""
        return self._object("unlink", primary_user_id=primary_user_id, connection=connection)

    def delete_user(self, user_id: str) -> None:
        """Delete a user at Auth0; the provider's tokens live on."""
        self._do("delete_user", user_id=user_id)

    def user(self, user_id: str) -> Json:
        """Give a user as Auth0 has it now, in full."""
        return self._object("user", user_id=user_id)

    def set_user(self, user_id: str, **fields: Any) -> Json:
        """Plant raw top-level fields (`updated_at`, `identities`, …); None deletes one."""
        given, delete = _split(fields)
        return self._object("set_user", user_id=user_id, fields=given, delete=delete)

    def set_identity(
        self, user_id: str, connection: str, *, touch: bool = True, null: Sequence[str] = (), **fields: Any
    ) -> Json:
        """Plant raw fields of an identity; None deletes one, `null` names those to be null.

        `touch` moves the user's `updated_at`, as Auth0 does on any change.
        """
        given, delete = _split(fields)
        given |= dict.fromkeys(null)
        return self._object(
            "set_identity", user_id=user_id, connection=connection, fields=given, delete=delete, touch=touch
        )

    # The clock: one for expiry, rate limits and timestamps

    def now(self) -> float:
        """Give the emulation's time in epoch seconds."""
        return float(self._do("now"))

    def advance(self, seconds: float) -> float:
        """Move the clock on; gives the new time."""
        return float(self._do("advance", seconds=seconds))

    def set_clock(self, epoch: float | None) -> float:
        """Stop the clock at `epoch`; None lets it run as real time again."""
        return float(self._do("set_clock", epoch=epoch))

    # The tenant's behaviour

    def configure_tenant(self, **settings: Any) -> None:
        """Set any field of `auth0.settings.Settings`, such as `client_grant` or `management_token_life`."""
        self._do("configure_tenant", **settings)

    def set_scopes(self, scopes: Sequence[str]) -> None:
        """Set the client grant's scopes, for management tokens issued from now on."""
        self.configure_tenant(scopes=list(scopes))

    def set_client_public_key(self, pem: str | None) -> None:
        """Let the application authenticate by `private_key_jwt` alone; None: by its secret again."""
        self.configure_tenant(public_key=pem)

    def set_rate_limit(
        self, per_second: float | None, burst: int = 50, retry_after_header: bool = True
    ) -> None:
        """Limit Management API calls, starting with a full burst; None: no limit."""
        given: Json = {"per_second": per_second, "burst": burst, "retry_after_header": retry_after_header}
        self.configure_tenant(**given, plan=None)

    def set_window(self, n: int | None) -> None:
        """Set how many users can be paged to (1,000 at Auth0); None: all."""
        self.configure_tenant(window=n)

    def set_list_tokens(self, shown: bool) -> None:
        """Say whether entries of the user list carry tokens."""
        self.configure_tenant(list_tokens=shown)

    def set_list_lag(self, user_id: str, behind: bool = True) -> None:
        """Let the user list show the copy from before the user's last change, until told otherwise."""
        self._do("set_list_lag", user_id=user_id, behind=behind)

    def invalidate_management_tokens(self) -> None:
        """Let all management tokens issued so far be expired."""
        self._do("invalidate_management_tokens")

    # Faults

    def fail_next(
        self,
        target: str,
        n: int,
        kind: str,
        *,
        retry_after: int | None = None,
        carried_out: bool | None = None,
        extra: Json | None = None,
    ) -> None:
        """Let the next `n` requests to the path `target` or below it go wrong.

        Not carried out: an HTTP status such as "503" (with `retry_after`), "html200", "reset_before".
        "error:<code>[:description]" is the provider's own error, the refresh token unspent; `extra` is merged
        into its body. Carried out: "empty200", "malformed_json", "cut" (half an answer, then a reset), "reset_after",
        "hang" (until `release` or the client leaves), "delay:<seconds>" (real ones), "slow:<seconds>" (of the
        emulation's clock), "override:<JSON object merged over the answer>". `carried_out`
        overrides which it is.
        """
        given = {"retry_after": retry_after, "carried_out": carried_out, "extra": extra}
        self._do("fail_next", target=target, n=n, kind=kind, **given)

    def clear_faults(self) -> None:
        """Forget planted faults that have not happened."""
        self._do("clear_faults")

    def release(self) -> None:
        """Answer the requests that hang."""
        self._do("release")

    # The providers

    def configure_provider(self, name: str, *, like: str | None = None, **behaviour: Any) -> None:
        """Change a provider; the fields are those of `idp.behaviour.Behaviour`.

        With `like`, make (or remake) provider `name` after another first.
        """
        self._do("configure_provider", name=name, like=like, behaviour=behaviour)

    def default_provider(self, name: str) -> None:
        """Let a provider behave as its documentation says again."""
        self._do("default_provider", name=name)

    def revoke(self, user_id: str, connection: str) -> int:
        """Kill a user's grants at the provider; gives how many families."""
        return int(self._do("revoke", user_id=user_id, connection=connection))

    def revoke_admin(self, connection: str) -> int:
        """Kill a connection's admin grants at the provider; gives how many families."""
        return int(self._do("revoke_admin", connection=connection))

    def login_admin(self, connection: str) -> Json:
        """Let an administrator consent again; gives the new fields of the options."""
        return self._object("login_admin", connection=connection)

    def set_client_secret(self, provider: str, client: str, secret: str) -> None:
        """Change a client's secret at the provider; `client` is a connection or a client id."""
        self._do("set_client_secret", provider=provider, client=client, secret=secret)

    # Observation

    def holder(self, access_token: str) -> Json | None:
        """Say who an access token belongs to, or None.

        Gives `provider`, `connection`, `subject`, `admin`, `grant`, `live`, `expires_at`.
        """
        found = self._do("holder", access_token=access_token)
        return None if found is None else dict(found)

    def ledger(self, user_id: str, connection: str) -> list[Json]:
        """List all pairs ever issued for an identity, oldest first, tokens as digests.

        Each has `grant`, `issued_at`, `expires_at`, `access`, `access_live`, `access_revoked`; `refresh`,
        `live`, `spent`, `spent_at`, `revoked`, `presented` (how often) and `presented_at` (times) speak of the
        refresh token beside it; `revocations` (times) of the family, as its client asked for it.
        """
        return list(self._do("ledger", user_id=user_id, connection=connection))

    def admin_ledger(self, connection: str) -> list[Json]:
        """List all pairs ever issued for a connection's admin grant."""
        return list(self._do("admin_ledger", connection=connection))

    def live(self, user_id: str, connection: str) -> dict[str, str | None]:
        """Give the newest live `access_token` and `refresh_token` of an identity, in plain text."""
        return dict(self._do("live", user_id=user_id, connection=connection))

    def admin_live(self, connection: str) -> dict[str, str | None]:
        """Give the newest live tokens of a connection's admin grant, in plain text."""
        return dict(self._do("admin_live", connection=connection))

    def double_spends(self) -> int:
        """Count presentations of refresh tokens that a rotation had already spent, grace or not."""
        return int(self._do("double_spends"))

    def calls(self, prefix: str = "") -> dict[str, int]:
        """Count requests by "METHOD /path/{template}", those whose template starts with `prefix`."""
        return dict(self._do("calls", prefix=prefix))

    def call_log(self, prefix: str = "") -> list[Json]:
        """List the requests below a path, oldest first.

        Each has `time`, `method`, `path`, `template`, `query` (of the Management API alone), `client_id`, `auth`, `grant`, `token` (digest of what
        was presented), `status`, `error`, `fault` and `outcome` (fault, else error, else status).
        """
        return list(self._do("call_log", prefix=prefix))

    def reset_calls(self) -> None:
        """Forget the requests so far."""
        self._do("reset_calls")

    def _do(self, operation: str, **arguments: Any) -> Any:
        answer = self.http.post(f"/control/{operation}", json=arguments)
        if answer.status_code != 200:
            raise EmulationError(answer.json()["error"] if answer.status_code == 400 else answer.text)
        return answer.json()["result"]

    def _object(self, operation: str, **arguments: Any) -> Json:
        return dict(self._do(operation, **arguments))


@contextmanager
def running(
    *,
    port: int = 0,
    demo: bool = False,
    quiet_demo: bool = True,
    token_life: float | None = None,
    state_file: Path | None = None,
    write_config: Path | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
) -> Iterator[Emulation]:
    """Run an emulation in a process of its own. Raises EmulationError when it does not start."""
    command = [sys.executable, "-m", "emulators", "--port", str(port)]
    command += ["--demo"] * demo + ["--quiet-demo"] * quiet_demo
    for option, value in (
        ("--token-life", token_life),
        ("--state-file", state_file and state_file.resolve()),
        ("--write-config", write_config and write_config.resolve()),
    ):
        command += [] if value is None else [option, str(value)]
    named = {"EMULATOR_CLIENT_ID": client_id, "EMULATOR_CLIENT_SECRET": client_secret}
    environment = {**os.environ, **{name: value for name, value in named.items() if value is not None}}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            with Emulation(_ready(process)) as emulation:
                yield emulation
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(process: subprocess.Popen[str], patience: float = 60.0) -> Json:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], patience)
    line = process.stdout.readline() if readable else ""
    if not line:
        raise EmulationError("the emulation did not start; its stderr says why")
    return dict(json.loads(line))


def _split(fields: Json) -> tuple[Json, list[str]]:
    given = {name: value for name, value in fields.items() if value is not None}
    return given, [name for name, value in fields.items() if value is None]
