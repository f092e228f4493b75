"""What a test can set about the tenant."""

from dataclasses import dataclass, field

from emulators.auth0.signing_keys import AUDIENCE

API_SCOPES = ["read:idp_tokens", "refresh:idp_tokens", "proxy:idp"]
SCOPES = ["read:users", "read:user_idp_tokens", "read:connections", "read:connections_options"]
DAY = 86_400.0


@dataclass(slots=True)
class Settings:
    """The tenant's configuration. Times are seconds on the emulation's clock."""

    scopes: list[str] = field(default_factory=lambda: list(SCOPES))  # of the client grant, taken at issue
    client_grant: bool = True  # the application may call the Management API
    client_credentials: bool = True  # the application has that grant type
    public_key: str | None = None  # PEM: the application authenticates by private_key_jwt
    management_token_life: float = DAY
    window: int | None = 1000  # users that can be paged to
    list_tokens: bool = True  # list entries carry the identities' tokens
    search_lag: float = 0.0  # until a change of a user shows in the search

    per_second: float | None = None  # management calls; None: no limit
    burst: int = 50
    plan: str | None = None  # one of limits.PLANS, instead of the two above
    background: float = 0.0  # calls a second of the operator's other programs, in each bucket
    retry_after_header: bool = True

    log_delay: float = 0.0  # until an entry shows
    log_retention: float = 30 * DAY
    log_gone: str = "oldest"  # a `from` older than that: go on from the "oldest" entry kept, or "400"

    login_events: bool = False  # a plain login emits user.updated
    event_retention: float = DAY  # an offset older than that is gone (410)
    event_recycle: float = 300.0  # until an open stream is closed
    event_keepalive: float = 15.0  # between signs of life on a quiet stream
    event_duplicates: float = 0.0  # the share of events that come twice
    event_disorder: float = 0.0  # the share of events that come before their predecessor

    export_time: float = 10.0  # of a users export, half of it pending
    export_fails: bool = False
    apis: dict[str, list[str]] = field(
        default_factory=lambda: {AUDIENCE: list(API_SCOPES)}
    )  # audience to scopes

    export_encoding: str = "file"  # a gzip "file", or gzip as the "header" Content-Encoding says
