"""The emulated providers, planted faults, and what both have seen."""

from collections.abc import Iterator
from typing import Any

from emulators.client.operations import Json, Operations


class ProviderOperations(Operations):
    """Operations on the emulated providers."""

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
        """Let the next `n` requests below `target` go wrong.

        `target` is a path; itself is meant as well.
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
        """Kill a user's grants at the provider.

        Gives how many families.
        """
        return int(self._do("revoke", user_id=user_id, connection=connection))

    def revoke_admin(self, connection: str) -> int:
        """Kill a connection's admin grants at the provider.

        Gives how many families.
        """
        return int(self._do("revoke_admin", connection=connection))

    def login_admin(self, connection: str) -> Json:
        """Let an administrator consent again.

        Gives the new fields of the options.
        """
        return self._object("login_admin", connection=connection)

    def set_client_secret(self, provider: str, client: str, secret: str) -> None:
        """Change a client's secret at the provider.

        `client` is a connection or a client id.
        """
        self._do("set_client_secret", provider=provider, client=client, secret=secret)

    # Observation

    def holder(self, access_token: str) -> Json | None:
        """Say who an access token belongs to, or None.

        Gives `provider`, `connection`, `subject`, `admin`, `grant`, `live`, `expires_at`.
        """
        found = self._do("holder", access_token=access_token)
        return None if found is None else dict(found)

    def ledger(self, user_id: str, connection: str) -> list[Json]:
        """List an identity's pairs, oldest first, as digests.

        Each has `grant`, `issued_at`, `expires_at`, `access`, `access_live`, `access_revoked`; `refresh`,
        `live`, `spent`, `spent_at`, `revoked`, `presented` (how often) and `presented_at` (times) speak of the
        refresh token beside it; `revocations` (times) of the family, as its client asked for it.
        """
        return list(self._do("ledger", user_id=user_id, connection=connection))

    def admin_ledger(self, connection: str) -> list[Json]:
        """List all pairs ever issued for a connection's admin grant."""
        return list(self._do("admin_ledger", connection=connection))

    def live(self, user_id: str, connection: str) -> dict[str, str | None]:
        """Give an identity's newest live tokens in plain text.

        These are `access_token` and `refresh_token`.
        """
        return dict(self._do("live", user_id=user_id, connection=connection))

    def admin_live(self, connection: str) -> dict[str, str | None]:
        """Give an admin grant's newest live tokens in plain text."""
        return dict(self._do("admin_live", connection=connection))

    def double_spends(self) -> int:
        """Count presentations of spent refresh tokens, grace or not."""
        return int(self._do("double_spends"))

    def calls(self, prefix: str = "") -> dict[str, int]:
        """Count requests by "METHOD /path/{template}".

        Only those whose template starts with `prefix`.
        """
        return dict(self._do("calls", prefix=prefix))

    def call_log(self, prefix: str = "") -> list[Json]:
        """List the requests below a path, oldest first.

        Each has `time`, `method`, `path`, `template`, `query` (of the Management API alone), `client_id`, `auth`, `grant`, `token` (digest of what
        was presented), `status`, `error`, `fault` and `outcome` (fault, else error, else status); `arrived` and
        `left` are real times, the latter None while it is under way.
        """
        return list(self._do("call_log", prefix=prefix))

    def reset_calls(self) -> None:
        """Forget the requests so far."""
        self._do("reset_calls")

    def families(self, page: int = 1000) -> Iterator[Json]:
        """Walk through all token families ever begun, oldest first.

        Each has `grant`, `provider`, `connection`, `subject` (the provider's user id, "*admin" for an admin
        grant), `live_refresh` and `live_access` (digests, oldest first), `revocations` (times), and
        `refresh`: `digest`, `issued_at`, `presented_at` (times), `spent_at`, `revoked` of each refresh token.
        """
        after: int | None = 0
        while after is not None:
            found = self._object("families", after=after, count=page)
            yield from found["families"]
            after = found["next"]
