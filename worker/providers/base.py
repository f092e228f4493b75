"""The base of all providers: declaration, request, answer.

``Provider.request`` builds the token request, and ``Provider.read`` reads the answer.

The generic OAuth 2.0 provider is this class without overrides (RFC 6749 §6). A provider's file imports only from this
module of the project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from math import inf
from typing import Any, Literal
from urllib.parse import urlencode

from token_vault.secret import Secret, SecretDict
from token_vault.token_target import TokenTarget
from worker.providers import answer, token_ends, token_fields
from worker.providers.body import parse
from worker.providers.client_authentication import authenticate
from worker.providers.error_codes import (
    BLAMES,
    COMMON_PHRASE_CODES,
    PHRASES,
    descriptions,
    error_codes,
    normalize,
    reports_failure,
    shown_code,
)
from worker.providers.model import (
    Client,
    ClientAuth,
    ErrorWords,
    RefusalBlame,
    Refused,
    Renewed,
    TokenRequest,
)
from worker.token_pair import TokenPair

__all__ = [
    "Client",
    "ClientAuth",
    "ErrorWords",
    "Provider",
    "RefusalBlame",
    "Secret",
    "TokenRequest",
    "TokenTarget",
    "host_option",
]

SECONDS = timedelta(seconds=1)
# Temporary 4xx: time-out, misdirected, locked, too early, too many requests, 420, which some servers use for the same, and
# Microsoft's 449 "retry with".
NOT_NOW = frozenset({408, 420, 421, 423, 425, 429, 449})
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
# A phrase is not a code that anybody could look up, so for a provider's own phrases the standard's code is reported.
_OWN_PHRASE_CODES = {RefusalBlame.USER: "invalid_grant", RefusalBlame.OPERATOR: "invalid_client"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Provider:
    """How one identity provider renews a token.

    Endpoint:
        name: its name in the configuration.
        strategies: the Auth0 strategies of its connections.
        hosts: of its token endpoint; one that begins with a dot stands for all hosts below it. A custom connection
            (strategy ``oauth2`` or ``oidc``) whose token URL has one of these hosts is treated as this provider's.
        token_url: the token endpoint; None if each connection has its own.
        refresh_url: where tokens are renewed, if not at the token endpoint.

    Request:
        auth: how the client authenticates, if neither Auth0 nor the operator says it.
        method: with GET, the parameters are sent in the query.
        json_body: send the parameters as JSON instead of a form.
        headers: further headers of each request.
        grant_type: of the request.
        sends: the token that is spent: the refresh token, the valid access token, or nothing (client credentials).
        token_parameter: the parameter with that token.
        parameter_names: this provider's names of parameters, by their standard names; an empty one omits a parameter.
        extra: further parameters of each request.
        requires: extra parameters without which the provider answers as if the grant were dead.

    Answer:
        within: objects that may hold the tokens, searched before the answer itself: names, or dotted paths of names.
        access_token, refresh_token: the names of the tokens.
        prolongs: fields with the values by which an answer without a token extends the current access token by
            ``default_life``.
        expires_in: the name of the access token's life; ``expires_unit``: its unit, or ``"absolute"`` for a point in
            time.
        default_life: the access token's life if the answer has no usable one; None leaves it unknown.
        scope_separator: between scopes, besides blanks.
        refresh_end_is_hard: the answer's end of the refresh token is the end of the consent, which renewals do not
            extend.
        keeps: names of values beside the token that an API call needs, handed out as ``token.extra``.
        error_names: the fields that may hold an error code; the first has precedence.
        error_words: the provider's own codes and phrases, or codes with another meaning here.
        phrases: phrases in descriptions that are common to many providers, with their blame.

    Policy:
        rotates: whether a renewal invalidates the refresh token that it spent. True if not known.
        lists_addresses: whether it accepts refresh tokens only from addresses that are listed there.
        keeps_old_refresh: answers contain a new refresh token, but the old one stays valid: this is no rotation.
        grace: seconds for which a spent refresh token still works; 0 for none, None if not known.
        idle_life, absolute_life: how long a refresh token lives if unused, and at most.
        margin: how long before the end to renew, instead of the usual margin. It is an upper bound, as a token's life
            may be shorter.

    Source:
        source: the page; read_on: the day when it was read.
    """

    name: str
    strategies: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    token_url: str | None = None
    refresh_url: str | None = None

    auth: ClientAuth = ClientAuth.POST
    method: Literal["POST", "GET"] = "POST"
    json_body: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    grant_type: str = "refresh_token"
    sends: Literal["refresh_token", "access_token", "nothing"] = "refresh_token"
    token_parameter: str = "refresh_token"  # noqa: S105  # a parameter's name
    parameter_names: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()

    within: tuple[str, ...] = ()
    access_token: str = "access_token"  # noqa: S105  # a field's name, as the next
    refresh_token: str = "refresh_token"  # noqa: S105
    prolongs: Mapping[str, str] = field(default_factory=dict)
    expires_in: str = "expires_in"
    expires_unit: timedelta | Literal["absolute"] = SECONDS
    default_life: timedelta | None = None
    scope_separator: str = " "
    refresh_end_is_hard: bool = False
    keeps: tuple[str, ...] = ()
    error_names: tuple[str, ...] = ("error", "suberror", "error_subtype")
    error_words: ErrorWords = field(default_factory=ErrorWords)
    phrases: tuple[tuple[str, RefusalBlame], ...] = PHRASES

    rotates: bool = True
    lists_addresses: bool = False
    keeps_old_refresh: bool = False
    grace: float | None = None
    idle_life: timedelta | None = None
    absolute_life: timedelta | None = None
    margin: timedelta | None = None

    source: str = ""
    read_on: date | None = None

    @property
    def needs_refresh_token(self) -> bool:
        """Whether a grant without refresh token cannot be renewed."""
        return self.sends == "refresh_token"

    @property
    def forgives_retry(self) -> bool:
        """Whether a token in doubt may always be sent again."""
        return not self.rotates or self.grace == inf

    # From Auth0's connection options, for providers whose endpoint or request depends on them.

    def endpoint(self, options: Mapping[str, Any]) -> str | None:
        """Return the token URL that these options imply, or None.

        Raises:
            ValueError: an option cannot be part of a URL; the message names the option, not its value.
        """
        del options
        return self.token_url

    def parameters(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return extra request parameters from a connection's options."""
        del options
        return {}

    def for_target(self, client: Client, target: TokenTarget) -> Client:
        """Return the client with the parameters for a target.

        Sources: RFC 8707 §2.2 for the resource, RFC 6749 §6 for the scopes.
        """
        wanted = {"resource": target.resource, "scope": self.scope_separator.join(target.scopes)}
        return replace(
            client, extra={**client.extra, **{name: value for name, value in wanted.items() if value}}
        )

    # The request.

    def request(
        self, client: Client, *, access: Secret | None, refresh: Secret | None, now: datetime | None = None
    ) -> TokenRequest:
        """Build the renewal request.

        Args:
            now: with a time zone; needed by a client that signs assertions.

        Raises:
            ValueError: the token to send is missing.
            ConfigurationError: the client lacks the credentials for its authentication.
        """
        # Both hide their contents: authentication may fail, and tracebacks print variables.
        form = SecretDict({**self.extra, **client.extra, **self.grant(access=access, refresh=refresh)})
        headers = SecretDict(self.headers)
        form |= authenticate(client, client.token_url, headers, now)
        form = SecretDict(
            {name: value for given, value in form.items() if (name := self.parameter_names.get(given, given))}
        )
        if self.method == "GET":
            joint = "&" if "?" in client.token_url else "?"
            return TokenRequest("GET", f"{client.token_url}{joint}{urlencode(form)}", headers, None)
        return _post(client.token_url, headers, form, as_json=self.json_body)

    def revocation(
        self, client: Client, url: str, *, token: Secret, kind: str, now: datetime | None = None
    ) -> TokenRequest:
        """Build the request that revokes a grant (RFC 7009 §2.1).

        Args:
            url: the revocation endpoint.
            token: the token to revoke.
            kind: ``refresh_token`` or ``access_token``.
            now: as for ``request``.

        Raises:
            ConfigurationError: as ``request``.
        """
        headers = SecretDict(self.headers)
        form = SecretDict({"token": token.reveal(), "token_type_hint": kind})
        form |= authenticate(client, url, headers, now)
        return _post(url, headers, form, as_json=False)

    def grant(self, *, access: Secret | None, refresh: Secret | None) -> dict[str, str]:
        """Return the parameters that carry the token.

        Raises:
            ValueError: it is missing.
        """
        if self.sends == "nothing":
            return {"grant_type": self.grant_type}
        token = refresh if self.sends == "refresh_token" else access
        if not token:
            how = "renews with a refresh" if self.needs_refresh_token else "exchanges the access"
            raise ValueError(f"{self.name} {how} token, and there is none")
        return {"grant_type": self.grant_type, self.token_parameter: token.reveal()}

    # The answer.

    def read(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        sent_at: datetime,
        spent: Secret | None = None,
    ) -> Renewed | Refused:
        """Read the answer to a token request; never raises.

        Args:
            sent_at: with a time zone; lives are counted from it, as the token cannot have been issued earlier.
            spent: the refresh token that was sent; an answer may repeat it.
        """
        fields = parse(headers, body)
        succeeded = 200 <= status < 300
        # Tokens take precedence over any error beside them: a rotated token must not be lost.
        renewed = self._renewed(fields, sent_at, spent)
        if renewed and (succeeded or self._is_whole_pair(renewed, fields, spent)):
            return renewed
        wait = answer.retry_after(headers, sent_at)
        known = self.verdict(fields)
        if status in NOT_NOW or status >= 500:
            return self._read_not_now(status, known, wait)
        if known:
            code, blame = known
            return Refused(blame, code, wait, spent=blame is RefusalBlame.IN_DOUBT and self.rotates)
        shown = shown_code(fields, spent.reveal() if spent else "")
        if status == 401:
            # By RFC 6749 §5.2, this status is only for a refused client; a gateway's body may have an unknown code.
            return Refused(RefusalBlame.OPERATOR, shown or "http_401", wait)
        if succeeded and not self._says_error(fields):
            code = "no_access_token" if fields else "unreadable_answer" if body.strip() else "empty_answer"
            return Refused(RefusalBlame.IN_DOUBT, code, wait, spent=self.rotates)
        other = "unrecognised_error" if succeeded else f"http_{status}"
        return Refused(RefusalBlame.UNKNOWN, shown or other, wait)

    def verdict(self, fields: Mapping[str, Any]) -> tuple[str, RefusalBlame] | None:
        """Return code and blame of a known error, or None."""
        words = [(word, blame) for blame, words in self.error_words.by_blame() for word in words]
        table = {**BLAMES, **{normalize(word): blame for word, blame in words if " " not in word}}
        codes = [code for name in self.error_names for code in error_codes(fields.get(name))]
        found = [code for code in codes if code in table]
        if not found or table[found[0]] is not RefusalBlame.NOBODY:
            texts = descriptions(fields)
            for word, blame in words:
                if " " in word and any(word.lower() in text for text in texts):
                    return _OWN_PHRASE_CODES.get(blame) or normalize(word)[:64], blame
            for phrase, blame in self.phrases:
                if any(phrase in text for text in texts):
                    return COMMON_PHRASE_CODES[blame], blame
        if not found:
            return None
        blame = table[found[0]]
        # The last code of that blame is the most precise: invalid_rapt is more precise than invalid_grant.
        return next(code for code in reversed(found) if table[code] is blame), blame

    def _read_not_now(
        self, status: int, known: tuple[str, RefusalBlame] | None, wait: float | None
    ) -> Refused:
        """Read an answer with a temporary status.

        Codes about the grant or the client in such an answer are no verdict.

        A server error (5xx) may have come after the refresh token was spent. Only an explicit code shows that the server
        did not begin.
        """
        code = known[0] if known and known[1] is RefusalBlame.NOBODY else f"http_{status}"
        began = status >= 500 and code not in ("temporarily_unavailable", "slow_down")
        if began and not self.forgives_retry:  # recorded, as the grace may be over before the retry
            return Refused(RefusalBlame.IN_DOUBT, code, wait, spent=True)
        return Refused(RefusalBlame.NOBODY, code, wait)

    def _renewed(self, fields: Mapping[str, Any], sent_at: datetime, spent: Secret | None) -> Renewed | None:
        if pair := self._pair(fields, sent_at, spent):
            return Renewed(pair)
        if self.prolongs and all(fields.get(name) == value for name, value in self.prolongs.items()):
            return Renewed(TokenPair(None, expires_at=self._ends(fields, None, sent_at)), prolonged=True)
        return None

    def _is_whole_pair(self, renewed: Renewed, fields: Mapping[str, Any], spent: Secret | None) -> bool:
        """Return whether a pair is new, whatever its status says.

        A refusal may repeat what was sent.
        """
        pair = renewed.pair
        is_new = pair.access is not None and pair.refresh is not None and pair.refresh != spent
        return is_new and not self._says_error(fields)

    def _says_error(self, fields: Mapping[str, Any]) -> bool:
        return any(fields.get(name) for name in self.error_names) or reports_failure(fields)

    def _pair(self, fields: Mapping[str, Any], sent_at: datetime, spent: Secret | None) -> TokenPair | None:
        inner = (answer.at_path(fields, path) for path in self.within)
        found = token_fields.find(
            fields, tuple(part for part in inner if isinstance(part, dict)), spent=spent,
            access_token=self.access_token, refresh_token=self.refresh_token,
        )  # fmt: skip
        if found is None and not self._says_error(fields):
            found = token_fields.find_access_alone(fields)
        if found is None:
            return None
        beside = found.beside
        refresh_end = token_ends.refresh_end(beside, sent_at)
        consent_end = token_ends.consent_end(beside, sent_at)
        return TokenPair(
            access=found.access,
            refresh=found.refresh,
            expires_at=self._ends(beside, found.access, sent_at) if found.access else None,
            refresh_expires_at=refresh_end,
            scopes=answer.scopes(beside.get("scope") or beside.get("scopes"), self.scope_separator),
            consent_expires_at=consent_end or (refresh_end if self.refresh_end_is_hard else None),
            extra=answer.texts(beside, self.keeps),
        )

    def _ends(self, beside: Mapping[str, Any], access: Secret | None, sent_at: datetime) -> datetime | None:
        """Return when the access token ends; None if unreadable."""
        return token_ends.access_end(
            beside, access, sent_at, name=self.expires_in, unit=self.expires_unit, default_life=self.default_life
        )  # fmt: skip


def host_option(options: Mapping[str, Any], *names: str) -> str | None:
    """Return the host name in the first of these options.

    The option may be a host name or a URL. None if no option is set.

    Raises:
        ValueError: the option is not a host name.
    """
    for name in names:
        value = options.get(name)
        if isinstance(value, str) and value.strip():
            host = value.strip().removeprefix("https://").partition("/")[0]
            if not _HOST.fullmatch(host):
                raise ValueError(f"option {name} is not a host name")
            return host
    return None


def _post(url: str, headers: dict[str, str], form: Mapping[str, str], *, as_json: bool) -> TokenRequest:
    if as_json:
        headers["Content-Type"], body = "application/json", json.dumps(form).encode()
    else:
        headers["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(form).encode()
    return TokenRequest("POST", url, headers, body)
