"""Each way of writing Postgres' address has one meaning, and a mistake is named without the password."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_vault import TokenVault
from token_vault.errors import ConfigurationError
from token_vault.keyring import KeyRing
from token_vault.postgres_address import PostgresAddress
from token_vault.secret import Secret
from worker.settings import load
from worker.vault.db.engine import create_vault_engine

PASSWORD = "canary/pass"

FORMS: dict[str, dict[str, Any]] = {
    "postgresql://u:canary%2Fpass@localhost:5433/d": {"host": "localhost", "port": "5433", "dbname": "d"},
    "postgres://u:canary%2Fpass@localhost/d": {"host": "localhost", "dbname": "d"},
    "postgresql+psycopg://u:canary%2Fpass@localhost/d": {"host": "localhost"},
    "postgresql+asyncpg://u:canary%2Fpass@localhost/d?ssl=verify-full": {"sslmode": "verify-full"},
    "postgresql+psycopg2://u:canary%2Fpass@/d?host=localhost:1&host=127.0.0.1:2": {
        "host": "localhost,127.0.0.1",
        "port": "1,2",
    },
    "postgresql://u:canary%2Fpass@localhost:1,[::1]:2/d?target_session_attrs=read-write": {
        "host": "localhost,::1",
        "port": "1,2",
        "target_session_attrs": "read-write",
    },
    "host=localhost port=5433 dbname=d user=u password=canary/pass": {"port": "5433"},
    "host = '/run/a b' dbname = d user=u password = 'canary/pass'": {"host": "/run/a b"},
    "postgresql://u:canary%2Fpass@%2Frun%2Fpostgresql/d": {"host": "/run/postgresql"},
    "postgresql:///d?host=/run/postgresql&user=u&password=canary%2Fpass": {"host": "/run/postgresql"},
    "postgresql://localhost/d?user=u&password=canary%2Fpass&options=-csearch_path%3Dvault": {
        "options": "-csearch_path=vault"
    },
    "postgresql:///d?service=vault&passfile=/run/secrets/pgpass&user=u&password=canary%2Fpass": {
        "service": "vault",
        "passfile": "/run/secrets/pgpass",
    },
    "postgresql://u:canary%2Fpass@db.example/d?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem": {
        "sslmode": "verify-full",
        "sslrootcert": "/ca.pem",
        "sslcert": "/c.pem",
        "sslkey": "/k.pem",
    },
    "postgresql+psycopg://u:canary%2Fpass@localhost/d?options=-c search_path=a": {
        "options": "-c search_path=a"
    },
    "  postgresql://u:canary%2Fpass@localhost/d\n": {"dbname": "d"},
}

MISTAKES = {
    "": "is empty",
    "postgresql://u:canary@pass@localhost/d": "percent-encode",
    "postgresql://u:canary/pass@localhost/d": "percent-encode",
    "postgresql://u:1/canary@localhost/d": "percent-encode",
    "postgresql://u:canary?pass@localhost/d": "percent-encode",
    "postgresql://u:canary?a=b&pass=c@localhost/d": "percent-encode",
    "postgresql://u:canary%pass@localhost/d": "percent-encode",
    "postgresql://u:canary\tpass@localhost/d": "percent-encode",
    "postgresql://u:canary@localhost:canary/d": "port that is no number from 1 to 65535",
    "postgresql://u:canary@localhost:65536/d": "port that is no number from 1 to 65535",
    "postgresql://u:canary@localhost:70000/d": "port that is no number from 1 to 65535",
    "postgresql://u:canary@localhost/d?port=x": "port that is no number from 1 to 65535",
    "postgresql://u:canary@::1/d": "without brackets",
    "mysql://u:canary@localhost/d": "names mysql: the vault needs postgresql://",
    "jdbc:postgresql://localhost/d?password=canary": "names jdbc:postgresql",
    '"postgresql://u:canary@localhost/d"': "is in quotes",
    "canary": "is not a database URL",
    "u:canary@localhost/d": "is not a database URL",
    "host=localhost dbnme=d password=canary": "is `dbname` meant",
    "host=localhost password=canary pass": "cannot be read",
    "postgresql://u:canary@localhost/d?schema=public": "`schema`: remove it",
    "postgresql://u:canary@localhost/d?ssl_mode=require": "is `sslmode` meant",
    "postgresql://u:canary@localhost/d?sslmode=canary": "unknown value of sslmode: it is one of disable",
    "postgresql://u:canary@localhost/d?target_session_attrs=rw": "unknown value of target_session_attrs",
}


@pytest.mark.parametrize("text", FORMS)
def test_each_form_is_read(text: str) -> None:
    """URIs, keywords, SQLAlchemy's and Heroku's prefixes say the same to each part."""
    address = PostgresAddress.parse(text)
    assert address.parameters["user"] == "u"
    assert address.parameters["password"] == PASSWORD
    assert FORMS[text].items() <= address.parameters.items()
    assert "canary" not in repr(address)


@pytest.mark.parametrize("text", FORMS)
def test_each_part_takes_each_form(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers, settings and engines take what the parser takes."""
    TokenVault(text, [KeyRing.generate()]).close()
    create_vault_engine(Secret(text), connections=1)
    monkeypatch.setenv("DATABASE_URL", text)
    assert load().database_url == Secret(text.strip())


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_named_without_the_password(text: str) -> None:
    """The message has the variable, what is wrong and the fix."""
    with pytest.raises(ConfigurationError, match=MISTAKES[text]) as caught:
        PostgresAddress.parse(text, "DATABASE_DIRECT_URL")
    assert str(caught.value).startswith("DATABASE_DIRECT_URL ")
    assert "canary" not in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_servers_are_named_without_the_password() -> None:
    """Messages name each host with its port."""
    assert PostgresAddress.parse("postgresql://u:p@a:1,b/d").servers == ("a:1", "b:5432")
    assert PostgresAddress.parse("postgresql://u:p@a:1,b/d").database == "d"
    assert PostgresAddress.parse("host=/run/postgresql").servers == ("/run/postgresql:5432",)


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    """Whatever stands in the variable, the answer is an address or a message."""
    for written in (text, f"postgresql://{text}", f"postgresql://u:{text}@localhost/d"):
        with suppress(ConfigurationError):
            PostgresAddress.parse(written)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_an_odd_password_works_or_is_explained(password: str) -> None:
    """A raw password is either taken as it was meant, or the message says how to write it."""
    address, said = None, ""
    try:
        address = PostgresAddress.parse(f"postgresql://u:{password}@localhost/d")
    except ConfigurationError as error:
        said = str(error)
    if address is None:
        assert "percent-encode" in said or "%2F" in said
    else:
        assert address.host_names == ("localhost",)
        if "%" not in password:  # followed by two hexadecimal digits it is an encoded character
            assert address.parameters["password"] == password
