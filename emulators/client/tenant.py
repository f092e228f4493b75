"""The tenant's content and behaviour, and the emulation's clock."""

from collections.abc import Sequence
from typing import Any, Literal

from emulators.client.operations import AS_PROVIDER, Json, Operations


class TenantOperations(Operations):
    """What a test does to the emulated tenant."""

    # Access tokens for APIs of the operator's own

    def issue_access_token(
        self,
        claims: Json | None = None,
        *,
        algorithm: str = "RS256",
        header: Json | None = None,
        trick: str | None = None,
    ) -> str:
        """Issue a token as an API of the tenant gets it.

        By default it is valid for five minutes. `claims` are merged into its own, None removes one;
        `trick` is "none", "HS256" (with the public key as its secret) or "foreign" (an unknown key).
        """
        given: Json = {"claims": claims or {}, "algorithm": algorithm, "header": header or {}, "trick": trick}
        return str(self._do("issue_access_token", **given))

    def rotate_signing_keys(self, *, withdraw: bool = False) -> None:
        """Sign with new keys; the old ones stay in the key set unless withdrawn."""
        self._do("rotate_signing_keys", withdraw=withdraw)

    def jwks_fetches(self) -> int:
        """Give how often the key set was fetched."""
        return int(self._do("jwks_fetches"))

    # What is pushed to receivers

    def add_stream(self, url: str, authorization: str, *, form: str = "JSONLINES") -> None:
        """Push the log from now on: as JSONLINES, JSONARRAY or JSONOBJECT; or the events, as CLOUDEVENTS."""
        self._do("add_stream", url=url, authorization=authorization, form=form)

    def send_security_event(
        self,
        url: str,
        event: str,
        *,
        audience: str,
        account: str | None = None,
        details: Json | None = None,
        times: int = 1,
    ) -> None:
        """Push a security event token about an account, signed with the keys of the key set.

        `event` is e.g. "risc/event-type/account-disabled"; the same token is sent so many `times`.
        """
        given: Json = {"audience": audience, "account": account, "details": details or {}, "times": times}
        self._do("send_security_event", url=url, event=event, **given)

    def delivered(self) -> list[int]:
        """Give the statuses that receivers have answered, 0 for no answer."""
        return [int(each) for each in self._do("delivered")]

    def add_application(
        self, client_id: str, *, callbacks: Sequence[str], origins: Sequence[str] = ()
    ) -> None:
        """Register a single-page application, through which users sign in at `/authorize`."""
        self._do("add_application", client_id=client_id, callbacks=list(callbacks), origins=list(origins))

    # Connections and users

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
        """Add a connection.

        `provider` is the name below /idp, None for a database connection.
        `client_id=""` makes one on Auth0's development keys. `admin=True` puts an admin grant into the
        options as `admin_*`; "bare" as `access_token`, `refresh_token`, `expires_in`. Gives it as Auth0
        shows it.
        """
        given = {"client_id": client_id, "client_secret": client_secret, "options": options, "admin": admin}
        return self._object("add_connection", name=name, strategy=strategy, provider=provider, **given)

    def set_connection_options(self, name: str, **options: Any) -> Json:
        """Merge into a connection's options; None removes one.

        The provider's side stays as it is.
        """
        return self._object("set_connection_options", name=name, options=options)

    def set_connection(self, name: str, **fields: Any) -> Json:
        """Plant raw top-level fields, such as `authentication` and `connected_accounts`.

        None deletes one.
        """
        given, delete = _split(fields)
        return self._object("set_connection", name=name, fields=given, delete=delete)

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
        expires_in: float | None = AS_PROVIDER,
        spacing: float = 0.001,
        at: float | None = None,
    ) -> list[str]:
        """Add `n` users of a connection and give their ids.

        They logged in `spacing` seconds apart, the last one at the epoch second `at` (default: now).
        `expires_in` (seconds) is their first token's life, None for one that does not expire; by default
        it is the provider's. `refresh=False`: they have no refresh token.
        """
        given: Json = {"prefix": prefix, "refresh": refresh, "spacing": spacing, "at": at}
        if expires_in is not AS_PROVIDER:
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
        """Log a user in again.

        By the first identity, or by that of the given connection.
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
        """Take a linked identity out again.

        Gives the user it becomes.
        """
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
        """Plant raw fields of an identity.

        None deletes one, `null` names those to be null.
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
        """Stop the clock at `epoch`.

        None lets it run as real time again.
        """
        return float(self._do("set_clock", epoch=epoch))

    # Behaviour

    def configure_tenant(self, **settings: Any) -> None:
        """Set any field of `auth0.settings.Settings`, such as `client_grant` or `management_token_life`."""
        self._do("configure_tenant", **settings)

    def set_scopes(self, scopes: Sequence[str]) -> None:
        """Set the client grant's scopes.

        They hold for management tokens issued from now on.
        """
        self.configure_tenant(scopes=list(scopes))

    def set_client_public_key(self, pem: str | None) -> None:
        """Let the application authenticate by `private_key_jwt` alone.

        None: by its secret again.
        """
        self.configure_tenant(public_key=pem)

    def set_rate_limit(
        self, per_second: float | None, burst: int = 50, retry_after_header: bool = True
    ) -> None:
        """Limit Management API calls, starting with a full burst.

        None: no limit.
        """
        given: Json = {"per_second": per_second, "burst": burst, "retry_after_header": retry_after_header}
        self.configure_tenant(**given, plan=None)

    def set_window(self, n: int | None) -> None:
        """Set how many users can be paged to.

        Auth0 has 1,000; None: all.
        """
        self.configure_tenant(window=n)

    def set_list_tokens(self, shown: bool) -> None:
        """Say whether entries of the user list carry tokens."""
        self.configure_tenant(list_tokens=shown)

    def set_list_lag(self, user_id: str, behind: bool = True) -> None:
        """Hold a user back in the user list.

        It shows the copy from before the user's last change, until told otherwise.
        """
        self._do("set_list_lag", user_id=user_id, behind=behind)

    def invalidate_management_tokens(self) -> None:
        """Let all management tokens issued so far be expired."""
        self._do("invalidate_management_tokens")


def _split(fields: Json) -> tuple[Json, list[str]]:
    given = {name: value for name, value in fields.items() if value is not None}
    return given, [name for name, value in fields.items() if value is None]
