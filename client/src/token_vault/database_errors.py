"""Postgres' failures as the vault's errors, without what was sent."""

from __future__ import annotations

import psycopg

from token_vault.errors import AccessDenied, ConfigurationError, TemporarilyUnavailable, VaultError

# Seconds after which asking a database that did not answer is worthwhile.
RETRY_AFTER = 5.0

_NOT_MIGRATED = ("42P01", "42703", "42883", "3F000")
_WRONG_LOGIN = ("28P01", "28000")
_HELD = (
    "Postgres waited in vain for a lock that another connection holds (pg_stat_activity names it): try again when that "
    "one is done"
)


_PASSING = {
    "55P03": _HELD,
    "53400": "as many refresh requests of this Postgres role wait already as may: is a worker on queue `interactive` alive?",
    "25006": "this Postgres is read-only, as a replica is, and takes no refresh request: point DATABASE_URL to the primary",
}


def failure(error: BaseException | None) -> VaultError:
    """Turn the driver's error into one of the vault's.

    Args:
        error: as psycopg raises it; its text is looked at, never passed on.
    """
    code = getattr(error, "sqlstate", None)
    text = str(error) if code is None else ""  # a refused log-in carries no code, only the server's text
    if code in _NOT_MIGRATED:
        return ConfigurationError("the database is not migrated to this version: run `token-vault migrate`")
    if code in _WRONG_LOGIN or "authentication failed" in text or "no pg_hba.conf entry" in text:
        return ConfigurationError("Postgres refuses the user or password in DATABASE_URL")
    if code == "3D000" or ('database "' in text and "does not exist" in text):
        return ConfigurationError("the database named in DATABASE_URL does not exist: create it")
    if code is None and isinstance(error, psycopg.ProgrammingError):
        return not_a_url()  # libpq could not even read it
    if code == "42501":
        return AccessDenied(
            "the Postgres role in DATABASE_URL may not do this: grant it what docs/operating.md lists"
        )
    return TemporarilyUnavailable(
        _PASSING.get(code or "", f"Postgres does not answer ({code or type(error).__name__})"), RETRY_AFTER
    )


def not_a_url() -> ConfigurationError:
    """The error for an address that cannot be parsed.

    Nothing of the address is shown, as it holds a password.
    """
    return ConfigurationError("DATABASE_URL is not a database URL: postgresql://user:password@host/name")
