"""Applications of the operator's own, through which users sign in."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Application:
    """A single-page application.

    Attributes:
        callbacks: the allowed callback URLs.
        origins: the allowed web origins, whose pages may call the token endpoint.
    """

    client_id: str
    callbacks: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
