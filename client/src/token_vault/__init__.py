"""Fresh OAuth tokens from a token vault in Postgres."""

__version__ = "0.1.0"
