"""Each way of writing Redis' address has one meaning, and a mistake is named without the password."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_vault.errors import ConfigurationError
from worker.redis_address import RedisAddress
from worker.redis_clients import celery_settings
from worker.settings import load

FORMS: dict[str, dict[str, Any]] = {
    "redis://u:canary%2Fpass@localhost:7000/2": {"servers": (("localhost", 7000),), "database": 2},
    "redis://u:canary%2Fpass@localhost/2/": {"servers": (("localhost", 6379),), "database": 2},
    "redis://u:canary%2Fpass@[::1]:7000?db=2": {"servers": (("::1", 7000),), "database": 2},
    "redis://localhost?username=u&password=canary%2Fpass&db=2": {"servers": (("localhost", 6379),)},
    "valkey://u:canary%2Fpass@localhost/2": {"tls": {}},
    "rediss://u:canary%2Fpass@localhost/2": {
        "tls": {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    },
    "rediss://u:canary%2Fpass@localhost/2?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca.pem": {
        "tls": {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": "/ca.pem"}
    },
    "rediss://u:canary%2Fpass@localhost/2?ssl_cert_reqs=none": {
        "tls": {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    },
    "rediss://u:canary%2Fpass@localhost/2?ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_check_hostname=false": {
        "tls": {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": False,
            "ssl_certfile": "/c.pem",
            "ssl_keyfile": "/k.pem",
        }
    },
    "unix://u:canary%2Fpass@/run/redis.sock?db=2": {"path": "/run/redis.sock", "servers": ()},
    "redis+socket://u:canary%2Fpass@/run/redis.sock?virtual_host=2": {"path": "/run/redis.sock"},
    "sentinel://u:canary%2Fpass@a:1/2;sentinel://u:canary%2Fpass@b/2?master_name=m": {
        "servers": (("a", 1), ("b", 26379)),
        "master": "m",
    },
    "redis+sentinel://u:canary%2Fpass@a:1,b/m/2?sentinel_password=x": {
        "servers": (("a", 1), ("b", 26379)),
        "master": "m",
        "sentinel_login": {"password": "x"},
    },
    "rediss+sentinel://u:canary%2Fpass@a/2?service_name=m": {
        "master": "m",
        "tls": {"ssl_cert_reqs": "required", "ssl_check_hostname": True},
    },
}

MISTAKES = {
    "": "is empty or in quotes",
    "'redis://:canary@localhost'": "in quotes",
    "canary": "begins with none of redis://",
    "canary:6379": "begins with none of redis://",
    "http://:canary@localhost": "begins with none of redis://",
    "redis://:canary@pass@localhost": "percent-encode",
    "redis://:canary/pass@localhost": "percent-encode",
    "redis://:canary?pass@localhost": "percent-encode",
    "redis://:canary%pass@localhost": "percent-encode",
    "redis://localhost:canary/0": "port that is no number",
    "redis://::1": "without brackets",
    "redis://localhost/canary": "a database that is no number",
    "redis://:canary@a,b": "Redis Cluster cannot carry Celery's queues",
    "redis+cluster://:canary@a": "Redis Cluster cannot carry Celery's queues",
    "sentinel://:canary@a": "add .master_name=",
    "rediss://localhost?ssl_cert_reqs=canary": "unknown value of ssl_cert_reqs: it is one of none, optional, required",
    "rediss://localhost?ssl_check_hostname=canary": "unknown value of ssl_check_hostname",
    "redis://localhost?ssl_ca_certs=/canary": "write rediss://",
    "redis://:canary@localhost?passwort=x": "unknown parameter passwort",
    "unix://localhost/canary": "names no socket",
}


@pytest.mark.parametrize("text", FORMS)
def test_each_form_is_read(text: str) -> None:
    """redis-py's, Celery's and Sentinel's ways of writing say the same to each part."""
    address = RedisAddress.parse(text)
    assert address.login == {"username": "u", "password": "canary/pass"}
    assert address.database == 2
    for name, value in FORMS[text].items():
        assert getattr(address, name) == value
    assert "canary" not in repr(address)


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_named_without_the_password(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the variable, what is wrong and the fix, and so has that of the settings."""
    with pytest.raises(ConfigurationError, match=MISTAKES[text]) as caught:
        RedisAddress.parse(text)
    assert str(caught.value).startswith("REDIS_URL is not an address of Redis")
    assert "canary" not in str(caught.value)
    if text:
        monkeypatch.setenv("REDIS_URL", text)
        with pytest.raises(ConfigurationError, match=MISTAKES[text]):
            load()


@pytest.mark.parametrize("text", FORMS)
def test_celery_gets_what_the_address_says(text: str) -> None:
    """Celery's URL has neither TLS nor time-outs in it: these are settings of their own."""
    settings = celery_settings(RedisAddress.parse(text), socket_timeout=5)
    assert settings["broker_url"] == settings["result_backend"]
    assert "u:canary%2Fpass@" in settings["broker_url"]
    assert "ssl" not in settings["broker_url"]
    assert bool(settings["broker_use_ssl"]) is text.startswith("rediss")
    assert settings["broker_transport_options"]["socket_timeout"] == 5
    if "sentinel" in text:
        assert settings["broker_transport_options"]["master_name"] == "m"
        assert settings["broker_transport_options"]["sentinel_kwargs"]["socket_timeout"] == 5


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    """Whatever stands in the variable, the answer is an address or a message."""
    for written in (
        text,
        f"redis://{text}",
        f"unix://{text}",
        f"sentinel://{text}",
        f"rediss://u:{text}@h/0",
    ):
        try:
            celery_settings(RedisAddress.parse(written))
        except ConfigurationError as error:
            assert "Redis" in str(error)  # noqa: PT017  # both are fine


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_an_odd_password_works_or_is_explained(password: str) -> None:
    """A raw password is either taken as it was meant, or the message says how to write it."""
    address, said = None, ""
    try:
        address = RedisAddress.parse(f"redis://:{password}@localhost/0")
    except ConfigurationError as error:
        said = str(error)
    if address is None:
        assert "percent-encode" in said
    else:
        assert address.servers == (("localhost", 6379),)
        if "%" not in password:
            assert address.login == {"password": password}
