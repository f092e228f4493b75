"""A database on another host is named with how it is protected."""

from __future__ import annotations

import pytest

from token_vault import TokenVault
from token_vault.errors import ConfigurationError
from token_vault.keyring import KeyRing
from token_vault.postgres_address import PostgresAddress
from token_vault.transport_security import require_tls
from worker.settings import load

UNPROTECTED = [
    "postgresql://u:p@db.example/d",
    "postgresql://u:p@10.0.0.5:5432/d",
    "postgresql://u:p@localhost,db.example/d",
    "host=db.example dbname=d",
    "postgresql:///d?hostaddr=10.0.0.5",
    "postgresql://u:p@localhost.example/d",
    "postgresql://u:p@notlocalhost/d",
]
PROTECTED = [
    "postgresql://u:p@localhost/d",
    "postgresql://u:p@127.0.0.1:5432/d",
    "postgresql://u:p@[::1]/d",
    "postgresql:///d",
    "postgresql://%2Frun%2Fpostgresql/d",
    "postgresql://u:p@db.example/d?sslmode=verify-full",
    "postgresql://u:p@db.example/d?sslmode=disable",
    "service=vault",
]


@pytest.mark.parametrize("url", UNPROTECTED)
def test_another_host_without_a_word_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers, commands and readers name the setting; a word in PGSSLMODE is enough."""
    with pytest.raises(ConfigurationError, match="no sslmode: add \\?sslmode=verify-full"):
        require_tls(PostgresAddress.parse(url))
    with pytest.raises(ConfigurationError, match="no sslmode"):
        TokenVault(url, [KeyRing.generate()])
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match="no sslmode"):
        load()
    monkeypatch.setenv("PGSSLMODE", "disable")
    require_tls(PostgresAddress.parse(url))


@pytest.mark.parametrize("url", PROTECTED)
def test_a_word_or_this_machine_is_enough(url: str) -> None:
    """An address with a word about its protection, or of this machine, is taken."""
    require_tls(PostgresAddress.parse(url))


@pytest.mark.parametrize("variable", ["PGHOST", "PGHOSTADDR"])
def test_a_host_of_libpqs_variables_is_another_host_too(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq prefers PGHOSTADDR to the address's host, and takes PGHOST where it has none."""
    monkeypatch.setenv(variable, "203.0.113.9")
    url = "postgresql://u:p@localhost/d" if variable == "PGHOSTADDR" else "postgresql://u:p@/d"
    with pytest.raises(ConfigurationError, match="names another host and no sslmode"):
        require_tls(PostgresAddress.parse(url))
