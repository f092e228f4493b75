"""What a test can set about the tenant, and its rate limit."""

import math
from dataclasses import dataclass, field

from tests.emulators.clock import Clock

SCOPES = ["read:users", "read:user_idp_tokens", "read:connections", "read:connections_options"]


@dataclass(slots=True)
class Settings:
    """The tenant's configuration."""

    scopes: list[str] = field(default_factory=lambda: list(SCOPES))  # of the client grant, taken at issue
    client_grant: bool = True  # the application may call the Management API
    client_credentials: bool = True  # the application has that grant type
    public_key: str | None = None  # PEM: the application authenticates by private_key_jwt
    management_token_life: float = 86_400.0  # seconds
    window: int | None = 1000  # users that can be paged to
    list_tokens: bool = True  # list entries carry the identities' tokens
    per_second: float | None = None  # management calls; None: no limit
    burst: int = 50
    retry_after_header: bool = True


class Bucket:
    """The tenant's call budget: a token bucket that refills by the clock."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self._settings = settings
        self.fill()

    def fill(self) -> None:
        """Start with a full bucket."""
        self._left, self._at = float(self._settings.burst), self._clock.now()

    def take(self) -> tuple[bool, dict[str, str]]:
        """Spend one call. Gives whether it is allowed, and the headers that say what is left."""
        rate, burst, now = self._settings.per_second, self._settings.burst, self._clock.now()
        if rate is None:
            left, ahead, allowed = burst - 1.0, 1.0, True
        else:
            self._left = min(float(burst), self._left + max(0.0, now - self._at) * rate)
            allowed = self._left >= 1
            self._left -= allowed
            left, ahead = self._left, (math.floor(self._left) + 1 - self._left) / rate
        self._at = now
        headers = {
            "x-ratelimit-limit": str(burst),
            "x-ratelimit-remaining": str(math.floor(left)),
            "x-ratelimit-reset": str(math.ceil(now + ahead)),
        }
        if not allowed and self._settings.retry_after_header:
            headers["retry-after"] = str(max(1, math.ceil(ahead)))
        return allowed, headers
